"""How a database written by an older gpuq becomes one of today.

A migration is a function from schema N to N + 1. It is written once and never changed, so it holds its own SQL and
imports nothing of gpuq's: what a name means today is not what it meant then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sqlite3 import Connection

Migration = Callable[[Connection], None]

FIRST_SCHEMA = 1
MIGRATIONS: tuple[Migration, ...] = ()  # the first goes from schema 1 to 2
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
