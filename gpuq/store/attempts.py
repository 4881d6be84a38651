"""Attempts, and the GPUs each was granted."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any

from gpuq.model import (
    GIVEN_UP,
    Attempt,
    AttemptUid,
    Cause,
    JobId,
    OnLost,
    PastRun,
    Rank,
    Request,
    Stop,
    batch_of,
    kind_of,
)
from gpuq.spent import HOUR_SECONDS, WINDOW_HOURS, SpentHour
from gpuq.store.columns import job_id, job_key, record_of, record_text, records_of, records_text

_COLUMNS = "ranks, stop, lost_since, ended_at, cause, uid, job, number, granted_at, on_lost, port"
_UPDATE = "UPDATE attempts SET ranks = ?, stop = ?, lost_since = ?, ended_at = ?, cause = ? WHERE uid = ?"
_INSERT = f"INSERT INTO attempts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_GRANT = "INSERT INTO grants (attempt, rank, gpu_index, node, live, share_bytes) VALUES (?, ?, ?, ?, ?, ?)"
_LEARNED_FROM = 10_000  # attempts: read in 0.2 s at the start
_WINDOW_SECONDS = (WINDOW_HOURS + 1) * HOUR_SECONDS  # hours begin before what is asked for
_AT_ONCE = 500  # uids of one query: SQLite takes at least 999 parameters
_REGRANT = "UPDATE grants SET live = ? WHERE attempt = ? AND live <> ?"


def put(conn: Connection, attempts: Iterable[Attempt]) -> None:
    """Write attempts with their grants, those that ended first, so that what they held can be granted again.

    Raises sqlite3.IntegrityError where two live attempts would hold one GPU, at least one of them the whole of it, or
    belong to one job. What an attempt was granted never changes; its grants are live as long as it is.
    """
    for attempt in sorted(attempts, key=lambda attempt: attempt.live):
        now = records_text(attempt.ranks), record_text(attempt.stop), attempt.lost_since, attempt.ended_at
        row = (*now, record_text(attempt.cause), attempt.uid)
        if conn.execute(_UPDATE, row).rowcount:
            conn.execute(_REGRANT, (attempt.live, attempt.uid, attempt.live))
            continue
        fixed = job_key(attempt.job), attempt.number, attempt.granted_at, attempt.on_lost.value, attempt.port
        conn.execute(_INSERT, (*row, *fixed))
        conn.executemany(_GRANT, _grants(attempt))


def _grants(attempt: Attempt) -> list[tuple[Any, ...]]:
    return [
        (attempt.uid, number, gpu, rank.node, attempt.live, rank.gpu_share_bytes)
        for number, rank in enumerate(attempt.ranks)
        for gpu in rank.gpus
    ]


def _attempt(row: tuple[Any, ...]) -> Attempt:
    ranks, stop, lost_since, ended_at, cause, uid, job, number, granted_at, on_lost, port = row
    return Attempt(
        uid=AttemptUid(uid),
        job=job_id(job),
        number=number,
        ranks=records_of(Rank, ranks),
        granted_at=granted_at,
        on_lost=OnLost(on_lost),
        port=port,
        stop=record_of(Stop, stop),
        lost_since=lost_since,
        ended_at=ended_at,
        cause=record_of(Cause, cause),
    )


def attempt(conn: Connection, uid: AttemptUid) -> Attempt | None:
    """An attempt, live or ended."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM attempts WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else _attempt(row)


def of_job(conn: Connection, id: JobId) -> list[Attempt]:
    """All attempts of a job, ended ones too, first to latest."""
    sql = f"SELECT {_COLUMNS} FROM attempts WHERE job = ? ORDER BY number, granted_at"
    return [_attempt(row) for row in conn.execute(sql, (job_key(id),))]


def latest(conn: Connection, ids: Iterable[JobId]) -> dict[JobId, Attempt]:
    """The latest attempt of each of the jobs that had one."""
    sql = f"SELECT {_COLUMNS} FROM attempts WHERE job = ? ORDER BY number DESC, granted_at DESC LIMIT 1"
    found = ((id, conn.execute(sql, (job_key(id),)).fetchone()) for id in ids)
    return {id: _attempt(row) for id, row in found if row is not None}


def ended(conn: Connection, uids: Iterable[AttemptUid]) -> set[AttemptUid]:
    """Those of the attempts that are on record and have ended."""
    asked, found = list(uids), set[AttemptUid]()
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        rows = conn.execute(f"SELECT uid FROM attempts WHERE uid IN ({marks}) AND ended_at IS NOT NULL", some)
        found.update(AttemptUid(uid) for (uid,) in rows)
    return found


def past(conn: Connection) -> list[PastRun]:
    """What there is to learn from: of the latest attempts those that have ended, in the order in which they did."""
    sql = (
        "SELECT jobs.user, jobs.name, jobs.request, jobs.submitted_at, a.granted_at, a.ended_at, a.cause"
        " FROM attempts AS a JOIN jobs ON jobs.key = a.job"
        " WHERE a.rowid > (SELECT max(rowid) FROM attempts) - ? AND a.ended_at IS NOT NULL ORDER BY a.ended_at, a.rowid"
    )
    return [_past_run(row) for row in conn.execute(sql, (_LEARNED_FROM,))]


def spent(conn: Connection) -> list[SpentHour]:
    """What attempts held that ended in the 30 days before the latest end; a share of a GPU counts as one."""
    sql = (
        f"SELECT jobs.user, CAST(a.ended_at / {HOUR_SECONDS} AS INTEGER) AS hour, SUM(CAST((a.ended_at - a.granted_at)"
        " * (SELECT COUNT(*) FROM grants WHERE grants.attempt = a.uid) AS INTEGER)) AS gpu_seconds"
        " FROM attempts AS a INDEXED BY attempts_ended JOIN jobs ON jobs.key = a.job WHERE a.ended_at > (SELECT"
        f" MAX(ended_at) FROM attempts INDEXED BY attempts_ended WHERE ended_at IS NOT NULL) - {_WINDOW_SECONDS}"
        " GROUP BY jobs.user, hour HAVING gpu_seconds > 0"
    )
    return [SpentHour(*row) for row in conn.execute(sql)]


def _past_run(row: tuple[Any, ...]) -> PastRun:
    user, name, request, submitted_at, granted_at, ended_at, cause = row
    kind = kind_of(user, name, record_of(Request, request) or Request())
    known = record_of(Cause, cause)
    whole = known is None or known.code not in GIVEN_UP
    return PastRun(kind, batch_of(submitted_at), granted_at, ended_at, whole)


def live(conn: Connection) -> list[Attempt]:
    """All live attempts, oldest first."""
    sql = f"SELECT {_COLUMNS} FROM attempts INDEXED BY attempts_live WHERE ended_at IS NULL ORDER BY granted_at, uid"
    return [_attempt(row) for row in conn.execute(sql)]
