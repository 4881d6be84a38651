"""The lines of a table as they are painted: titles, and rows of cells. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.text import pad, safe
from tui.theme import Palette

Cell = str | tuple[str, str]  # text, or text and the name of a style in theme.Palette
GUTTER = 2  # cells: '>' of the cursor, '*' of a mark
PLACE_CELLS = len(" 100,000/100,000 ")  # at the end of the titles: which row of how many has the cursor


class Column(NamedTuple):
    """Widths are in cells, and fixed: to measure 100,000 rows takes seconds, and columns that move cannot be read."""

    key: str
    title: str
    width: int
    right: bool = False
    least: int = 0  # the width of the table from which on it is shown
    grow: int = 0  # its share of what is left over


class Line(NamedTuple):
    """What a line shows; two that are equal look the same."""

    key: str
    cells: Sequence[Cell]
    cursor: bool
    marked: bool


def title_strip(
    columns: Sequence[Column], sorted_by: tuple[str, bool] | None, place: str, width: int, styles: Palette
) -> Strip:
    """sorted_by: a column, and whether downwards; place: shown at the right end if there is room."""
    titles = [" " * (GUTTER - 1)]
    for column in columns:
        title = column.title
        if sorted_by is not None and sorted_by[0] == column.key:
            title += "v" if sorted_by[1] else "^"
        titles.append(" " + pad(title, column.width, column.right))
    text = "".join(titles).rstrip()[:width]
    room = width - len(text)
    return Strip([Segment(text + (place.rjust(room) if len(place) <= room else " " * room), styles.header)])


def row_strip(columns: Sequence[Column], line: Line, focused: bool, width: int, styles: Palette) -> Strip:
    """One row; neighbours of one style become one segment, since a change of style costs 20 bytes and more."""
    base = (styles.cursor if focused else styles.blurred) if line.cursor else None
    gutter = (">" if line.cursor else " ") + ("*" if line.marked else " ")
    pieces: list[tuple[str, Style]] = [(gutter, base or (styles.mark if line.marked else styles.text))]
    for column, cell in zip(columns, line.cells, strict=True):
        text, role = (cell, "") if isinstance(cell, str) else cell
        style = base or styles.role(role or ("bold" if line.marked else ""))
        pieces.append((pad(safe(text), column.width, column.right) + " ", style))
    strip = Strip(list(_joined(pieces)))
    return strip.adjust_cell_length(width, base) if base or strip.cell_length > width else strip


def _joined(pieces: Sequence[tuple[str, Style]]) -> Iterator[Segment]:
    held, of = "", pieces[0][1]
    for text, style in pieces:
        if style is of or text.isspace():  # blanks look the same in all styles of one ground
            held += text
            continue
        yield Segment(held, of)
        held, of = text, style
    yield Segment(held, of)
