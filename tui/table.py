"""A list of any length: draws the rows that are seen, and of these only what differs from what is on the screen.

Textual's own table holds and measures every row: 11 s for 100,000. This one asks its `Rows` for the 50 in view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, cast

from rich.segment import Segment
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tui.guard import guard_of
from tui.pane import Dashboard
from tui.strips import GUTTER, PLACE_CELLS, Line, row_strip, title_strip
from tui.strips import Cell as Cell
from tui.strips import Column as Column
from tui.text import clip
from tui.theme import palette

_WHEEL_ROWS = 3


class Rows(Protocol):
    """What a table shows."""

    @property
    def order(self) -> Sequence[str]:
        """The keys of all rows, from top to bottom."""

    def row(self, key: str, columns: Sequence[Column]) -> Sequence[Cell]:
        """One cell for each of the columns; text need not be safe. The key may be of a row that has just gone."""


class ModelTable(Widget, can_focus=True):
    """The cursor follows its row's key when the order changes.

    Its owner calls `update` when rows may have changed, and `set_columns`, `sorted_by`, `empty` as it likes.
    """

    DEFAULT_CSS = "ModelTable { width: 1fr; height: 1fr; }"

    class Moved(Message):
        """The cursor is on another row."""

    class Marked(Message):
        """Marks came or went."""

    class Opened(Message):
        """A row was clicked twice."""

    class Sorted(Message):
        """A column was chosen to sort by: its title was clicked, or its letter typed."""

        def __init__(self, column: str) -> None:
            super().__init__()
            self.column = column

    def __init__(
        self,
        rows: Rows,
        columns: Sequence[Column],
        *,
        sort_keys: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        """sort_keys: the letters that choose a column to sort by, after `o`."""
        super().__init__(id=id)
        self.rows = rows
        self.marks: set[str] = set()
        self.empty: Sequence[str] = ()  # lines that are shown when there are no rows
        self.sorted_by: tuple[str, bool] | None = None  # column, and whether downwards
        self.wide = False  # columns that the width would hide are shown, and moved sideways to
        self._sort_keys = sort_keys or {}
        self._sorting = False  # the next key is one of them
        self._all_columns = columns
        self._columns: list[Column] = []
        self._laid_for: Size | None = None  # the columns are chosen for this size
        self._skipped = 0  # columns scrolled out on the left, behind the first
        self._key: str | None = None
        self._at = 0  # the cursor's row
        self._aimed = False  # somebody has moved the cursor; until then it is on the first row, whatever that is
        self._top = 0
        self._titles = self._told()
        self._lines: list[Line] = []  # what is on the screen
        self._range_from: str | None = None  # the row marked last

    # What is where

    @property
    def key(self) -> str | None:
        """Of the row under the cursor."""
        return self._key

    @property
    def at(self) -> int:
        """The number of the row under the cursor, from 0."""
        return self._at

    @property
    def columns(self) -> Sequence[Column]:
        """Those shown at present, with the widths they have."""
        return self._columns

    def marked(self) -> list[str]:
        """The marked keys that are shown, in their order."""
        return [key for key in self.rows.order if key in self.marks] if self.marks else []

    def visible_keys(self) -> Sequence[str]:
        return self.rows.order[self._top : self._top + self._page]

    @property
    def _page(self) -> int:
        return max(1, self.size.height - 1)

    # What its owner tells it

    def set_columns(self, columns: Sequence[Column]) -> None:
        self._all_columns = columns
        self._lay_out()

    def update(self) -> None:
        """Rows may have changed, come, gone or moved: paints what differs, when the terminal is ready for it."""
        self._follow()
        guard_of(self.app).paint(self, self._paint)

    def redraw(self) -> None:
        """Colours or titles have changed: paints all."""
        self._lay_out()

    def select(self, key: str) -> bool:
        """Puts the cursor on a row; False if there is none."""
        if key not in self.rows.order:
            return False
        self._go(self.rows.order.index(key))
        return True

    def clear_marks(self) -> bool:
        """Whether there were any."""
        had = bool(self.marks)
        self.marks.clear()
        self._range_from = None
        self._marks_changed()
        return had

    def drop_marks(self, keys: Iterable[str]) -> None:
        self.marks.difference_update(keys)
        self._marks_changed()

    # Actions

    def do_cursor_down(self) -> None:
        self._go(self._at + 1)

    def do_cursor_up(self) -> None:
        self._go(self._at - 1)

    def do_first(self) -> None:
        self._go(0)

    def do_last(self) -> None:
        self._go(len(self.rows.order) - 1)

    def do_page_down(self) -> None:
        self._go(self._at + self._page, self._page)

    def do_page_up(self) -> None:
        self._go(self._at - self._page, -self._page)

    def do_half_down(self) -> None:
        self._go(self._at + self._page // 2, self._page // 2)

    def do_half_up(self) -> None:
        self._go(self._at - self._page // 2, -(self._page // 2))

    def do_left(self) -> None:
        self._skip(self._skipped - 1)

    def do_right(self) -> None:
        if self._overflows():
            self._skip(self._skipped + 1)

    def do_wide(self) -> None:
        self.wide = not self.wide
        self._skip(0)

    def do_mark(self) -> None:
        if self._key is None:
            return
        self.marks ^= {self._key}
        self._range_from = self._key
        self._marks_changed()
        self._go(self._at + 1)

    def do_mark_range(self) -> None:
        order = self.rows.order
        if self._key is None:
            return
        begin = order.index(self._range_from) if self._range_from in order else self._at
        first, last = sorted((begin, self._at))
        self.marks.update(order[first : last + 1])
        self._range_from = self._key
        self._marks_changed()

    def do_mark_all(self) -> None:
        """Marks every row, or none if all were marked."""
        order = set(self.rows.order)
        self.marks = set() if order <= self.marks else self.marks | order
        self._marks_changed()

    def do_sort(self) -> None:
        self._sorting = bool(self._sort_keys)
        choice = "  ".join(f"{key} {column}" for key, column in self._sort_keys.items())
        cast(Dashboard, self.app).say(f"sort by: {choice}" if choice else "this list cannot be sorted")

    def on_key(self, event: events.Key) -> None:
        """Takes the letter after `o`; any other key is what it always is."""
        if self._sorting:
            self._sorting = False
            if (column := self._sort_keys.get(event.key)) is not None:
                event.stop()
                event.prevent_default()
                self.post_message(self.Sorted(column))

    # Moving

    def _go(self, at: int, scroll: int = 0) -> None:
        """Puts the cursor on a row, as far as there are any; the page scrolls by so much, and as far as it must."""
        order = self.rows.order
        at = max(0, min(at, len(order) - 1))
        before = self._key
        self._at, self._key, self._aimed = at, order[at] if order else None, True
        self._top += scroll
        self._keep_in_view()
        if self._key != before:
            self.post_message(self.Moved())
        guard_of(self.app).paint(self, self._paint)

    def _keep_in_view(self) -> None:
        length, page = len(self.rows.order), self._page
        self._top = max(self._at - page + 1, min(self._top, self._at))
        self._top = max(0, min(self._top, length - page))

    def _follow(self) -> None:
        """Finds the cursor's row in the present order; if it has gone, the row that is now in its place."""
        order = self.rows.order
        if self._at < len(order) and order[self._at] == self._key:
            self._keep_in_view()
            return
        before = self._key
        if self._aimed and before is not None and before in order:
            moved = order.index(before) - self._at
            self._at += moved
            self._top += moved  # so that it stays where the eye is
        else:
            self._at = max(0, min(self._at, len(order) - 1))
            self._key = order[self._at] if order else None
        self._keep_in_view()
        if self._key != before:
            self.post_message(self.Moved())

    def _skip(self, columns: int) -> None:
        self._skipped = max(0, min(columns, len(self._all_columns) - 2))
        self._lay_out()

    def _overflows(self) -> bool:
        return sum(column.width + 1 for column in self._columns) + GUTTER - 1 > self.size.width

    def _marks_changed(self) -> None:
        self.post_message(self.Marked())
        self.update()

    # Drawing

    def _lay_out(self) -> None:
        """Draws all anew, with the columns there is room for."""
        self._choose_columns()
        self.refresh()

    def _choose_columns(self) -> None:
        self._laid_for = self.size
        width = self.size.width
        shown = [c for c in self._all_columns if self.wide or c.least <= width]
        shown = shown[:1] + shown[1 + self._skipped :]
        left = width - GUTTER + 1 - sum(column.width + 1 for column in shown)
        shares = sum(column.grow for column in shown)
        for at, column in enumerate(shown):
            if left > 0 and column.grow:
                more = left * column.grow // shares
                left, shares = left - more, shares - column.grow
                shown[at] = column._replace(width=column.width + more)
        self._columns = shown
        self._follow()
        self._lines, self._titles = list(self._wanted()), self._told()

    def _told(self) -> tuple[object, ...]:
        """What the line of titles says."""
        return self.sorted_by, self._at, len(self.rows.order)

    def _wanted(self) -> Iterator[Line]:
        order, columns = self.rows.order, self._columns
        for at in range(self._top, min(self._top + self._page, len(order))):
            key = order[at]
            yield Line(key, self.rows.row(key, columns), at == self._at, key in self.marks)

    def _paint(self) -> None:
        before, self._lines = self._lines, list(self._wanted())
        if not before or not self._lines:
            self.refresh()
            return
        dirty = [
            Region(0, y + 1, self.size.width, 1)
            for y in range(max(len(before), len(self._lines)))
            if y >= len(before) or y >= len(self._lines) or before[y] != self._lines[y]
        ]
        before_titles, self._titles = self._titles, self._told()
        if before_titles != self._titles:
            only_place = before_titles[0] == self._titles[0]
            begin = max(0, self.size.width - PLACE_CELLS) if only_place else 0
            dirty.append(Region(begin, 0, self.size.width - begin, 1))
        if dirty:
            self.refresh(*dirty)

    def render_line(self, y: int) -> Strip:
        if self._laid_for != self.size:  # it is drawn before it is told of its size: one frame in place of two
            self._choose_columns()
        styles = palette(self.app.theme)
        if y == 0:
            place = f" {self._at + 1:,}/{len(self.rows.order):,} " if self.rows.order else ""
            return title_strip(self._columns, self.sorted_by, place, self.size.width, styles)
        if y <= len(self._lines):
            return row_strip(self._columns, self._lines[y - 1], self.has_focus, self.size.width, styles)
        if not self._lines and 2 <= y < 2 + len(self.empty):
            return Strip([Segment(clip(f"  {self.empty[y - 2]}", self.size.width), styles.dim)])
        return Strip([])

    # What happens to it

    def on_resize(self) -> None:
        if self._laid_for != self.size:
            self._lay_out()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._go(self._at + _WHEEL_ROWS, _WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._go(self._at - _WHEEL_ROWS, -_WHEEL_ROWS)

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            column = self._column_at(event.x)
            if column is not None:
                self.post_message(self.Sorted(column.key))
            return
        at = self._top + event.y - 1
        if at < len(self.rows.order):
            self._go(at)
            if event.chain == 2:
                self.post_message(self.Opened())

    def _column_at(self, x: int) -> Column | None:
        begin = GUTTER
        for column in self._columns:
            begin += column.width + 1
            if x < begin:
                return column
        return None
