"""A program on a pseudo-terminal: keys in, bytes out, and how long they took."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

QUIET_SECONDS = 0.04  # without a byte for so long, what a key set off is over; a tick of the clock comes much later
_READ = 1 << 16


class Response(NamedTuple):
    """What came after a key: ms until the last byte, and how many there were."""

    ms: float
    size: int


class Terminal:
    """A terminal of a fixed size with one program in it. It answers no queries, as a slow or simple one would not."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], columns: int, rows: int) -> None:
        self._fd, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(environ), start_new_session=True
        )
        os.close(theirs)

    def close(self) -> None:
        """Ends the program as a closed window does."""
        self.process.send_signal(signal.SIGHUP)
        while self.process.poll() is None:  # its last words must be read, or it waits for room to write them
            self.read(0.1)
        os.close(self._fd)

    def read(self, seconds: float) -> bytes:
        """The bytes there are, after waiting at most so long for the first."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return b""
        try:
            return os.read(self._fd, _READ)
        except OSError:  # EIO: nobody has the other end any more
            return b""

    def settle(self, quiet: float = 0.12, seconds: float = 10.0) -> None:
        """Reads until nothing has come for a while."""
        deadline = time.perf_counter() + seconds
        while self.read(quiet) and time.perf_counter() < deadline:
            pass

    def drain(self, seconds: float) -> int:
        """Reads for so long; gives the number of bytes."""
        size, deadline = 0, time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            size += len(self.read(left))
        return size

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def press(self, keys: str, marker: bytes = b"") -> Response:
        """Types the keys and reads what they set off, see `answer`."""
        began = time.perf_counter()
        self.type(keys)
        return self.answer(began, marker)

    def answer(self, began: float, marker: bytes = b"", seconds: float = 10.0) -> Response:
        """Reads until the marker, or anything if there is none, has been written and a quiet moment came after it.

        began: of perf_counter. Raises TimeoutError.
        """
        seen, last = b"", began
        while True:
            done = bool(seen) and marker in seen
            piece = self.read(QUIET_SECONDS if done else 0.1)
            if piece:
                seen += piece
                last = time.perf_counter()
            elif done:
                return Response((last - began) * 1e3, len(seen))
            elif time.perf_counter() - began > seconds or self.process.poll() is not None:
                raise TimeoutError(f"no {marker!r} in {seconds} s; last: {seen[-400:]!r}")

    def hold(self, key: str, per_second: int, seconds: float, bytes_per_second: int) -> float:
        """Holds a key down while reading no faster than a slow link would.

        Gives the seconds from its release until all has been drawn.
        """
        began = time.perf_counter()
        typed, taken, last, empty_since = 0, 0, began, None
        while True:
            now = time.perf_counter()
            while typed < min(now - began, seconds) * per_second:
                self.type(key)
                typed += 1
            allowed = int((now - began) * bytes_per_second) - taken
            piece = b""
            if allowed > 0 and select.select([self._fd], [], [], 0.005)[0]:
                piece = os.read(self._fd, min(allowed, 2048))
                taken += len(piece)
                last = time.perf_counter()
                empty_since = None
            elif allowed > 0:
                empty_since = empty_since or now
                taken = max(taken, int((now - began) * bytes_per_second) - 2048)  # an idle link saves up nothing
            else:
                time.sleep(0.002)
            if now - began > seconds and empty_since is not None and now - empty_since > 0.25:
                return max(0.0, last - began - seconds)
