"""The cluster's journal, the newest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tui.list_pane import ListPane
from tui.pane import Subject
from tui.store import Dirty, Store
from tui.table import Cell, Column
from tui.text import clock, safe, seconds_of
from tui.words import wanted

Event = Mapping[str, Any]

COLUMNS = (
    Column("at", "TIME", 8),
    Column("kind", "WHAT", 15),
    Column("job", "JOB", 10),
    Column("node", "NODE", 12, least=72),
    Column("user", "USER", 10, least=60),
    Column("text", "TEXT", 10, least=46, grow=1),
)
# What an event's colour repeats of its kind.
_ROLES = {
    "job.failed": "bad",
    "job.lost": "bad",
    "node.lost": "bad",
    "job.queued": "warn",
    "job.stopping": "warn",
    "job.preempted": "warn",
    "job.held": "held",
    "job.running": "good",
    "node.up": "good",
    "node.cordoned": "warn",
    "node.draining": "warn",
}


def time_of(event: Event) -> str:
    at = seconds_of(event["at"])
    return "" if at is None else clock(at)


def row(event: Event, columns: Sequence[Column]) -> list[Cell]:
    job = event["job"] or ""
    cells: Mapping[str, Cell] = {
        "at": (time_of(event), "dim"),
        "kind": (event["kind"], _ROLES.get(event["kind"], "")),
        "job": f"{job}.{event['attempt']}" if job and event["attempt"] else job,
        "node": event["node"] or "",
        "user": event["user"] or "",
        "text": event["text"],
    }
    return [cells[column.key] for column in columns]


def texts(event: Event) -> list[str | None]:
    """What a filter looks in."""
    return [event["kind"], event["job"], event["node"], event["user"], event["text"]]


def about(event: Event) -> Subject | None:
    """What it happened to."""
    if event["job"] is not None:
        return Subject("job", event["job"])
    return None if event["node"] is None else Subject("node", event["node"])


class EventRows:
    """The events that are listed, by id, the newest first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Event] = {}
        self.order: list[str] = []
        self.total = 0
        self.filter = ""

    def arrange(self) -> None:
        check = wanted(self.filter)
        self.total = len(self._store.events)
        self._known = {event["id"]: event for event in self._store.events if check is None or check(texts(event))}
        self.order = [*reversed(self._known)]

    def row(self, key: str, columns: Sequence[Column]) -> Sequence[Cell]:
        event = self._known.get(key)
        return [""] * len(columns) if event is None else row(event, columns)

    def record(self, key: str) -> Event:
        return self._known.get(key, {})


class Events(ListPane):
    CONTEXT = "events"
    NOUN = "event"
    FIELDS = ("id", "at", "kind", "job", "attempt", "node", "user", "text")

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, EventRows(store), COLUMNS, id=id)

    def tick(self, dirty: Dirty) -> None:
        if not (dirty.events or dirty.all):
            return
        on_top = self.table.at == 0  # who looks at the newest goes on looking at the newest
        self.arrange_rows()
        if on_top and self.rows.order:
            self.table.select(self.rows.order[0])
        self.table.update()

    def nothing_yet(self) -> list[str]:
        return ["Nothing has happened yet."]

    def subject(self) -> Subject | None:
        """What the event under the cursor is about."""
        event = self._event()
        return about(event) if event else None

    def hint(self) -> str:
        event = self._event()
        return safe(f"{event['at']}  {event['kind']}  {event['text']}") if event else ""

    def open_row(self, key: str) -> None:
        """Opens what the event is about."""
        subject = self.subject()
        if subject is None:
            self.dashboard.say("this event is about no job and no node")
        elif subject.kind == "job":
            self.dashboard.open_job(subject.id)
        else:
            self.dashboard.open_node(subject.id)

    def _event(self) -> Event:
        """Under the cursor; empty if there is none."""
        return self.rows.record(self.table.key or "")
