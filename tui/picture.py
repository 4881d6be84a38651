"""What the terminal shows, and the little that has to be sent so that it shows something else. Pure.

Textual sends whole lines, and the whole style with each piece of one: 4 KB a second when twenty rows count their
seconds, 7 KB for a page. What is sent from here is the cells that are others now, and of a style what is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from rich.cells import get_character_cell_size

_TOKEN = re.compile(
    r"\x1b\[(?P<row>\d+);(?P<column>\d+)H|\x1b\[(?P<style>[\d;]*)m|(?P<text>[^\x00-\x1f\x7f-\x9f]+)|(?P<end>\r?\n)"
)
# Modes, questions, the clipboard, the bell: what changes nothing that is shown. Another screen (1049) is another thing.
_UNSEEN = re.compile(r"(?:\x1b\[[?>=<](?!1049)[\d;$]*[a-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x07)*", re.IGNORECASE)
_INK, _GROUND = re.compile(r"[39]\d"), re.compile(r"4\d|10\d")
_GAP = 6  # cells that are sent again sooner than the cursor is moved over them: that takes 6 to 8 bytes


class Look(NamedTuple):
    """A style, as parameters of SGR; '' is what the terminal has of itself."""

    flags: str = ""  # bold, underlined, reverse ...
    ink: str = ""
    ground: str = ""


Cell = tuple[str, Look]
_PLAIN = Look()


class Picture:
    """Everything that goes to the terminal goes through `update`, in its order."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Cell | None]] = {}  # None: not known
        self._rest: tuple[int, int] | None = None  # where the cursor was left

    def forget(self) -> None:
        """Something else may have been drawn over it: what comes next is sent whole."""
        self._rows.clear()
        self._rest = None

    def update(self, frame: str) -> str:
        """What to send in place of a frame of Textual's; what is no frame is sent as it is."""
        runs = _runs(frame)
        if runs is None:
            if not _UNSEEN.fullmatch(frame):
                self.forget()
            return frame
        out: list[str] = []
        look = _PLAIN
        for row, column, cells in runs:
            for at, changed in self._changed(row, column, cells):
                out.append(f"\x1b[{row};{at}H")
                for text, wanted in _pieces(changed):
                    out.append(_sgr(look, wanted) + text)
                    look = wanted
        out.append(_sgr(look, _PLAIN))
        rest = runs[-1][:2] if runs and not runs[-1][2] else None  # a frame ends by putting the cursor somewhere
        if rest is not None and (len(out) > 1 or rest != self._rest):
            out.append(f"\x1b[{rest[0]};{rest[1]}H")
            self._rest = rest
        return "".join(out)

    def _changed(self, row: int, column: int, cells: Sequence[Cell]) -> Iterator[tuple[int, Sequence[Cell]]]:
        """The parts of a run of cells that are not shown yet, with their columns; from here on they are."""
        known = self._rows.setdefault(row, [])
        begin, end = column - 1, column - 1 + len(cells)
        if len(known) < end:
            known += [None] * (end - len(known))
        before = known[begin:end]
        if before == cells:
            return
        if not all(char.isascii() or get_character_cell_size(char) == 1 for char, _ in cells):
            known[begin:] = [None] * (len(known) - begin)  # terminals are not of one mind how far this reaches
            yield column, cells
            return
        known[begin:end] = cells
        first = last = -1
        for at, (old, new) in enumerate(zip(before, cells, strict=True)):
            if old == new:
                continue
            if first < 0:
                first = at
            elif at - last > _GAP:
                yield column + first, cells[first : last + 1]
                first = at
            last = at
        yield column + first, cells[first : last + 1]


def _runs(frame: str) -> list[tuple[int, int, list[Cell]]] | None:
    """A frame as rows, columns and the cells from there on; None if it is, or may be, anything else."""
    runs: list[tuple[int, int, list[Cell]]] = []
    cells: list[Cell] | None = None  # of the run that text belongs to
    look, end = _PLAIN, 0
    for found in _TOKEN.finditer(frame):
        if found.start() != end:
            return None
        end = found.end()
        kind = found.lastgroup
        if kind == "text":
            if cells is None:
                return None
            cells += [(char, look) for char in found["text"]]
        elif kind == "style":
            look = _styled(look, found["style"])
        elif kind == "column":
            cells = []
            runs.append((int(found["row"]), int(found["column"]), cells))
        else:
            cells = None
    return runs if end == len(frame) else None


def _pieces(cells: Sequence[Cell]) -> Iterator[tuple[str, Look]]:
    """Neighbours of one look, together."""
    text, look = "", cells[0][1]
    for char, own in cells:
        if own is not look and own != look:
            yield text, look
            text, look = "", own
        text += char
    yield text, look


@lru_cache(maxsize=1024)
def _styled(look: Look, parameters: str) -> Look:
    """A look after an SGR sequence."""
    flags, ink, ground = look
    codes = parameters.split(";")
    while codes:
        code = codes.pop(0)
        if code in ("38", "48"):
            length = 4 if codes[:1] == ["2"] else 2
            colour = ";".join([code, *codes[:length]])
            del codes[:length]
            ink, ground = (colour, ground) if code == "38" else (ink, colour)
        elif code in ("", "0"):
            flags, ink, ground = _PLAIN
        elif _INK.fullmatch(code):
            ink = "" if code == "39" else code
        elif _GROUND.fullmatch(code):
            ground = "" if code == "49" else code
        else:
            flags = f"{flags};{code}" if flags else code
    return Look(flags, ink, ground)


@lru_cache(maxsize=4096)
def _sgr(before: Look, after: Look) -> str:
    """What turns one look into another."""
    if before == after:
        return ""
    if before.flags != after.flags or after == _PLAIN:
        return f"\x1b[{';'.join(filter(None, ('0', *after)))}m" if after != _PLAIN else "\x1b[0m"
    parts = []
    if before.ink != after.ink:
        parts.append(after.ink or "39")
    if before.ground != after.ground:
        parts.append(after.ground or "49")
    return f"\x1b[{';'.join(parts)}m"
