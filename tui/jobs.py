"""The list of jobs: filtered, sorted, marked, with why each waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from textual import on
from textual.app import ComposeResult

from gpuq.errors import GpuqError
from tui import columns
from tui.export import free_path, rendered, write_new
from tui.filters import parse
from tui.job_row import JobRow
from tui.order import JobOrder
from tui.pane import Pane, Subject
from tui.store import Dirty, Store
from tui.table import Cell, Column, ModelTable
from tui.text import duration, reason_text, safe, seconds_of
from tui.title import Bar, Span

REASONS_SECONDS = 5.0  # between two askings why the queued jobs in view wait
_MOST_ASKED = 100
_SORT_KEYS = {
    "i": "id", "s": "state", "n": "name", "u": "user", "q": "queue", "g": "gpu",
    "t": "time", "w": "where", "p": "priority", "a": "attempt", "d": "submitted",
}  # fmt: skip


class JobRows:
    """The rows as the table asks for them."""

    def __init__(self, store: Store, order: JobOrder) -> None:
        self._store, self._order = store, order

    @property
    def order(self) -> Sequence[str]:
        return self._order.keys

    def row(self, key: str, shown: Sequence[Column]) -> Sequence[Cell]:
        row = self._store.jobs.get(key)
        return columns.gone(key, shown) if row is None else columns.cells(row, shown, self._store.now())


class Jobs(Pane, can_focus=False):
    CONTEXT = "jobs"
    DEFAULT_CSS = "Jobs { layout: vertical; width: 1fr; height: 1fr; }"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self.filter = ""
        self._order = JobOrder(store)
        store.watch(self._order.note)  # while it is hidden too: 100,000 jobs are not sorted anew when it is shown again
        self.table = ModelTable(JobRows(store, self._order), columns.JOB_COLUMNS, sort_keys=_SORT_KEYS)
        self._about = Bar()
        self._reasons_at = float("-inf")

    def compose(self) -> ComposeResult:
        yield self._about
        yield self.table

    # As the dashboard sees it

    def shown(self) -> None:
        self._order.choose(self._order.choice)  # whatever came meanwhile takes its place now
        self._arrange()
        self.table.redraw()

    def tick(self, dirty: Dirty) -> None:
        self._arrange()
        self._ask_reasons()

    def subject(self) -> Subject | None:
        return None if self.table.key is None else Subject("job", self.table.key)

    def marked(self) -> list[str]:
        return self.table.marked()

    def crumbs(self) -> str:
        return f"jobs > {safe(self.filter)}" if self.filter else "jobs"

    def hint(self) -> str:
        """Why the job under the cursor waits, how it ended, or for how long it may run on."""
        row = self._row()
        if row is None:
            return ""
        name = f"{row.id} {safe(row.name)}"
        if row.state == "QUEUED":
            return f"{name}: {safe(reason_text(row.reason))}" if row.reason else f"{name} waits"
        if row.finished_at is not None:
            how = safe(columns.how_it_ended(row))
            return f"{name}: {how}" if row.state == "SUCCEEDED" else f"{name} {row.state.lower()}: {how}"
        started = seconds_of(row.started_at)
        if started is None:
            return f"{name} is {row.state.lower()}"
        ran = self.store.now() - started
        limit = row.time_limit_seconds
        left = "no time limit" if limit is None else f"{duration(limit - ran)} left of {duration(limit)}"
        return f"{name} runs for {duration(ran)}, {left}"

    def set_filter(self, text: str) -> str:
        """Shows what matches; gives what of the text cannot be read."""
        parsed = parse(text, self.store.now())
        self.filter = text
        self._choose(filter=parsed)
        return parsed.said

    # Actions

    def do_open(self) -> None:
        if self.table.key is not None:
            self.dashboard.open_job(self.table.key)

    def do_describe(self) -> None:
        self.do_open()

    def do_reverse(self) -> None:
        self._choose(down=not self._order.choice.down)

    def do_mine(self) -> None:
        self._choose(user=self.store.you.user if self._order.choice.user is None else None)

    def do_all_states(self) -> None:
        self._choose(everything=not self._order.choice.everything)

    def do_copy_id(self) -> None:
        ids = self.marked() or ([self.table.key] if self.table.key else [])
        if ids:
            self.dashboard.copy(" ".join(ids))

    def do_copy_record(self) -> None:
        rows = self._rows(self.marked() or ([self.table.key] if self.table.key else []))
        if rows:
            self.dashboard.copy(rendered(JobRow._fields, rows, "json"))

    def do_export(self) -> None:
        """Saves the marked rows, else all that are shown, beside where gpuq was started."""
        rows = self._rows(self.marked() or self._order.keys)
        path = free_path(Path.cwd(), f"gpuq-jobs-{time.strftime('%Y%m%d-%H%M%S')}", "csv")
        write_new(path, rendered(JobRow._fields, rows, "csv"))
        self.dashboard.say(f"saved {len(rows):,} rows as {path}")

    # What the table says

    @on(ModelTable.Moved)
    def _moved(self) -> None:
        self._order.hold(self.store.clock())

    @on(ModelTable.Marked)
    def _marked(self) -> None:
        self._tell()

    @on(ModelTable.Opened)
    def _opened(self) -> None:
        self.do_open()

    @on(ModelTable.Sorted)
    def _sorted(self, event: ModelTable.Sorted) -> None:
        down = event.column == self._order.choice.column and not self._order.choice.down
        self._choose(column=event.column, down=down)

    # Within

    def _choose(self, **changes: object) -> None:
        self._order.choose(replace(self._order.choice, **changes))  # type: ignore[arg-type]
        self._arrange()

    def _arrange(self) -> None:
        if self._order.arrange(self.store.clock(), self.store.now()):
            self.table.sorted_by = self._order.choice.column, self._order.choice.down
            self.table.empty = self._nothing()
        self.table.update()
        self._tell()

    def _nothing(self) -> list[str]:
        """What is said where there are no rows."""
        if not self.store.loaded:
            return ["waiting for the controller"]
        if not self.filter and self._order.choice.user is None:
            if self._order.choice.everything or not self.store.jobs:
                return ["No jobs. s submits one; gpuq history has what ended more than a day ago."]
            return ["Nothing waits or runs. a shows what ended in the last 24 hours, s submits a job."]
        hidden = len(self.store.jobs)
        lines = [f"None of {hidden:,} jobs matches."]
        if self.filter:
            lines.append("Words are of id, name, user, node. Else state=failed, gpu>4, reason~quota.")
        others = ["Esc clears the filter"] if self.filter else []
        others += ["m shows everybody's"] if self._order.choice.user is not None else []
        others += ["a shows all of the last 24 hours"] if not self._order.choice.everything else []
        return [*lines, f"{'; '.join(others)}." if others else ""]

    def _tell(self) -> None:
        choice, marked = self._order.choice, len(self.marked())
        spans: list[Span] = [
            (f" {len(self._order.keys):,}", "bold"),
            (f" of {len(self.store.jobs):,} jobs{' (more are coming)' if self.store.partial else ''}  ", "dim"),
        ]
        if choice.filter.said:  # all else gives way: it is why the rows are not those that were wanted
            spans.append((choice.filter.said, "bad"))
        else:
            spans += [
                "with all that ended in 24 h" if choice.everything else "live, and ended in the last hour",
                *([("  mine", "key")] if choice.user is not None else []),
                *([(f"  /{safe(self.filter)}", "key")] if self.filter else []),
            ]
        self._about.show(spans, [(f"{marked:,} marked ", "mark")] if marked else [])

    def _row(self) -> JobRow | None:
        return None if self.table.key is None else self.store.jobs.get(self.table.key)

    def _rows(self, ids: Sequence[str]) -> list[JobRow]:
        return [self.store.jobs[id] for id in ids if id in self.store.jobs]

    def _ask_reasons(self) -> None:
        """A queued job's reason changes with the others' fate; of those in view it is asked again now and then."""
        now = self.store.clock()
        if self.store.link.state != "live" or now - self._reasons_at < REASONS_SECONDS:
            return
        rows = self._rows(self.table.visible_keys())
        ids = [row.id for row in rows if row.state == "QUEUED"][:_MOST_ASKED]
        if ids:
            self._reasons_at = now
            self.dashboard.work(self._fetch_reasons(ids))

    async def _fetch_reasons(self, ids: Sequence[str]) -> None:
        with suppress(GpuqError):  # the feed says when the controller is away; this is asked again in a moment
            page = await self.dashboard.client.get("/jobs", {"ids": ",".join(ids), "fields": "id,state,reason"})
            self.store.set_reasons((id, reason) for id, state, reason in page["rows"] if state == "QUEUED")
