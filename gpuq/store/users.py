"""Users: who may have tokens, and how much these may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from sqlite3 import Connection

from gpuq.model import User

_COLUMNS = "name, role, created_at, disabled_at"  # User's fields, in order
_PUT = (
    f"INSERT INTO users ({_COLUMNS}) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET role = excluded.role, disabled_at = excluded.disabled_at"
)


def put(conn: Connection, users: Iterable[User]) -> None:
    conn.executemany(_PUT, map(astuple, users))


def every(conn: Connection) -> list[User]:
    """All users, by name, disabled ones too."""
    return [User(*row) for row in conn.execute(f"SELECT {_COLUMNS} FROM users ORDER BY name")]
