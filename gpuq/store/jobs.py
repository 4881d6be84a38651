"""Jobs, arrays and elements: how they are written, looked up and listed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from sqlite3 import Connection
from sys import intern
from typing import Any, NamedTuple

from gpuq.errors import InvalidRequest
from gpuq.model import Array, Cause, Dependency, Job, JobId, OnLost, Rank
from gpuq.states import FINAL, JobState
from gpuq.store.columns import (
    ELEMENT_BITS,
    element_index,
    job_id,
    job_key,
    make_key,
    plain_text,
    record_of,
    record_text,
    records_of,
    records_text,
    request_of,
    request_text,
)
from gpuq.store.moment import one_moment

_Row = tuple[Any, ...]

# Spelled exactly as in the schema: SQLite uses a partial index only for a query that repeats its condition.
_LIVE = "state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED')"
_ENDED = "state IN ('SUCCEEDED', 'FAILED', 'CANCELED')"

_COLUMNS = (
    "key, array_of, user, submitted_at, "  # `put` never changes these, so it does not touch their indexes
    "state, name, queue, priority, request, queued_at, array, held_by, waits_for, eligible_at, time_limit_seconds, "
    "scheduling_timeout_seconds, grace_seconds, max_retries, retries_used, max_losses, losses_used, requeue, on_lost, "
    "comment, claim, attempt, started_at, finished_at, exit_code, signal, cause"
)
_NAMES = _COLUMNS.split(", ")
_FINISHED_AT = _NAMES.index("finished_at")
_PUT = (
    f"INSERT INTO jobs ({_COLUMNS}) VALUES ({', '.join('?' for _ in _NAMES)}) "
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _NAMES[4:])}"
)


def put(conn: Connection, jobs: Iterable[Job]) -> None:
    conn.executemany(_PUT, map(_row, jobs))


def give(conn: Connection, owners: Iterable[tuple[JobId, str]]) -> None:
    """Make jobs another's: `put` leaves the owner as it was."""
    conn.executemany("UPDATE jobs SET user = ? WHERE key = ?", ((user, job_key(id)) for id, user in owners))


def _row(job: Job) -> _Row:
    return (
        make_key(job.number, job.index),
        None if job.index is None else job.number,
        job.user,
        job.submitted_at,
        job.state.value,
        plain_text(job.name),
        plain_text(job.queue),
        job.priority,
        request_text(job.request),
        job.queued_at,
        record_text(job.array),
        job.held_by,
        records_text(job.waits_for) if job.waits_for else None,
        job.eligible_at,
        job.time_limit_seconds,
        job.scheduling_timeout_seconds,
        job.grace_seconds,
        job.max_retries,
        job.retries_used,
        job.max_losses,
        job.losses_used,
        job.requeue,
        job.on_lost.value,
        plain_text(job.comment),
        records_text(job.claim) if job.claim else None,
        job.attempt,
        job.started_at,
        job.finished_at,
        job.exit_code,
        job.signal,
        record_text(job.cause),
    )


def _job(row: _Row) -> Job:
    key, _, user, submitted_at, state, name, queue, priority, request, queued_at, array, held_by = row[:12]
    waits_for, eligible_at, time_limit, timeout, grace, max_retries, retries, max_losses, losses, requeue = row[12:22]
    on_lost, comment, claim, attempt, started_at, finished_at, exit_code, signal, cause = row[22:]
    return Job(
        id=job_id(key),
        number=key >> ELEMENT_BITS,
        index=element_index(key),
        name=name,
        user=intern(user),
        queue=intern(queue),
        priority=priority,
        request=request_of(request),
        state=JobState(state),
        submitted_at=submitted_at,
        queued_at=queued_at,
        array=record_of(Array, array),
        held_by=held_by,
        waits_for=records_of(Dependency, waits_for) if waits_for else (),
        eligible_at=eligible_at,
        time_limit_seconds=time_limit,
        scheduling_timeout_seconds=timeout,
        grace_seconds=grace,
        max_retries=max_retries,
        retries_used=retries,
        max_losses=max_losses,
        losses_used=losses,
        requeue=bool(requeue),
        on_lost=OnLost(on_lost),
        comment=comment,
        claim=records_of(Rank, claim) if claim else (),
        attempt=attempt,
        started_at=started_at,
        finished_at=finished_at,
        exit_code=exit_code,
        signal=signal,
        cause=record_of(Cause, cause),
    )


# ---------------------------------------------------------------- by id


def job(conn: Connection, id: JobId) -> Job | None:
    """A job, array or element in whatever state."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM jobs WHERE key = ?", (job_key(id),)).fetchone()
    return None if row is None else _job(row)


# ---------------------------------------------------------------- start-up


def live(conn: Connection) -> list[Job]:
    """All jobs, elements and arrays that have not ended, in submit order; an array counts until its own row ends."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM jobs INDEXED BY jobs_live WHERE {_LIVE} ORDER BY key")
    return [_job(row) for row in rows]


def element_counts(conn: Connection, array: JobId) -> dict[JobState, int]:
    """How many elements of an array are in each state, ended ones included; only those that have a row yet."""
    sql = (
        "SELECT state, COUNT(*) FROM jobs INDEXED BY jobs_elements"
        " WHERE array_of = ? AND array_of IS NOT NULL GROUP BY state"
    )
    return {JobState(state): count for state, count in conn.execute(sql, (_number(array),))}


def _number(id: JobId) -> int | None:
    key = job_key(id)
    return None if key is None else key >> ELEMENT_BITS


