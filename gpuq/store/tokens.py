"""Tokens, by the hash of their secret."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from sqlite3 import Connection

from gpuq.changes import PutToken

_COLUMNS = "id, secret_sha256, role, user, node, created_at, expires_at, revoked_at"  # PutToken's fields, in order
_PUT = (
    f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET role = excluded.role, user = excluded.user, node = excluded.node, "
    "expires_at = excluded.expires_at, revoked_at = excluded.revoked_at"
)


def put(conn: Connection, tokens: Iterable[PutToken]) -> None:
    """Write tokens; the secret of an existing one never changes."""
    conn.executemany(_PUT, map(astuple, tokens))


def by_hash(conn: Connection, secret_sha256: str) -> PutToken | None:
    """A token by its secret's hash, expired and revoked ones too."""
    row = conn.execute(f"SELECT {_COLUMNS} FROM tokens WHERE secret_sha256 = ?", (secret_sha256,)).fetchone()
    return None if row is None else PutToken(*row)


def by_id(conn: Connection, id: str) -> PutToken | None:
    row = conn.execute(f"SELECT {_COLUMNS} FROM tokens WHERE id = ?", (id,)).fetchone()
    return None if row is None else PutToken(*row)


def live(conn: Connection) -> list[PutToken]:
    """Tokens that were not revoked; expired ones too."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM tokens WHERE revoked_at IS NULL").fetchall()
    return [PutToken(*row) for row in rows]


def every(conn: Connection) -> list[PutToken]:
    """All tokens, oldest first, expired and revoked ones too."""
    rows = conn.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY created_at, id").fetchall()
    return [PutToken(*row) for row in rows]
