"""The way from an older schema to today's: made-up steps, and the real ones from a database of each older schema."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gpuq.model import JobId, Request, User
from gpuq.store import Store, events, jobs
from gpuq.store.migrations import FIRST_SCHEMA, SCHEMA, migrate


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


# ---------------------------------------------------------------- the real ones


def tables(conn: sqlite3.Connection) -> dict[str, set[tuple[object, ...]]]:
    """Columns of each table: name, type, whether it may be null, place in the primary key."""
    names = [
        name
        for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'sqlite_sequence'")
    ]
    return {name: {(c[1], c[2], c[3], c[5]) for c in conn.execute(f"PRAGMA table_info({name})")} for name in names}


def old_database(path: Path, schema: int) -> sqlite3.Connection:
    """A database as a gpuq of that schema made it."""
    conn = sqlite3.connect(path, isolation_level=None)
    conn.executescript((Path(__file__).parent / f"schema_{schema}.sql").read_text())
    meta = {"schema": schema, "cluster_id": "c" * 32, "epoch": 1, "last_seq": 7, "next_number": 3, "created_at": 1.0}
    conn.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", meta.items())
    return conn


@pytest.mark.parametrize("schema", range(FIRST_SCHEMA, SCHEMA))
def test_a_database_of_each_older_schema_becomes_one_of_today(path: Path, tmp_path: Path, schema: int) -> None:
    old_database(path, schema).close()
    Store.open(path).close()
    Store.open(tmp_path / "fresh" / "gpuq.db").close()
    with sqlite3.connect(path) as old, sqlite3.connect(tmp_path / "fresh" / "gpuq.db") as fresh:
        assert tables(old) == tables(fresh)


def test_who_had_tokens_is_a_user_from_then_on(path: Path) -> None:
    conn = old_database(path, 1)
    rows: list[tuple[str, str, str, str | None]] = [
        ("a", "admin", "ada", None),
        ("b", "user", "ada", None),
        ("c", "user", "bob", None),
    ]
    rows += [("d", "viewer", "eve", None), ("e", "viewer", "bob", None), ("f", "node", "root", "n1")]
    conn.executemany(
        "INSERT INTO tokens (id, secret_sha256, role, user, node, created_at) VALUES (?, ?, ?, ?, ?, 5.0)",
        [(id, id, role, user, node) for id, role, user, node in rows],
    )
    conn.execute("INSERT INTO events (at, kind, text) VALUES (1.0, 'node.up', 'reports')")
    conn.close()
    store = Store.open(path)
    snapshot = store.load()
    assert snapshot.users == [User("ada", "admin", 5.0), User("bob", "user", 5.0), User("eve", "viewer", 5.0)]
    assert {token.id for token in snapshot.tokens} == set("abcdef")
    assert events.after(store.reader, 0, events.Filter(), 9)[0].event.address is None
    store.close()


def test_a_job_that_has_not_ended_runs_in_the_account_of_its_user_from_then_on(path: Path) -> None:
    """One without an account would be placed on a node that runs only another's jobs."""
    conn = old_database(path, 1)
    fields = "name, queue, priority, queued_at, grace_seconds, max_retries, retries_used, max_losses, losses_used"
    put = (
        f"INSERT INTO jobs (key, user, state, request, submitted_at, finished_at, requeue, on_lost, comment, attempt, "
        f"{fields}) VALUES (?, ?, ?, ?, 1.0, ?, 1, 'keep', '', 0, 'x', 'main', 0, 1.0, 30, 0, 0, 10, 0)"
    )
    for number, (user, state, ended) in enumerate([("ada", "QUEUED", None), ("bob", "SUCCEEDED", 2.0)], start=1):
        conn.execute(put, (number << 32, user, state, '{"gpus_per_node":2}', ended))
    conn.close()
    store = Store.open(path)
    (waiting,) = store.load().jobs
    assert waiting.request == Request(gpus_per_node=2, account="ada")
    done = jobs.job(store.reader, JobId("2"))
    assert done is not None
    assert done.request == Request(gpus_per_node=2)
    store.close()


def test_grants_of_before_shares_hold_whole_gpus(path: Path) -> None:
    conn = old_database(path, 2)
    conn.execute(
        "INSERT INTO attempts (uid, job, number, ranks, granted_at, on_lost) "
        "VALUES ('a', 4294967296, 1, '[]', 1.0, 'keep')"
    )
    conn.execute("INSERT INTO grants (attempt, rank, gpu_index, node, live) VALUES ('a', 0, 3, 'n1', 1)")
    conn.close()
    store = Store.open(path)
    with pytest.raises(sqlite3.IntegrityError, match="whole and shared"):
        store.write_connection.execute(
            "INSERT INTO grants (attempt, rank, gpu_index, node, live, share_bytes) VALUES ('b', 0, 3, 'n1', 1, 5)"
        )
    assert [attempt.port for attempt in store.load().attempts] == [None]
    store.close()
