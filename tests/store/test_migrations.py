"""The way from an older schema to today's; there is no older one yet, so the steps are made up."""

from __future__ import annotations

import sqlite3

import pytest

from gpuq.store import Store
from gpuq.store.migrations import FIRST_SCHEMA, migrate


def add_colour(conn: sqlite3.Connection) -> None:
    conn.execute("ALTER TABLE nodes ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'")


def rename_colour(conn: sqlite3.Connection) -> None:
    conn.execute("ALTER TABLE nodes RENAME COLUMN colour TO paint")


def fail_half_way(conn: sqlite3.Connection) -> None:
    conn.execute("DELETE FROM nodes")
    raise sqlite3.OperationalError("half way")


@pytest.fixture
def conn(store: Store) -> sqlite3.Connection:
    """A database of the first schema with one node in it."""
    conn = store.write_connection
    conn.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (FIRST_SCHEMA,))
    conn.execute("INSERT INTO nodes (name, cordoned, draining, cordon_text, enrolled_at) VALUES ('n1', 0, 0, '', 1.0)")
    return conn


def schema(conn: sqlite3.Connection) -> int:
    (number,) = conn.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    return int(number)


def test_all_steps_are_taken_in_order_and_the_rows_kept(conn: sqlite3.Connection) -> None:
    migrate(conn, [add_colour, rename_colour])
    assert schema(conn) == FIRST_SCHEMA + 2
    assert conn.execute("SELECT name, paint FROM nodes").fetchall() == [("n1", "grey")]


def test_steps_already_taken_are_not_taken_again(conn: sqlite3.Connection) -> None:
    migrate(conn, [add_colour])
    migrate(conn, [add_colour])
    migrate(conn, [add_colour, rename_colour])
    assert schema(conn) == FIRST_SCHEMA + 2


def test_a_step_that_fails_leaves_the_last_good_schema(conn: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="half way"):
        migrate(conn, [add_colour, fail_half_way, rename_colour])
    assert schema(conn) == FIRST_SCHEMA + 1
    assert conn.execute("SELECT name, colour FROM nodes").fetchall() == [("n1", "grey")]
    migrate(conn, [add_colour, rename_colour])
    assert schema(conn) == FIRST_SCHEMA + 2
