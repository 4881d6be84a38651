"""Which rows of a log are on the screen: moving, following, wrapping and going sideways. Pure.

A position is the offset of a line and a row of it: indices shift whenever the loaded window grows or moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from tui.log_model import Line, LogWindow, MatchWindow, text_of
from tui.text import cell_width

MARGIN_ROWS = 200  # lines kept loaded beyond what is shown: a held Page Down meets them before it meets the network
SIDE_CELLS = 16  # of one step sideways


class Row(NamedTuple):
    """One row of the screen: a part of a line; number 0 is its first."""

    line: Line
    text: str
    number: int


class LogView:
    """A window of `height` rows over the lines that are loaded."""

    def __init__(self, source: LogWindow | MatchWindow) -> None:
        self.source = source
        self.width, self.height = 80, 24
        self.follow = True  # stays at the end; any move upwards ends it
        self.wrap = False
        self.left = 0  # cells hidden at the left, without wrap
        self._offset = 0  # of the top line
        self._row = 0

    @property
    def offset(self) -> int:
        """Byte offset of the first line shown."""
        return self._offset

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = max(1, width), max(1, height)
        self.settle()

    def look_at(self, source: LogWindow | MatchWindow) -> None:
        """Other lines of the same log, as near as possible to what was shown."""
        self.source = source
        self.settle()

    def go(self, offset: int, above: int = 0) -> None:
        """The line at this offset becomes the one `above` rows below the top."""
        self.follow = False
        index = self.source.index_at(offset)
        self._put(index, 0)
        self._put(*self._moved(-above))
        self.settle()

    def move(self, rows: int) -> None:
        """Down, or up if negative. A downward move that meets the end of the log does not start following."""
        if rows < 0:
            self.follow = False
        if self.source.lines:
            self._put(*self._moved(rows))
        self.settle()

    def home(self) -> None:
        self.follow = False
        self._put(0, 0)

    def end(self) -> None:
        self.follow = True
        self.settle()

    def sideways(self, steps: int) -> None:
        self.left = max(0, self.left + steps * SIDE_CELLS)

    def settle(self) -> None:
        """After lines came or went: at the end if it follows, and never so far down that rows stay empty."""
        if not self.source.lines:
            self._offset = self._row = 0
            return
        last = self._lowest()
        self._put(*(last if self.follow else min(self._place(), last)))

    def rows(self) -> list[Row]:
        """What is on the screen, from the top; fewer than `height` when the log is short."""
        rows: list[Row] = []
        if not self.source.lines:
            return rows
        index, skipped = self._place()
        while index < len(self.source.lines) and len(rows) < self.height:
            line = self.source.lines[index]
            parts = self._parts(line)
            rows += [Row(line, parts[n], n) for n in range(skipped, len(parts))]
            index, skipped = index + 1, 0
        return rows[: self.height]

    def near_start(self) -> bool:
        """Whether lines in front of the loaded ones may soon be shown."""
        return self._place()[0] < MARGIN_ROWS

    def near_end(self) -> bool:
        return self._place()[0] + self.height + MARGIN_ROWS > len(self.source.lines)

    def share(self) -> float:
        """How far down the log the top line is, from 0 to 1."""
        return min(1.0, self._offset / self.source.size) if self.source.size else 1.0

    def _place(self) -> tuple[int, int]:
        """(index, row) of the top. Where its line went, the nearest."""
        index = self.source.index_at(self._offset)
        if not self.source.lines or self.source.lines[index].offset != self._offset:
            return index, 0
        return index, min(self._row, self._count(index) - 1)

    def _put(self, index: int, row: int) -> None:
        if self.source.lines:
            self._offset, self._row = self.source.lines[index].offset, row

    def _moved(self, rows: int) -> tuple[int, int]:
        index, row = self._place()
        row += rows
        while row < 0 and index > 0:
            index -= 1
            row += self._count(index)
        while index < len(self.source.lines) - 1 and row >= (count := self._count(index)):
            row -= count
            index += 1
        return index, max(0, min(row, self._count(index) - 1))

    def _lowest(self) -> tuple[int, int]:
        """The place from which the last row of the log is the last of the screen."""
        index, row = len(self.source.lines), 0
        missing = self.height
        while index > 0 and missing > 0:
            index -= 1
            count = self._count(index)
            row = max(0, count - missing)
            missing -= count
        return index, row

    def _count(self, index: int) -> int:
        return len(self._parts(self.source.lines[index])) if self.wrap else 1

    def _parts(self, line: Line) -> Sequence[str]:
        text = text_of(line)
        return wrapped(text, self.width) if self.wrap else (text,)


@lru_cache(maxsize=4096)  # the rows of some screens: scrolling asks for each of them again and again
def wrapped(text: str, width: int) -> tuple[str, ...]:
    """The text in rows of at most `width` cells; a character wider than that has a row of its own."""
    if text.isascii():
        return tuple(text[at : at + width] for at in range(0, len(text), width)) or ("",)
    rows, row, used = [], "", 0
    for character in text:
        cells = cell_width(character)
        if row and used + cells > width:
            rows.append(row)
            row, used = "", 0
        row, used = row + character, used + cells
    return (*rows, row)
