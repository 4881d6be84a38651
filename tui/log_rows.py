"""How the rows of a log look: gutter, text with its matches, the line above them and the one below. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.job_row import JobRow
from tui.log_reader import LogReader, ignores_case
from tui.log_view import LogView, Row
from tui.text import cell_width, clip, clock, pad, reason_text, safe, size
from tui.theme import Palette

TIME_CELLS = 9  # '05:53:12 '
OFFSET_CELLS = 15  # '1,234,567,890  '
_GAP = "  "


class Gutter(NamedTuple):
    """What stands in front of each line."""

    times: bool = False  # when it arrived, of lines that came while one looked
    offsets: bool = False  # where in the file it begins

    @property
    def width(self) -> int:
        return TIME_CELLS * self.times + OFFSET_CELLS * self.offsets

    def text(self, row: Row) -> str:
        if row.number:
            return " " * self.width
        arrived = row.line.arrived
        time = pad("" if arrived is None else clock(arrived), TIME_CELLS) if self.times else ""
        return time + (f"{row.line.offset:>{OFFSET_CELLS - 2},}  " if self.offsets else "")


def painted(row: Row, view: LogView, gutter: Gutter, term: str, here: bool, styles: Palette) -> Strip:
    """One row of the log. here: it is the match that was gone to."""
    text = clip(_from_cell(row.text, 0 if view.wrap else view.left), view.width)
    plain = styles.bold if here else styles.text
    parts = [Segment(gutter.text(row), styles.dim)] if gutter.width else []
    parts += [Segment(part, styles.cursor if matches else plain) for part, matches in split_at(text, term)]
    if row.line.states and not row.number:
        parts += _folded(row.line.states, view.width - cell_width(text), styles.dim)
    return Strip(parts)


def split_at(text: str, term: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, and whether each is the term."""
    if not term:
        yield text, False
        return
    place = 0
    for match in re.finditer(re.escape(term), text, re.IGNORECASE if ignores_case(term) else 0):
        yield text[place : match.start()], False
        yield match[0], True
        place = match.end()
    yield text[place:], False


def _folded(states: int, room: int, style: Style) -> list[Segment]:
    """Says where only the last state of a progress bar is shown, if there is room to."""
    said = f"{_GAP}({states:,} earlier states)"
    return [Segment(said, style)] if len(said) <= room else []


def _from_cell(text: str, cells: int) -> str:
    """The text without its first cells; of a wide character that is cut through, a space stays."""
    if not cells or text.isascii():
        return text[cells:]
    used = 0
    for place, character in enumerate(text):
        if used >= cells:
            return " " * (used - cells) + text[place:]
        used += cell_width(character)
    return " " * max(0, used - cells)


def header(reader: LogReader, row: JobRow | None, view: LogView, width: int) -> str:
    """The line above: whose log, which attempt and rank, and how it is shown. What matters most is cut last."""
    right = _states(reader, view)
    while len(right) > 1 and len(_GAP.join(right)) > width * 2 // 3:
        right.pop(0)
    end = _GAP.join(right) + " "
    return pad(f" {_GAP.join(_whose(reader, row))}", max(0, width - len(end) - 1)) + " " + end


def _whose(reader: LogReader, row: JobRow | None) -> list[str]:
    parts = [f"{reader.job} {safe(row.name) if row is not None else ''}".rstrip()]
    if reader.ranks > 1:
        on = ""
        if row is not None and reader.latest and reader.rank < len(row.nodes):
            on = f" on {safe(row.nodes[reader.rank]['node'])}"
        parts.append(f"rank {reader.rank} of {reader.ranks}{on}")
    attempts = max(reader.attempt or 0, row.attempt if row is not None else 0)
    if attempts > 1 and reader.attempt is not None:
        parts.append(f"attempt {reader.attempt} of {attempts}")
    return parts


def _states(reader: LogReader, view: LogView) -> list[str]:
    parts = []
    if reader.matches is not None:
        parts.append(f"{'only ' if view.source is reader.matches else ''}/{clip(safe(reader.matches.term), 20)}")
        found = len(reader.matches.lines)
        if found or reader.matches.at_end:  # of a log that is searched still, none so far says nothing
            parts.append(f"{found:,}{'' if reader.matches.at_end else '+'} {'match' if found == 1 else 'matches'}")
    if view.wrap:
        parts.append("wrap")
    elif view.left:
        parts.append(f"from column {view.left + 1}")
    parts.append(size(reader.window.size))
    at_end = "END" if reader.window.ended and reader.window.at_end else "FOLLOW"
    parts.append(at_end if view.follow else f"{view.share():.0%}")
    return parts


def standing(reader: LogReader, row: JobRow | None, view: LogView) -> str:
    """The line below the last: whether this is all there is, and what is still to come."""
    if not reader.known:
        return _not_begun(row) if row is not None and row.elements is not None else reader.trouble or _not_begun(row)
    if view.source is reader.matches and reader.matches is not None:
        if not reader.matches.at_end:
            return "-- more lines may match: they are looked for"
        return "" if reader.matches.lines else f"-- no line holds '{safe(reader.matches.term)}'"
    if not reader.window.at_end:
        return "-- more is being fetched"
    whole = size(reader.window.size)
    if reader.window.ended:
        return f"-- end of the log, {whole}" if reader.window.size else "-- the job has written nothing"
    if row is not None and row.state == "LOST":
        return f"-- {whole} so far; its node is silent: more may come when it returns"
    if row is not None and row.finished_at is not None:
        return f"-- {whole} so far; the job has ended, and the rest of its log is on its way"
    return f"-- {whole} so far"


def _not_begun(row: JobRow | None) -> str:
    if row is not None and row.elements is not None:
        return f"-- each element has a log of its own: :log {row.id}_0, or Enter and l on one"
    if row is None or row.state != "QUEUED":
        return "-- its log is being fetched"
    return f"-- it has not started yet: {safe(reason_text(row.reason)) if row.reason is not None else 'it waits'}"
