"""The database file: whose it is, how it is opened, and what the controller starts from."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpuq.changes import PutToken
from gpuq.errors import Conflict, Incompatible
from gpuq.model import Attempt, Job, JobId, PastRun, User
from gpuq.node import Node
from gpuq.settings import Settings
from gpuq.spent import SpentHour
from gpuq.states import JobState
from gpuq.store import attempts, jobs, nodes, promises, settings, tokens, users
from gpuq.store.localdisk import require_local_disk
from gpuq.store.migrations import SCHEMA, migrate
from gpuq.store.moment import one_moment

logger = logging.getLogger(__name__)

_APPLICATION_ID = int.from_bytes(b"gpuq", "big")  # in the file's header; schema.sql writes it
_BUSY_SECONDS = 10.0  # someone's sqlite3 shell may hold the write lock; nobody of ours ever does
_WRITER_CACHE_KIB = 16_384  # keys of replies and attempts are random: their pages should stay in memory
_READER_CACHE_KIB = 4_096


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that has not ended, as of one committed change.

    jobs holds jobs, elements and arrays in submit order; attempts are the live ones, oldest first; past are the
    latest that have ended, in the order in which they did, spent what those of the last 30 days held; nodes and
    users are by name; tokens are those that were not revoked.
    element_counts has an entry for each array in jobs and counts the elements that have a row, ended ones included.
    """

    jobs: list[Job]
    element_counts: Mapping[JobId, Mapping[JobState, int]]
    attempts: list[Attempt]
    past: list[PastRun]
    spent: list[SpentHour]
    nodes: list[Node]
    users: list[User]
    tokens: list[PutToken]
    settings: Settings
    promised: JobId | None
    next_number: int
    last_seq: int
    epoch: int


class Store:
    """An open database, owned by this process until `close`.

    reader is for one thread, the event loop's; another thread opens its own with `open_reader`. Readers see committed
    changes only and cannot write. write_connection belongs to the Writer's thread.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection, held: ExitStack) -> None:
        self.path = path
        self.write_connection = writer
        self.reader = reader
        self._held = held
        meta = _meta(reader)
        self.cluster_id: str = meta["cluster_id"]
        self.epoch: int = meta["epoch"]  # starts at 1 and rises when a backup is restored

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a database, creating it, or carrying it forward from an older schema.

        Raises InvalidRequest on a network file system, Conflict if another process has it or it is not gpuq's,
        Incompatible if a newer gpuq wrote it.
        """
        path = path.absolute()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_local_disk(path.parent)
            with ExitStack() as held:
                held.callback(os.close, _lock(path))
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
                path.chmod(0o600)  # also one that was copied here: it holds the environments of jobs
                writer = held.enter_context(closing(_connect(path, _WRITER_CACHE_KIB)))
                _prepare(writer, path)
                reader = held.enter_context(closing(_connect_reader(path)))
                return cls(path, writer, reader, held.pop_all())
        except OSError as error:
            raise Conflict(f"the database {path} cannot be used: {error.strerror}") from error
        except sqlite3.DatabaseError as error:
            raise Conflict(f"{path} is not a usable gpuq database: {error}", "choose another --home") from error

    def close(self) -> None:
        """Give the file up. The Writer must be closed before."""
        self._held.close()

    def open_reader(self) -> sqlite3.Connection:
        """A connection that cannot write, for use by one thread, which closes it."""
        return _connect_reader(self.path)

    def last_seq(self) -> int:
        """Number of the last durable change."""
        return int(_meta(self.reader)["last_seq"])

    def load(self) -> Snapshot:
        """What the controller starts from, and returns to after a failed commit."""
        conn = self.reader
        with one_moment(conn):
            meta = _meta(conn)
            unfinished = jobs.live(conn)
            return Snapshot(
                jobs=unfinished,
                element_counts={job.id: jobs.element_counts(conn, job.id) for job in unfinished if job.array},
                attempts=attempts.live(conn),
                past=attempts.past(conn),
                spent=attempts.spent(conn),
                nodes=nodes.every(conn),
                users=users.every(conn),
                tokens=tokens.live(conn),
                settings=settings.current(conn),
                promised=promises.current(conn),
                next_number=meta["next_number"],
                last_seq=meta["last_seq"],
                epoch=meta["epoch"],
            )


def _lock(path: Path) -> int:
    """Take the database for this process, or say who has it.

    A file of its own, because SQLite loses its locks when anything else in the process opens and closes the database.
    """
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 20).decode(errors="replace").strip()
        os.close(lock)
        raise Conflict(f"{path} is in use by another controller (pid {pid or 'unknown'})") from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    conn = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    conn.execute(f"PRAGMA cache_size = -{cache_kib}")
    conn.execute("PRAGMA temp_store = MEMORY")
    return conn


def _connect_reader(path: Path) -> sqlite3.Connection:
    conn = _connect(path, _READER_CACHE_KIB)
    conn.execute("PRAGMA query_only = ON")
    return conn


def _prepare(conn: sqlite3.Connection, path: Path) -> None:
    """Make sure, before anything is written, that the file is ours; then bring it to today's schema."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (tables,) = conn.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    fresh = application == 0 and tables == 0
    if not fresh and application != _APPLICATION_ID:
        raise Conflict(f"{path} is not a gpuq database", "choose another --home")
    if not fresh and (schema := _meta(conn)["schema"]) > SCHEMA:
        raise Incompatible(
            f"{path} was written by a newer gpuq (schema {schema}, this one knows {SCHEMA})", "run the newer gpuq"
        )
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")  # fsync before each commit returns: acknowledged means durable
    conn.execute("PRAGMA wal_autocheckpoint = 0")  # the Writer does it, after acknowledging, and sees its errors
    if fresh:
        _create(conn)
    else:
        migrate(conn)


def _create(conn: sqlite3.Connection) -> None:
    schema = files("gpuq.store").joinpath("schema.sql").read_text(encoding="utf-8")
    meta = {
        "schema": SCHEMA,
        "cluster_id": secrets.token_hex(16),
        "epoch": 1,
        "last_seq": 0,
        "next_number": 1,
        "created_at": time.time(),
    }
    try:
        conn.executescript(f"BEGIN IMMEDIATE;\n{schema}")
        conn.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", meta.items())
        conn.execute("COMMIT")
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def _meta(conn: sqlite3.Connection) -> dict[str, Any]:
    return dict(conn.execute("SELECT key, value FROM meta"))
