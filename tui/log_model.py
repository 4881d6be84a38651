"""The loaded part of a log: lines by byte offset, in a window of bounded size that moves over a file of any size.

Pure. The window says which bytes it lacks (`before`, `after`) and takes them (`open`, `take`); log.py fetches them.
Only the controller has the whole log; so a position is always a byte offset, and never a line's number.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from tui.text import safe

CHUNK_BYTES = 256 << 10  # of one request: 3,000 lines of a training log, some milliseconds to take apart
KEPT_BYTES = 8 << 20  # what lines may hold in memory
KEPT_LINES = 50_000
SHOWN_BYTES = 4 << 10  # of one line: a megabyte of JSON without a line end must cost no more than any other line
TAB_CELLS = 8
# Colours and line erasing, which every progress bar writes: meant for another terminal, and no loss.
_DRESSING = re.compile(r"\x1b\[[0-9;:]*[mK]")


class Ask(NamedTuple):
    """Bytes to fetch; a negative offset counts from the end."""

    offset: int
    limit: int


class Line(NamedTuple):
    """One line of the log. Of what carriage returns overwrote, as progress bars do, only the last state is kept."""

    offset: int
    length: int  # bytes in the file, line end included
    head: bytes  # of the last state, at most SHOWN_BYTES
    cut: int = 0  # bytes of that state behind `head`
    states: int = 0  # earlier states, overwritten
    whole: bool = True  # False: it began before `offset`, further back than one request reaches
    arrived: float | None = None  # wall time at which it was seen to arrive; None if it was there before


def text_of(line: Line) -> str:
    """What is shown of a line: safe text in one row, with what is left out of it said in words."""
    begins = "" if line.whole else "[begins earlier] "
    ends = f" [+{line.cut:,} bytes]" if line.cut else ""
    return begins + _shown(line.head, bool(line.cut)) + ends


@lru_cache(maxsize=2048)  # some screens of lines: each paint asks for the same ones again
def _shown(head: bytes, cut: bool) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    plain = decoder.decode(head, final=not cut)  # a cut may go through a character
    return safe(_DRESSING.sub("", plain).expandtabs(TAB_CELLS))


class LogWindow:
    """Lines of one stretch of the file without gaps, from `start` to `end`, the last of them perhaps unfinished."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.start = self.end = 0
        self.size = 0  # bytes the controller has
        self.ended = False  # nothing will be added
        self._open: _Fold | None = None  # the unfinished last line, which is lines[-1] too
        self._held = 0

    @property
    def at_start(self) -> bool:
        return self.start == 0

    @property
    def at_end(self) -> bool:
        return self.end >= self.size

    def told(self, size: int, ended: bool) -> None:
        """How long the log is. It only grows: an answer that was overtaken by a later one is ignored."""
        self.size = max(self.size, size)
        self.ended = self.ended or ended

    def before(self) -> Ask | None:
        """The bytes in front of the window, None at the beginning of the log."""
        offset = max(0, self.start - CHUNK_BYTES)
        return Ask(offset, self.start - offset) if self.start else None

    def after(self) -> Ask | None:
        """The bytes behind the window, None when there are none yet."""
        return None if self.at_end else Ask(self.end, CHUNK_BYTES)

    def open(self, offset: int, data: bytes, exact: bool = False) -> None:
        """Forget all, and begin with these bytes. exact: a line begins at `offset`; else one is looked for."""
        self.lines, self._open, self._held = [], None, 0
        begins = offset == 0 or exact
        skipped = 0 if begins else data.find(b"\n") + 1
        if skipped == len(data):
            skipped = 0  # only the end of one line: better than nothing
        self.start = self.end = offset + skipped
        self._append(data[skipped:], None, whole=begins or skipped > 0)

    def take(self, offset: int, data: bytes, arrived: float | None = None) -> bool:
        """Bytes that join the window at one of its ends; False for any others, which were asked for by an older one."""
        if not data:
            return False
        if offset == self.end:
            self._append(data, arrived)
            self._trim_front()
            return True
        if offset < self.start == offset + len(data):
            self._prepend(offset, data)
            self._trim_back()
            return True
        return False

    def index_at(self, offset: int) -> int:
        """Index of the line that holds this byte, or of the nearest there is; 0 when nothing is loaded."""
        return max(0, bisect_right(self.lines, offset, key=_offset_of) - 1)

    def _append(self, data: bytes, arrived: float | None, whole: bool = True) -> None:
        if self._open is not None:
            self._held -= len(self.lines.pop().head)
        fold = self._open or _Fold(self.end, arrived, whole)
        *finished, rest = data.split(b"\n")
        for piece in finished:
            fold.feed(piece)
            self._add(fold.line(1))
            fold = _Fold(fold.offset + fold.length + 1, arrived)
        fold.feed(rest)
        self._open = fold if fold.length else None
        if self._open is not None:
            self._add(fold.line(0))
        self.end += len(data)

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self._held += len(line.head)

    def _prepend(self, offset: int, data: bytes) -> None:
        skipped = data.find(b"\n") + 1 if offset else 0
        if skipped == len(data):
            skipped = 0
        found = list(_lines(offset + skipped, data[skipped:], whole=not offset or skipped > 0))
        self.lines[:0] = found
        self._held += sum(len(line.head) for line in found)
        self.start = offset + skipped

    def _trim_front(self) -> None:
        gone = self._beyond(self.lines)
        if gone:
            self._held -= sum(len(line.head) for line in self.lines[:gone])
            del self.lines[:gone]
            self.start = self.lines[0].offset

    def _trim_back(self) -> None:
        gone = self._beyond(reversed(self.lines))
        if gone:
            self._held -= sum(len(line.head) for line in self.lines[-gone:])
            del self.lines[-gone:]
            self.end = self.lines[-1].offset + self.lines[-1].length
            self._open = None

    def _beyond(self, lines: Iterable[Line]) -> int:
        """How many lines, counted in this order, must go to keep the bounds."""
        surplus, held, gone = len(self.lines) - KEPT_LINES, self._held, 0
        if surplus <= 0 and held <= KEPT_BYTES:
            return 0
        for line in lines:
            if gone >= surplus and held <= KEPT_BYTES:
                break
            held -= len(line.head)
            gone += 1
        return min(gone, len(self.lines) - 1)


