"""A command on a pseudo-terminal of the test's own: keys in, what it shows out, and the terminal afterwards."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.cluster import DEADLINE_SECONDS, Cluster


class Keyboard:
    """Of one process, which leads a session on a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int, theirs: int) -> None:
        self.process, self._fd, self._theirs = process, terminal, theirs
        self.before = termios.tcgetattr(theirs)
        self.seen = b""  # and not looked for yet

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was before anything ran on it."""
        return termios.tcgetattr(self._theirs) == self.before

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def shows(self, text: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Waits until this is shown, and looks on behind it."""
        deadline = time.monotonic() + seconds
        wanted = text.encode()
        while wanted not in self.seen:
            assert time.monotonic() < deadline, (text, self.seen)
            self._read(0.1)
        self.seen = self.seen.partition(wanted)[2]

    def ends(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Its exit status, once it has ended; `seen` is all that was shown until then."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        data = os.read(self._fd, 1 << 16)
        self.seen += data
        return bool(data)


@contextmanager
def keyboard(cluster: Cluster, *arguments: str) -> Iterator[Keyboard]:
    """A command of gpuq's at a terminal of 30 x 100."""
    terminal, theirs = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    process = subprocess.Popen(
        ["setsid", "--ctty", *cluster.command(*arguments)],
        env=cluster.environment(TERM="xterm", PS1="$ ", SHELL="/bin/sh"),
        cwd=cluster.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        yield Keyboard(process, terminal, theirs)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(terminal)
        os.close(theirs)
