"""Answers to mutating requests, kept so that a repeated request gets the same one."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection

from gpuq.changes import PutReply
from gpuq.store.columns import plain_text

_PUT = (
    "INSERT INTO replies (request_id, user, at, body) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (request_id) DO UPDATE SET user = excluded.user, at = excluded.at, body = excluded.body"
)


def put(conn: Connection, replies: Iterable[PutReply]) -> None:
    conn.executemany(_PUT, ((r.request_id, r.user, r.at, plain_text(r.body)) for r in replies))


def reply(conn: Connection, request_id: str) -> PutReply | None:
    """The answer given to a request; whether it is the asking user's is for the caller to check."""
    sql = "SELECT request_id, user, at, body FROM replies WHERE request_id = ?"
    row = conn.execute(sql, (request_id,)).fetchone()
    return None if row is None else PutReply(*row)


def prune(conn: Connection, before: float, limit: int) -> int:
    """Delete at most `limit` of the answers given before a wall time, oldest first; how many were deleted."""
    sql = "DELETE FROM replies WHERE rowid IN (SELECT rowid FROM replies WHERE at < ? ORDER BY at LIMIT ?)"
    return conn.execute(sql, (before, limit)).rowcount
