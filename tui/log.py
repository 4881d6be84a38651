"""The log of a job on the screen: follow, search the whole of it, only what matches, wrap, ranks and attempts, save."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.segment import Segment
from textual import events, on
from textual.app import ComposeResult
from textual.strip import Strip

from tui.export import free_path
from tui.guard import guard_of
from tui.job_row import JobRow
from tui.log_model import LogWindow, MatchWindow
from tui.log_reader import LogReader
from tui.log_rows import Gutter, header, painted, standing
from tui.log_view import LogView, Row
from tui.pane import Pane, Subject
from tui.prompt import Prompt
from tui.store import Dirty, Store
from tui.text import safe, size
from tui.theme import palette

WHEEL_ROWS = 3
CONTEXT_ROWS = 3  # shown above the match one goes to
NO_TERM = "search for something first: /"


class LogPane(Pane):
    """`open(job)` says whose log. What is not loaded yet comes while one reads; nothing here waits for it."""

    CONTEXT: ClassVar[str] = "log"
    DEFAULT_CSS = "LogPane { height: 1fr; }"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self._reader: LogReader | None = None
        self._view = LogView(LogWindow())
        self._gutter = Gutter()
        self._drawn: tuple[str, str, list[Row]] = ("", "", [])  # the line above, the one below, the rows between
        self._look: tuple[object, ...] = ()
        self._term = ""
        self._match: int | None = None  # offset of the match that was gone to
        self._fetching = False
        self._turn = 0  # of what keys asked for: the answer to an earlier one no longer moves anything

    def compose(self) -> ComposeResult:
        yield Prompt(placeholder="search the whole log")

    def open(self, job: str) -> None:
        """Shows the log of this job, from its end; nothing happens if it is shown already."""
        if self._reader is None or job != self._reader.job:
            self._term = ""
            self._begin(job)

    def on_mount(self) -> None:
        self.shown()

    def shown(self) -> None:
        self._pump()
        self._draw()
        self.refresh()

    def tick(self, dirty: Dirty) -> None:
        self._follow_attempts()
        self._pump()
        self._draw()

    def subject(self) -> Subject | None:
        return None if self._reader is None else Subject("job", self._reader.job)

    def crumbs(self) -> str:
        return "log" if self._reader is None else f"jobs > {self._reader.job} > log"

    def hint(self) -> str:
        """What is not on the screen: trouble, how far a search is, a newer attempt, what came below."""
        reader = self._reader
        if reader is None or reader.trouble:
            return "" if reader is None else reader.trouble
        if reader.searched:
            return f"/{safe(self._term)}: {reader.searched}"
        if self._newest() > (reader.attempt or 0) > 0 and reader.latest:
            return f"attempt {self._newest()} has begun: A shows it"
        rows = self._drawn[2] if self._view.source is reader.window else []
        below = reader.window.size - (rows[-1].line.offset + rows[-1].line.length) if rows else 0
        return f"{size(below)} more below; f follows" if not self._view.follow and below > 0 else ""

    def render_line(self, y: int) -> Strip:
        styles, (above, below, rows) = palette(self.app.theme), self._drawn
        if y == 0:
            return Strip([Segment(above, styles.title)])
        if y <= len(rows):
            row = rows[y - 1]
            return painted(row, self._view, self._gutter, self._term, row.line.offset == self._match, styles)
        return Strip([Segment(below, styles.dim)] if y == len(rows) + 1 else [])

    def on_resize(self) -> None:
        self._view.resize(self.size.width - self._gutter.width, self.size.height - 1)
        self._draw()

    # Moving

    def do_cursor_down(self) -> None:
        self._move(1)

    def do_cursor_up(self) -> None:
        self._move(-1)

    def do_half_down(self) -> None:
        self._move(self._view.height // 2)

    def do_half_up(self) -> None:
        self._move(-(self._view.height // 2))

    def do_page_down(self) -> None:
        self._move(self._view.height - 1)

    def do_page_up(self) -> None:
        self._move(1 - self._view.height)

    def do_first(self) -> None:
        self._turn += 1
        if self._reader is not None and self._view.source is self._reader.window and not self._reader.window.at_start:
            self.dashboard.work(self._show(self._reader, 0))
        self._view.home()
        self._moved()

    def do_last(self) -> None:
        self._turn += 1
        self._view.end()
        self._moved()

    def do_follow(self) -> None:
        if not self._view.follow:
            self.do_last()
        else:
            self._view.follow = False
            self._draw()

    def do_left(self) -> None:
        self._view.sideways(-1)
        self._moved()

    def do_right(self) -> None:
        self._view.sideways(1)
        self._moved()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._move(WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._move(-WHEEL_ROWS)

    # Searching

    def do_search(self) -> None:
        self.query_one(Prompt).ask()

    @on(Prompt.Answered)
    def _answered(self, event: Prompt.Answered) -> None:
        """A search; an empty one ends searching."""
        event.stop()
        self.focus()
        if event.text is not None and self._reader is not None:
            self._term, self._match = event.text, None
            self._search_in(self._reader)
            if self._term:
                self._seek(backwards=self._view.follow)
            self._draw()
            self.refresh()

    def do_close(self) -> None:
        """The search goes first, then the log."""
        if self._term and self._reader is not None:
            self._term, self._match = "", None
            self._search_in(self._reader)
            self._moved()
            self.refresh()
        else:
            self.dashboard.leave_pane()

    def do_next_match(self) -> None:
        self._seek(backwards=False)

    def do_previous_match(self) -> None:
        self._seek(backwards=True)

    def do_only_matches(self) -> None:
        reader = self._reader
        if reader is None or reader.matches is None:
            self.dashboard.say(NO_TERM, bad=True)
        elif self._view.source is reader.matches:
            self._turn += 1
            follow, offset = self._view.follow, self._view.offset
            self._view.look_at(reader.window)
            if not follow:
                self.dashboard.work(self._show(reader, offset))
            self._moved()
        else:
            self._view.look_at(reader.matches)
            self._moved()

    # What is shown, and how

    def do_wrap(self) -> None:
        self._view.wrap = not self._view.wrap
        self._view.left = 0
        self._view.settle()
        self._moved()

    def do_times(self) -> None:
        self._gutter = self._gutter._replace(times=not self._gutter.times)
        self.on_resize()

    def do_offsets(self) -> None:
        self._gutter = self._gutter._replace(offsets=not self._gutter.offsets)
        self.on_resize()

    def do_rank(self) -> None:
        reader = self._reader
        if reader is None or reader.ranks == 1:
            self.dashboard.say("this job runs on one node")
        else:
            self._begin(reader.job, None if reader.latest else reader.attempt, (reader.rank + 1) % reader.ranks)

    def do_attempt(self) -> None:
        """The attempt before this one; before the first comes the latest."""
        reader, newest = self._reader, self._newest()
        if reader is None or reader.attempt is None or newest == 1:
            self.dashboard.say("this job has had one attempt")
            return
        behind = reader.latest and newest > reader.attempt  # one has begun since
        earlier = newest if behind else reader.attempt - 1 or newest
        self._begin(reader.job, None if earlier == newest else earlier)

    def do_copy_id(self) -> None:
        """The line of the match that was gone to, if it is in sight; else the first on the screen."""
        lines = [row.line for row in self._drawn[2]]
        if lines:
            line = next((line for line in lines if line.offset == self._match), lines[0])
            self.dashboard.copy(line.head.decode("utf-8", "replace"))

    def do_export(self) -> None:
        if self._reader is None or not self._reader.known:
            self.dashboard.say("there is no log yet", bad=True)
        else:
            self.dashboard.work(self._save(self._reader))

    # Drawing

    def _move(self, rows: int) -> None:
        self._turn += 1
        self._view.move(rows)
        self._moved()

    def _moved(self) -> None:
        self._pump()
        guard_of(self.app).paint(self, self._draw)

    def _draw(self) -> None:
        """Paints what differs from what is on the screen."""
        reader = self._reader
        if reader is None:
            return
        row = self.store.jobs.get(reader.job)
        drawn = (
            header(reader, row, self._view, self.size.width),
            standing(reader, row, self._view),
            self._view.rows(),
        )
        look = (self._view.left, self._view.wrap, self._view.width, self._match, self._term)
        if (drawn, look) != (self._drawn, self._look):
            self._drawn, self._look = drawn, look
            self.refresh()

    # Fetching

    def _begin(self, job: str, attempt: int | None = None, rank: int = 0) -> None:
        """Another log: nothing of what was shown holds for it."""
        self._turn += 1
        self._match = None
        self._reader = LogReader(job, self.store.clock, self.store.now, attempt, rank)
        self._view.follow, self._view.left = True, 0
        self._view.look_at(self._reader.window)
        self._search_in(self._reader)
        if self.is_mounted:
            self.shown()

    def _search_in(self, reader: LogReader) -> None:
        only = reader.matches is not None and self._view.source is reader.matches
        reader.matches = MatchWindow(self._term) if self._term else None
        if only:
            self._view.look_at(reader.matches or reader.window)
        if self._term:
            self.dashboard.work(self._count(reader))

    def _follow_attempts(self) -> None:
        """Goes on to the next attempt, as `gpuq logs -f` does, once all of this one was shown."""
        reader = self._reader
        if reader is None or not reader.latest or reader.attempt is None or not self._view.follow:
            return
        if self._newest() > reader.attempt and reader.window.ended and reader.window.at_end:
            self._begin(reader.job, None, reader.rank)

    def _newest(self) -> int:
        """The number of the latest attempt, as far as is known."""
        if self._reader is None:
            return 1
        row: JobRow | None = self.store.jobs.get(self._reader.job)
        return max(1, self._reader.attempt or 0, row.attempt if row is not None else 0)

    def _pump(self) -> None:
        """Sees to it that what the view lacks is fetched, one request after the other."""
        if self._reader is not None and not self._fetching and self.store.link.state == "live":
            self._fetching = True
            self.dashboard.work(self._fetch(self._reader))

    async def _fetch(self, reader: LogReader) -> None:
        try:
            while reader is self._reader and await reader.fetch(self.dashboard.client, self._view):
                self._draw()
        finally:
            self._fetching = False
        if reader is self._reader:
            self._draw()
        else:
            self._pump()

    async def _count(self, reader: LogReader) -> None:
        """The first page of what matches, so that its number can be said."""
        await reader.collect(self.dashboard.client)
        self._draw()

    async def _show(self, reader: LogReader, offset: int, turn: int | None = None) -> None:
        turn = self._turn if turn is None else turn
        piece = await reader.around(self.dashboard.client, offset)
        if turn == self._turn and reader is self._reader:
            reader.open_at(piece, offset)
            self._view.go(offset, above=CONTEXT_ROWS)
            self._moved()

    def _seek(self, backwards: bool) -> None:
        reader = self._reader
        if reader is None or not self._term:
            self.dashboard.say(NO_TERM, bad=True)
            return
        self._turn += 1
        if self._view.follow:
            start = reader.window.size
        else:
            start = self._view.offset if self._match is None else self._match + (not backwards)
        self.dashboard.work(self._sought(reader, self._term, start, backwards, self._turn))

    async def _sought(self, reader: LogReader, term: str, start: int, backwards: bool, turn: int) -> None:
        client = self.dashboard.client
        found = await reader.find(client, term, start, backwards)
        round_the_end = found is None
        if round_the_end:
            found = await reader.find(client, term, reader.window.size if backwards else 0, backwards)
        if turn != self._turn or reader is not self._reader:
            return
        if found is None:
            self.dashboard.say(f"no '{safe(term)}' in the whole log", bad=True)
            return
        if round_the_end:
            self.dashboard.say(
                "none further up: on from the end" if backwards else "none further down: on from the top"
            )
        self._match = found
        if self._view.source is reader.window:
            await self._show(reader, found, turn)
        else:
            self._view.go(found, above=CONTEXT_ROWS)
            self._moved()

    async def _save(self, reader: LogReader) -> None:
        stem = f"job-{reader.job}" + ("" if reader.latest else f"-attempt{reader.attempt}")
        path = free_path(Path.cwd(), stem + (f"-rank{reader.rank}" if reader.ranks > 1 else ""), "log")

        def told(written: int, whole: int) -> None:
            self.dashboard.say(f"{path.name}: {size(written)} of {size(whole)}")

        written = await reader.save(self.dashboard.client, path, told)
        self.dashboard.say(f"saved {size(written)} as {path}")
