"""Finding text in log files of any size: block by block, a bounded number of bytes at a time.

Blocks are small, so that other threads get their turn between them: comparing bytes keeps the interpreter.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

BLOCK_BYTES = 1 << 20  # a longer line is searched, and found, in pieces of this size; no text is longer
BUDGET_BYTES = 32 << 20  # of one search: 30 to 60 ms
SHOWN_BYTES = 2_000  # of a line that was found


@dataclass(frozen=True, slots=True)
class Wanted:
    """A text without line ends, and how many lines with it are enough. ignore_case is about the letters A to Z."""

    text: bytes
    ignore_case: bool
    limit: int


class Found(NamedTuple):
    """Lines with where each begins, in the order of the search. Up to `reached` every line was searched.

    done: there is nothing beyond. Of a log that grows, a search may go on from `reached` when it has.
    """

    lines: list[tuple[int, bytes]]
    reached: int
    done: bool


def forwards(fd: int, size: int, wanted: Wanted, start: int) -> Found:
    """Searches the lines that begin at `start` or later, first to last."""
    found: list[tuple[int, bytes]] = []
    at = _line_from(fd, size, start)
    end = min(size, at + BUDGET_BYTES)
    while at < end:
        block = os.pread(fd, min(BLOCK_BYTES, size - at), at)
        whole = block.rfind(b"\n") + 1
        unfinished = not whole and at + len(block) == size  # the log's last line, which may still grow
        lines, stopped = _matches(block[: whole or len(block)], at, wanted, wanted.limit - len(found))
        found += lines
        if unfinished:
            return Found(found, at, done=True)
        if len(found) == wanted.limit:
            return Found(found, stopped, done=stopped == size)
        at += whole or len(block) - len(wanted.text) + 1
    return Found(found, at, done=at >= size)


def backwards(fd: int, size: int, wanted: Wanted, before: int) -> Found:
    """Searches the lines that begin before an offset, last to first."""
    found: list[tuple[int, bytes]] = []
    end = _line_from(fd, size, before)
    floor = max(0, end - BUDGET_BYTES)
    while end > floor:
        at = max(0, end - BLOCK_BYTES)
        block = os.pread(fd, end - at, at)
        first = block.find(b"\n", 0, len(block) - 1) + 1 if at else 0  # what is ahead of it is the end of another line
        lines, _ = _matches(block[first:], at + first, wanted, len(block))
        found += lines[::-1][: wanted.limit - len(found)]
        if len(found) == wanted.limit:
            return Found(found, found[-1][0], done=found[-1][0] == 0)
        end = at + first if first or not at else at + len(wanted.text) - 1
    return Found(found, end, done=end == 0)


def _line_from(fd: int, size: int, offset: int) -> int:
    """Where the first line begins that does at `offset` or later; the offset itself inside a line of many blocks."""
    if offset <= 0 or offset >= size:
        return min(max(offset, 0), size)
    block = os.pread(fd, min(BLOCK_BYTES, size - offset + 1), offset - 1)
    end = block.find(b"\n")
    if end >= 0:
        return offset + end
    return offset if len(block) == BLOCK_BYTES else size


def _matches(block: bytes, offset: int, wanted: Wanted, most: int) -> tuple[list[tuple[int, bytes]], int]:
    """The first lines of a block that hold the text, in order, and where the last of them ends."""
    text, within = (wanted.text.lower(), block.lower()) if wanted.ignore_case else (wanted.text, block)
    found: list[tuple[int, bytes]] = []
    end = 0
    while len(found) < most and (at := within.find(text, end)) >= 0:
        start = block.rfind(b"\n", end, at) + 1 or end
        end = block.find(b"\n", at) + 1 or len(block)
        found.append((offset + start, block[start : min(end, start + SHOWN_BYTES)].rstrip(b"\r\n")))
    return found, offset + end