class MatchWindow:
    """The lines that hold a text, as far as the controller has looked through the log for them, from its beginning."""

    def __init__(self, term: str) -> None:
        self.term = term
        self.lines: list[Line] = []
        self.searched_to = 0  # where the search goes on: the beginning of a last line that may still grow
        self.size = 0
        self._through = -1  # the size of the log when all of it had been looked through

    @property
    def at_end(self) -> bool:
        """Whether all of the log was looked through, as long as it was then."""
        return self._through >= self.size

    @property
    def full(self) -> bool:
        return len(self.lines) >= KEPT_LINES

    def take(self, matches: Iterable[tuple[int, str]], searched_to: int, size: int, done: bool) -> None:
        """Further matches, in order. One that is there already, its line unfinished then, is replaced."""
        for offset, text in matches:
            while self.lines and self.lines[-1].offset >= offset:
                self.lines.pop()
            if not self.full:
                self.lines.append(next(_lines(offset, text.encode("utf-8", "surrogateescape"))))
        self.searched_to, self.size = searched_to, size
        self._through = size if done else -1

    def index_at(self, offset: int) -> int:
        return max(0, bisect_right(self.lines, offset, key=_offset_of) - 1)


class _Fold:
    """A line as it comes in pieces: the last state of it, however long what was overwritten is."""

    def __init__(self, offset: int, arrived: float | None, whole: bool = True) -> None:
        self.offset, self.length = offset, 0
        self._arrived, self._whole = arrived, whole
        self._head, self._cut, self._states = b"", 0, 0
        self._returned = False  # a carriage return came: what follows overwrites

    def feed(self, piece: bytes) -> None:
        self.length += len(piece)
        for n, state in enumerate(piece.split(b"\r")):
            self._returned = self._returned or n > 0
            if state:
                self._write(state)

    def _write(self, text: bytes) -> None:
        if self._returned:
            self._returned = False
            self._states += bool(self._head)
            self._head, self._cut = b"", 0
        room = SHOWN_BYTES - len(self._head)
        self._head += text[:room]
        self._cut += max(0, len(text) - room)

    def line(self, end: int) -> Line:
        """As it is now; end: bytes of its line end."""
        length = self.length + end
        return Line(self.offset, length, self._head, self._cut, self._states, self._whole, self._arrived)


def _lines(offset: int, data: bytes, whole: bool = True) -> Iterator[Line]:
    """Lines of bytes that were there before; an unfinished last one goes on in what is loaded already."""
    pieces = data.split(b"\n")
    last = len(pieces) - 1
    for n, piece in enumerate(pieces):
        if piece or n < last or not n:
            fold = _Fold(offset, None, whole)
            fold.feed(piece)
            line = fold.line(int(n < last))
            yield line
            offset, whole = offset + line.length, True


def _offset_of(line: Line) -> int:
    return line.offset
