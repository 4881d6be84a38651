"""How a database written by an older gpuq becomes one of today.

A migration is a function from schema N to N + 1. It is written once and never changed, so it holds its own SQL and
imports nothing of gpuq's: what a name means today is not what it meant then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from sqlite3 import Connection

Migration = Callable[[Connection], None]


def _users(conn: Connection) -> None:
    """1 to 2: a table of users. They were whoever a token named; each may now do what the best of theirs might.

    Jobs that have not ended get the account they were meant to run in: their user's. Without it any node would do.
    """
    live = "SELECT key, user, request FROM jobs WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED')"
    for key, user, request in conn.execute(live).fetchall():
        asked = json.dumps({**json.loads(request), "account": user})
        conn.execute("UPDATE jobs SET request = ? WHERE key = ?", (asked, key))
    conn.execute("ALTER TABLE events ADD COLUMN address TEXT")
    conn.execute(
        "CREATE TABLE users (name TEXT PRIMARY KEY, role TEXT NOT NULL, created_at REAL NOT NULL, disabled_at REAL)"
    )
    conn.execute(
        "INSERT INTO users (name, role, created_at) SELECT user, "
        "CASE WHEN SUM(role = 'admin') THEN 'admin' WHEN SUM(role = 'user') THEN 'user' ELSE 'viewer' END, "
        "MIN(created_at) FROM tokens WHERE node IS NULL GROUP BY user"
    )


_HELD_TWICE = """
    SELECT RAISE(ABORT, 'grants: a GPU would be held whole and shared')
    WHERE EXISTS (SELECT 1 FROM grants WHERE live = 1 AND share_bytes IS NULL
                  AND node = NEW.node AND gpu_index = NEW.gpu_index)
      AND EXISTS (SELECT 1 FROM grants WHERE live = 1 AND share_bytes IS NOT NULL
                  AND node = NEW.node AND gpu_index = NEW.gpu_index);
"""


def _shares(conn: Connection) -> None:
    """2 to 3: shares of GPUs, and the port of an attempt with several ranks."""
    conn.execute("ALTER TABLE attempts ADD COLUMN port INTEGER")
    conn.execute("ALTER TABLE grants ADD COLUMN share_bytes INTEGER")
    conn.execute("DROP INDEX grants_live")
    conn.execute("CREATE UNIQUE INDEX grants_live ON grants (node, gpu_index) WHERE live = 1 AND share_bytes IS NULL")
    conn.execute("CREATE INDEX grants_shared ON grants (node, gpu_index) WHERE live = 1 AND share_bytes IS NOT NULL")
    conn.execute(f"CREATE TRIGGER grants_added AFTER INSERT ON grants WHEN NEW.live = 1 BEGIN {_HELD_TWICE} END")
    conn.execute(
        f"CREATE TRIGGER grants_revived AFTER UPDATE OF live ON grants WHEN NEW.live = 1 BEGIN {_HELD_TWICE} END"
    )


def _claims(conn: Connection) -> None:
    """3 to 4: the room that others were stopped for, kept for a job; what ended when, for quotas of GPU-hours."""
    conn.execute("ALTER TABLE jobs ADD COLUMN claim TEXT")
    conn.execute("CREATE INDEX attempts_ended ON attempts (ended_at) WHERE ended_at IS NOT NULL")


FIRST_SCHEMA = 1
MIGRATIONS: tuple[Migration, ...] = (_users, _shares, _claims)  # the first goes from schema 1 to 2
SCHEMA = FIRST_SCHEMA + len(MIGRATIONS)  # what schema.sql creates


def migrate(conn: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Carry a database forward, each step in a transaction of its own with the number it leads to.

    The connection must be in autocommit mode. A step that raises leaves the database as it was before that step.
    """
    (schema,) = conn.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    for number, step in enumerate(migrations[schema - FIRST_SCHEMA :], start=schema + 1):
        conn.execute("BEGIN IMMEDIATE")
        try:
            step(conn)
            conn.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (number,))
            conn.execute("COMMIT")
        except BaseException:
            conn.execute("ROLLBACK")
            raise
