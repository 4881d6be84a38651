"""A program on a pseudo-terminal: keys in, bytes out, and how long they took."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from typing import NamedTuple

QUIET_SECONDS = 0.04  # without a byte for so long, what a key set off is over; a tick of the clock comes much later
_READ = 1 << 16


class Response(NamedTuple):
    """What came after a key: ms until the last byte, and how many there were."""

    ms: float
    size: int


class Screen:
    """The text that a terminal shows. Without colours, and as far as the dashboard needs it: text and where it goes."""

    _TOKEN = re.compile(
        r"\x1b\[(\d+);(\d+)H|\x1b\[[?>=<]?[\d;$]*[a-zA-Z]|\x1b\][^\x07]*\x07|([^\x00-\x1f]+)|[\r\n\x07]"
    )

    def __init__(self, columns: int, rows: int) -> None:
        self._rows = [[" "] * columns for _ in range(rows)]
        self._row = self._column = 0
        self._decode = getincrementaldecoder("utf-8")()
        self._left = ""  # the beginning of a sequence whose end has not come yet

    def write(self, data: bytes) -> None:
        text, end = self._left + self._decode.decode(data), 0
        while (found := self._TOKEN.match(text, end)) is not None:
            end = found.end()
            if found[1]:
                self._row, self._column = int(found[1]) - 1, int(found[2]) - 1
            elif found[3]:
                self._rows[self._row][self._column : self._column + len(found[3])] = found[3]
                self._column += len(found[3])
        self._left = text[end:]

    def shows(self, text: str) -> bool:
        return any(text in "".join(row) for row in self._rows)


class Terminal:
    """A terminal of a fixed size with one program in it. It answers no queries, as a slow or simple one would not."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], columns: int, rows: int) -> None:
        self.screen = Screen(columns, rows)
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
            piece = os.read(self._fd, _READ)
        except OSError:  # EIO: nobody has the other end any more
            return b""
        self.screen.write(piece)
        return piece

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

    def press(self, keys: str, marker: str = "") -> Response:
        """Types the keys and reads what they set off, see `answer`."""
        began = time.perf_counter()
        self.type(keys)
        return self.answer(began, marker)

    def answer(self, began: float, marker: str = "", seconds: float = 10.0) -> Response:
        """Reads until the marker is on the screen, or anything came if there is none, and a quiet moment after it.

        began: of perf_counter. Raises TimeoutError.
        """
        size, last = 0, began
        while True:
            done = bool(size) and self.screen.shows(marker)
            piece = self.read(QUIET_SECONDS if done else 0.1)
            if piece:
                size += len(piece)
                last = time.perf_counter()
            elif done:
                return Response((last - began) * 1e3, size)
            elif time.perf_counter() - began > seconds or self.process.poll() is not None:
                raise TimeoutError(f"no {marker!r} on the screen in {seconds} s")

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
                self.screen.write(piece)
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
