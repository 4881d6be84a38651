"""Lines of a detail: a label and its value, and tables as wide as their cells. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tui.line_pane import Line, Span, line
from tui.pane import Subject
from tui.text import cell_width, clip, pad, safe

LABEL_CELLS = 12
_MOST_LINES = 12  # of one value: a command of 10 KB must not bury the rest


def field(label: str, value: str, width: int, role: str = "", subject: Subject | None = None) -> Iterator[Line]:
    """The value behind its label, made safe, and folded into as many lines as it takes."""
    room = max(8, width - LABEL_CELLS)
    pieces = list(_folded(safe(value), room))
    if len(pieces) > _MOST_LINES:
        pieces = [*pieces[:_MOST_LINES], clip(f"... and {len(pieces) - _MOST_LINES} more lines", room)]
    for at, piece in enumerate(pieces or [""]):
        yield line((pad(label if at == 0 else "", LABEL_CELLS), "dim"), (piece, role), subject=subject)


def _folded(text: str, width: int) -> Iterator[str]:
    """At blanks where there are any within the line."""
    while cell_width(text) > width:
        fits = max(1, len(clip(text, width + 1)) - 1)
        blank = text.rfind(" ", width // 2, fits + 1)
        cut = blank if blank > 0 else fits
        yield text[:cut]
        text = text[cut:].lstrip(" ")
    if text:
        yield text


class Row(NamedTuple):
    cells: Sequence[Span]  # not yet made safe
    subject: Subject | None = None


def table(titles: Sequence[str], rows: Iterable[Row], width: int, right: Sequence[str] = ()) -> Iterator[Line]:
    """Columns as wide as their widest cell; the last takes what is left, and what does not fit is cut."""
    shown = [Row([_safe(cell) for cell in row.cells], row.subject) for row in rows]
    widths = [max(cell_width(_text(row.cells[at])) for row in [Row(titles), *shown]) for at in range(len(titles))]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    while excess > 0 and max(widths[:-1]) > 8:  # the widest gives first
        widest = widths.index(max(widths))
        widths[widest] -= 1
        excess -= 1
    yield line(*_cells([(title, "dim") for title in titles], titles, widths, right))
    for row in shown:
        yield line(*_cells(row.cells, titles, widths, right), subject=row.subject)


def _cells(cells: Sequence[Span], titles: Sequence[str], widths: Sequence[int], right: Sequence[str]) -> Iterator[Span]:
    last = len(cells) - 1
    for at, (cell, title, width) in enumerate(zip(cells, titles, widths, strict=True)):
        text, role = (cell, "") if isinstance(cell, str) else cell
        if at == last and title not in right:
            yield clip(text, width), role
        else:
            yield pad(text, width, title in right) + ("" if at == last else "  "), role


def _safe(cell: Span) -> Span:
    return safe(cell) if isinstance(cell, str) else (safe(cell[0]), cell[1])


def _text(cell: Span) -> str:
    return cell if isinstance(cell, str) else cell[0]