# ---------------------------------------------------------------- lists


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions a listed job meets, all of them; None asks for nothing.

    states are those of the rows: an array as submitted is QUEUED until its last element has ended.
    """

    user: str | None = None
    queue: str | None = None
    name: str | None = None
    states: Collection[JobState] | None = None


class Page(NamedTuple):
    """Part of a list. next asks for what follows, None at the end; it stays good whatever changes in between."""

    items: list[Job]
    next: str | None


def page(conn: Connection, where: Filter, *, newest_first: bool, cursor: str | None, limit: int) -> Page:
    """Jobs and arrays as submitted, without elements, in submit order or against it.

    Fast for live states and for all states; for ended ones alone ask `history`, which has an index for that. Raises
    InvalidRequest for a cursor that is none.
    """
    query = _Query(where, "key DESC" if newest_first else "key")
    start = _parse(int, cursor) if cursor is not None else 2**63 - 1 if newest_first else 0
    query.add("key < ?" if newest_first else "key > ?", start)
    if where.states is not None and FINAL.isdisjoint(where.states):
        query.add(_LIVE)
        rows = query.rows_by_state(conn, "jobs_live", where.states, limit + 1)
    else:
        if where.states is not None:
            query.add(f"state IN ({', '.join('?' for _ in where.states)})", *(state.value for state in where.states))
        index = "jobs_user" if where.user is not None else "jobs_name" if where.name is not None else "jobs_submitted"
        rows = query.rows(conn, index, limit + 1)
    rows.sort(key=lambda row: row[0], reverse=newest_first)
    return _page(rows, limit, lambda row: str(row[0]))


def history(
    conn: Connection, where: Filter, *, since: float | None, until: float | None, cursor: str | None, limit: int
) -> Page:
    """Ended jobs and arrays as submitted, without elements, latest end first, with since <= finished_at < until.

    Raises InvalidRequest for a cursor that is none.
    """
    query = _Query(where, "finished_at DESC, key DESC")
    query.add(_ENDED)
    if since is not None:
        query.add("finished_at >= ?", since)
    if until is not None:
        query.add("finished_at < ?", until)
    if cursor is not None:
        at, _, key = cursor.partition("/")
        query.add("(finished_at, key) < (?, ?)", _parse(float, at), _parse(int, key))
    states = FINAL if where.states is None else FINAL.intersection(where.states)
    rows = query.rows_by_state(conn, "jobs_ended" if where.user is None else "jobs_ended_user", states, limit + 1)
    rows.sort(key=lambda row: (row[_FINISHED_AT], row[0]), reverse=True)
    return _page(rows, limit, lambda row: f"{row[_FINISHED_AT]!r}/{row[0]}")


def elements(
    conn: Connection, array: JobId, states: Collection[JobState] | None, *, cursor: str | None, limit: int
) -> Page:
    """Elements of an array that have a row, by index. Raises InvalidRequest for a cursor that is none."""
    number = _number(array)
    if number is None:
        return Page([], None)
    after = make_key(number, None) if cursor is None else _parse(int, cursor)
    if states is None:
        sql = f"SELECT {_COLUMNS} FROM jobs WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
        rows = conn.execute(sql, (after, make_key(number + 1, None), limit + 1)).fetchall()
    else:
        sql = (
            f"SELECT {_COLUMNS} FROM jobs INDEXED BY jobs_elements"
            " WHERE array_of = ? AND array_of IS NOT NULL AND state = ? AND key > ? ORDER BY key LIMIT ?"
        )
        with one_moment(conn):
            each = [conn.execute(sql, (number, state.value, after, limit + 1)).fetchall() for state in set(states)]
        rows = sorted((row for rows in each for row in rows), key=lambda row: row[0])
    return _page(rows, limit, lambda row: str(row[0]))


class _Query:
    """A list of jobs as submitted, put together term by term and read along an index that is named.

    Named, because without statistics SQLite guesses between indexes, and a wrong guess reads the whole table.
    """

    def __init__(self, where: Filter, order: str) -> None:
        self._order = order
        self._terms = ["array_of IS NULL"]
        self._values: list[object] = []
        for column, value in (("user", where.user), ("queue", where.queue), ("name", where.name)):
            if value is not None:
                self.add(f"{column} = ?", plain_text(value))

    def add(self, term: str, *values: object) -> None:
        self._terms.append(term)
        self._values += values

    def rows(self, conn: Connection, index: str, limit: int, *more: object) -> list[_Row]:
        terms = " AND ".join(["state = ?", *self._terms] if more else self._terms)
        sql = f"SELECT {_COLUMNS} FROM jobs INDEXED BY {index} WHERE {terms} ORDER BY {self._order} LIMIT ?"
        return conn.execute(sql, (*more, *self._values, limit)).fetchall()

    def rows_by_state(self, conn: Connection, index: str, states: Collection[JobState], limit: int) -> list[_Row]:
        """One query for each state: only within one state is the index in the order of the list."""
        with one_moment(conn):
            return [row for state in set(states) for row in self.rows(conn, index, limit, state.value)]


def _page(rows: list[_Row], limit: int, cursor: Callable[[_Row], str]) -> Page:
    """The first `limit` of rows in order; one row more than that says that there is a next page."""
    shown = rows[:limit]
    return Page([_job(row) for row in shown], cursor(shown[-1]) if len(rows) > limit else None)


def _parse(number: Callable[[str], Any], cursor: str) -> Any:
    try:
        if abs(value := number(cursor)) < 2**63:  # what SQLite can be asked about
            return value
    except ValueError:
        pass
    raise InvalidRequest(f"'{cursor[:40]}' is not a place in a list")
