"""The journal of the cluster. An event's id is its place in it: later events have greater ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, NamedTuple

from gpuq.changes import AddEvent
from gpuq.model import JobId, NodeName
from gpuq.store.columns import ELEMENT_BITS, element_index, job_id, job_key, plain_text
from gpuq.store.moment import one_moment

_COLUMNS = "id, at, kind, text, job, attempt, node, user, address"
_ADD = "INSERT INTO events (at, kind, text, job, attempt, node, user, address) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LAST_CHARACTER = "\U0010ffff"


class Event(NamedTuple):
    id: int
    event: AddEvent


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions an event meets, all of them; None asks for nothing. An array's id means its elements as well."""

    job: JobId | None = None
    node: NodeName | None = None
    user: str | None = None
    kind: str | None = None  # or the beginning of one: 'job.'


def add(conn: Connection, events: Iterable[AddEvent]) -> None:
    """Append events in the order given."""
    conn.executemany(_ADD, map(_row, events))


def _row(event: AddEvent) -> tuple[Any, ...]:
    key = None if event.job is None else job_key(event.job)
    text = plain_text(event.text)
    return event.at, event.kind, text, key, event.attempt, event.node, event.user, event.address


def _event(row: tuple[Any, ...]) -> Event:
    id, at, kind, text, job, *rest = row
    return Event(id, AddEvent(at, kind, text, None if job is None else job_id(job), *rest))


def last_id(conn: Connection) -> int:
    """Id of the latest event, 0 before the first: where a stream of what is new starts."""
    latest: int | None = conn.execute("SELECT MAX(id) FROM events").fetchone()[0]
    return latest or 0


def after(conn: Connection, id: int, where: Filter, limit: int) -> list[Event]:
    """The first `limit` matching events behind an id, oldest first."""
    return _find(conn, where, "id > ?", id, "id", limit)


def before(conn: Connection, id: int | None, where: Filter, limit: int) -> list[Event]:
    """The last `limit` matching events ahead of an id (None: of all), oldest first."""
    return _find(conn, where, "id < ?", 2**63 - 1 if id is None else id, "id DESC", limit)


def _find(conn: Connection, where: Filter, bound: str, id: int, order: str, limit: int) -> list[Event]:
    """Along one named index, in the order of ids: without statistics SQLite might guess a worse one."""
    terms: list[str] = []
    values: list[object] = []
    index = ""
    for column, value in (("user", where.user), ("node", where.node)):
        if value is not None:
            terms.append(f"{column} = ?")
            values.append(value)
            index = f"INDEXED BY events_{column}"
    if where.job is not None:
        key = job_key(where.job)
        if key is None:
            return []
        terms.append(f"job >> {ELEMENT_BITS} = ? AND job IS NOT NULL")
        values.append(key >> ELEMENT_BITS)
        index = "INDEXED BY events_job"
        if element_index(key) is not None:
            terms.append("job = ? AND job & 4294967295 <> 0")
            values.append(key)
            index = "INDEXED BY events_element"
    kinds: Iterable[tuple[object, ...]] = [()]
    if where.kind is not None and index:
        terms.append("kind >= ? AND kind < ?")
        values += [where.kind, where.kind + _LAST_CHARACTER]
    elif where.kind is not None:
        # One query for each kind: only within one kind is the index in the order of ids.
        terms.append("kind = ?")
        index = "INDEXED BY events_kind"
        kinds = ((kind,) for kind in _kinds(conn, where.kind))  # asked for below, in the same moment
    sql = f"SELECT {_COLUMNS} FROM events {index} WHERE {' AND '.join([*terms, bound])} ORDER BY {order} LIMIT ?"
    with one_moment(conn):
        rows = [row for kind in kinds for row in conn.execute(sql, (*values, *kind, id, limit)).fetchall()]
    rows.sort(key=lambda row: row[0], reverse=order != "id")
    return [_event(row) for row in sorted(rows[:limit])]


def _kinds(conn: Connection, prefix: str) -> Iterable[str]:
    """The kinds there are that begin so. There are a few dozen, so each is looked up past the one before."""
    sql = "SELECT MIN(kind) FROM events WHERE kind >= ? AND kind < ?"
    low, high = prefix, prefix + _LAST_CHARACTER
    while (kind := conn.execute(sql, (low, high)).fetchone()[0]) is not None:
        yield kind
        low = kind + "\0"
