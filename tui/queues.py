"""The queues: how many jobs run and wait in each, why they wait, and how many GPUs they hold."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tui.list_pane import ListPane
from tui.pane import Subject
from tui.spark import bar
from tui.store import Dirty, Store
from tui.table import Cell, Column
from tui.tally import QueueTally
from tui.text import UNKNOWN, seconds_of, span
from tui.words import wanted

OLDEST_SECONDS = 5.0  # between two walks over all jobs for the one that waits longest: 10 ms for 100,000
_BAR = 12

COLUMNS = (
    Column("queue", "QUEUE", 12, grow=1),
    Column("active", "ACTIVE", 7, right=True),
    Column("queued", "QUEUED", 8, right=True),
    Column("used", "GPUS", 6, right=True, least=46),
    Column("share", "OF ALL GPUS", _BAR, least=110),
    Column("wanted", "WANTED", 8, right=True, least=60),
    Column("oldest", "WAITS", 6, right=True, least=52),
    Column("reasons", "WHY THEY WAIT", 16, least=80, grow=3),
)


_REASONS = {
    "held": "held",
    "dependency": "dependency",
    "begin": "begin time",
    "backoff": "back-off",
    "no_nodes": "no node",
    "account": "no account",
    "too_large": "never fits",
    "resources": "resources",
    "behind": "behind others",
    "array_limit": "array limit",
    "quota": "quota",
    "reserved": "room kept",
    "preempting": "room being made",
    "placing": "starting",
    "unsaid": "rest of arrays",
}


def waiting_by_reason(tally: QueueTally) -> str:
    """'8,790 resources, 12 held': those that wait, the commonest reason first."""
    ordered = sorted(((n, code) for code, n in tally.reasons.items() if n > 0), reverse=True)
    return ", ".join(f"{n:,} {_REASONS.get(code, code)}" for n, code in ordered)


def oldest_waiting(store: Store) -> dict[str, str]:
    """When the job that waits longest was submitted, by queue."""
    oldest: dict[str, str] = {}
    for row in store.jobs.values():
        if row.state == "QUEUED" and row.submitted_at < oldest.get(row.queue, "~"):
            oldest[row.queue] = row.submitted_at
    return oldest


def row(
    name: str, tally: QueueTally, gpus: int, since: str | None, columns: Sequence[Column], now: float
) -> list[Cell]:
    """gpus: of the whole cluster. since: when the one that waits longest was submitted."""
    begun = seconds_of(since)
    waited = "-" if not tally.queued else span(None if begun is None else now - begun)
    cells: Mapping[str, Cell] = {
        "queue": name,
        "active": f"{tally.active:,}",
        "queued": f"{tally.queued:,}",
        "used": f"{tally.gpus_used:,}",
        "share": bar(tally.gpus_used / gpus if gpus else None, _BAR),
        "wanted": f"{tally.gpus_wanted:,}",
        "oldest": waited if waited != UNKNOWN else (waited, "dim"),
        "reasons": (waiting_by_reason(tally), "dim"),
    }
    return [cells[column.key] for column in columns]


class QueueRows:
    """The queues that have a live job: those that hold the most GPUs first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.order: list[str] = []
        self.total = 0
        self.oldest: dict[str, str] = {}  # oldest_waiting, as of the last look
        self.filter = ""

    def arrange(self) -> None:
        queues, check = self._store.tally.queues, wanted(self.filter)
        live = [name for name, tally in queues.items() if tally.active or tally.queued]
        self.total = len(live)
        found = [name for name in live if check is None or check([name])]
        self.order = sorted(found, key=lambda name: (-queues[name].gpus_used, -queues[name].queued, name))

    def row(self, key: str, columns: Sequence[Column]) -> Sequence[Cell]:
        tally = self._store.tally.queues.get(key) or QueueTally()
        gpus = sum(len(node["gpus"]) for node in self._store.nodes.values())
        return row(key, tally, gpus, self.oldest.get(key), columns, self._store.now())

    def record(self, key: str) -> Mapping[str, Any]:
        tally = self._store.tally.queues.get(key)
        if tally is None:
            return {}
        return {
            "queue": key,
            "active": tally.active,
            "queued": tally.queued,
            "gpus_used": tally.gpus_used,
            "gpus_wanted": tally.gpus_wanted,
            "oldest_submitted_at": self.oldest.get(key),
            "reasons": {code: n for code, n in tally.reasons.items() if n},
        }


class Queues(ListPane):
    CONTEXT = "queues"
    NOUN = "queue"
    FIELDS = ("queue", "active", "queued", "gpus_used", "gpus_wanted", "oldest_submitted_at", "reasons")

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        self._queue_rows = QueueRows(store)
        super().__init__(store, self._queue_rows, COLUMNS, id=id)
        self._looked_at = float("-inf")

    def shown(self) -> None:
        self._look()
        super().shown()

    def tick(self, dirty: Dirty) -> None:
        if dirty:
            if self.store.clock() - self._looked_at >= OLDEST_SECONDS:
                self._look()
            self.arrange_rows()
        self.table.update()

    def _look(self) -> None:
        self._looked_at = self.store.clock()
        self._queue_rows.oldest = oldest_waiting(self.store)

    def nothing_yet(self) -> list[str]:
        return ["No job waits or runs. s submits one."]

    def subject(self) -> Subject | None:
        return None if self.table.key is None else Subject("queue", self.table.key)

    def hint(self) -> str:
        return "" if self.table.key is None else "Enter lists its jobs"

    def open_row(self, key: str) -> None:
        self.dashboard.open_view("jobs", filter=f"queue={shlex.quote(key)}")
