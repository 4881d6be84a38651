"""A pane of lines: some name a subject and can have the cursor, all scroll, and only lines that changed are painted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.strip import Strip

from tui.guard import guard_of
from tui.pane import Pane, Subject
from tui.store import Dirty, Store
from tui.text import cell_width, clip
from tui.theme import palette

_GUTTER = 1  # '>' beside the line under the cursor
Span = str | tuple[str, str]  # text, or text and the role it is painted in (theme.Palette)


class Line(NamedTuple):
    """One line; who makes it has made its texts safe. subject: what Enter opens there."""

    spans: tuple[Span, ...] = ()
    subject: Subject | None = None


BLANK = Line()


def line(*spans: Span, subject: Subject | None = None) -> Line:
    return Line(spans, subject)


def heading(text: str, more: str = "") -> Line:
    return Line(((text, "bold"), (f"  {more}" if more else "", "dim")))


def plain(shown: Line) -> str:
    return "".join(span if isinstance(span, str) else span[0] for span in shown.spans)


class LinePane(Pane):
    """Draws what `lines` gives. The cursor stays with its subject when lines come and go."""

    DEFAULT_CSS = "LinePane { height: 1fr; }"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self._lines: list[Line] = []
        self._cursor: int | None = None  # index of a line with a subject; None: there is none
        self._top = 0

    def lines(self, width: int) -> list[Line]:
        """All of them, as of now, in `width` cells."""
        raise NotImplementedError

    def begin(self) -> None:
        """Back to the top: it is about something else now."""
        self._lines, self._cursor, self._top = [], None, 0

    def redraw(self) -> None:
        """Makes the lines anew and paints those that differ."""
        if not self.size.width:
            return  # not laid out yet
        before, top, cursor = self._lines, self._top, self._cursor
        under = None if cursor is None else self._lines[cursor].subject
        self._lines = self.lines(self.size.width - _GUTTER)
        self._cursor = self._find(under)
        self._top = self._bounded(top)
        self._paint(before, top, cursor)

    def shown(self) -> None:
        self.redraw()
        self.refresh()

    def tick(self, dirty: Dirty) -> None:
        self.redraw()

    def under_cursor(self) -> Subject | None:
        """What Enter opens; None where that is out of sight: nobody acts on what he does not see."""
        if self._cursor is None or not self._top <= self._cursor < self._top + self.size.height:
            return None
        return self._lines[self._cursor].subject

    def subject(self) -> Subject | None:
        return self.under_cursor()

    def render_line(self, y: int) -> Strip:
        styles, at = palette(self.app.theme), self._top + y
        if at >= len(self._lines):
            return Strip([])
        under = (styles.cursor if self.has_focus else styles.blurred) if at == self._cursor else None
        gutter = ">" if at == self._cursor else " "  # a sign too: colour alone is not seen by all
        segments, left = [Segment(gutter, under or styles.text)], self.size.width - _GUTTER
        for span in self._lines[at].spans:
            text, role = (span, "") if isinstance(span, str) else span
            text = clip(text, left)
            segments.append(Segment(text, under or styles.role(role)))
            left -= cell_width(text)
        strip = Strip(segments)
        return strip.adjust_cell_length(self.size.width, under) if under else strip

    # Moving

    def do_cursor_down(self) -> None:
        self._step(1)

    def do_cursor_up(self) -> None:
        self._step(-1)

    def do_half_down(self) -> None:
        self._jump(self.size.height // 2)

    def do_half_up(self) -> None:
        self._jump(-(self.size.height // 2))

    def do_page_down(self) -> None:
        self._jump(self.size.height - 1)

    def do_page_up(self) -> None:
        self._jump(1 - self.size.height)

    def do_first(self) -> None:
        self._to(0, next(self._subjects(), None))

    def do_last(self) -> None:
        self._to(len(self._lines), next(self._subjects(reverse=True), None))

    def _step(self, way: int) -> None:
        """To the next line with a subject; over what has none, one line at a time, so that all of it is read."""
        height, cursor = self.size.height, self._cursor
        ahead = self._subjects(reverse=way < 0)
        target = next((at for at in ahead if cursor is None or (at - cursor) * way > 0), None)
        if target is not None and self._top <= target < self._top + height:
            self._to(self._top, target)
        elif target is not None and self._top - 1 <= target <= self._top + height:
            self._to(self._top + way, target)
        else:
            self._to(self._top + way, cursor)

    def _jump(self, by: int) -> None:
        """Scrolls, and takes the cursor along as far as there are lines for it."""
        top = self._bounded(self._top + by)
        if top == self._top:
            self._to(top, next(self._subjects(reverse=by > 0), None))
            return
        wanted = (top if self._cursor is None else self._cursor) + top - self._top
        seen = [at for at in self._subjects() if top <= at < top + self.size.height]
        self._to(top, min(seen, key=lambda at: abs(at - wanted), default=self._cursor))

    def _bounded(self, top: int) -> int:
        return max(0, min(top, len(self._lines) - self.size.height))

    def _to(self, top: int, cursor: int | None) -> None:
        old_top, old_cursor = self._top, self._cursor
        self._top, self._cursor = self._bounded(top), cursor
        self._paint(self._lines, old_top, old_cursor)

    def _subjects(self, reverse: bool = False) -> Iterator[int]:
        indices = range(len(self._lines))
        return (at for at in (reversed(indices) if reverse else indices) if self._lines[at].subject is not None)

    def _find(self, subject: Subject | None) -> int | None:
        """The line of a subject, the nearest to where it was; else the nearest line with any."""
        near = self._cursor or 0
        every = list(self._subjects())
        same = [at for at in every if self._lines[at].subject == subject]
        return min(same or every, key=lambda at: abs(at - near), default=None)

    def _paint(self, before: Sequence[Line], old_top: int, old_cursor: int | None) -> None:
        """Paints what differs from what was shown."""
        if self._top != old_top:
            guard_of(self.app).paint(self, self._paint_all)
            return
        moved = {old_cursor, self._cursor} if old_cursor != self._cursor else set()
        dirty = [
            Region(0, at - self._top, self.size.width, 1)
            for at in range(self._top, self._top + self.size.height)
            if at in moved or before[at : at + 1] != self._lines[at : at + 1]
        ]
        if dirty:
            self.refresh(*dirty)

    def _paint_all(self) -> None:
        self.refresh()

    def on_resize(self) -> None:
        self.redraw()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    # Mouse

    def on_click(self, event: events.Click) -> None:
        """Puts the cursor there; a second click opens."""
        at = self._top + event.y
        if at < len(self._lines) and self._lines[at].subject is not None:
            if at == self._cursor:
                self.do_open()
            else:
                self._to(self._top, at)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._to(self._top + 3, self._cursor)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._to(self._top - 3, self._cursor)

    def do_open(self) -> None:
        """Opens what is under the cursor."""
        subject = self.under_cursor()
        if subject is None:
            return
        if subject.kind == "job":
            self.dashboard.open_job(subject.id)
        elif subject.kind == "node":
            self.dashboard.open_node(subject.id)
        elif subject.kind == "queue":
            self.dashboard.open_view("jobs", filter=f"queue={subject.id}")

    def do_describe(self) -> None:
        self.do_open()

    def do_copy_id(self) -> None:
        if (subject := self.subject()) is not None:
            self.dashboard.copy(subject.id)

    def record(self) -> Any:
        """All that is known of its subject, as the API gives it; None for nothing."""
        return None

    def do_copy_record(self) -> None:
        if (record := self.record()) is not None:
            self.dashboard.copy(json.dumps(record, ensure_ascii=False, indent=1))
