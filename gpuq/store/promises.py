"""The job that stays first of its priority: its id in `meta`, absent while no job does."""

from __future__ import annotations

from sqlite3 import Connection

from gpuq.model import JobId

_KEY = "promised"
_PUT = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def put(conn: Connection, job: JobId | None) -> None:
    if job is None:
        conn.execute("DELETE FROM meta WHERE key = ?", (_KEY,))
    else:
        conn.execute(_PUT, (_KEY, job))


def current(conn: Connection) -> JobId | None:
    row = conn.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return None if row is None else JobId(str(row[0]))
