"""The cluster's settings: one JSON record in `meta`, absent until someone first changes one."""

from __future__ import annotations

from sqlite3 import Connection

from gpuq.settings import Settings
from gpuq.store.columns import record_of, record_text

_KEY = "settings"
_PUT = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def put(conn: Connection, settings: Settings) -> None:
    conn.execute(_PUT, (_KEY, record_text(settings)))


def current(conn: Connection) -> Settings:
    row = conn.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return (record_of(Settings, row[0]) if row else None) or Settings()
