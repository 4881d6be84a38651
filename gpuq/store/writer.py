"""The one thread that writes: many decisions in one transaction, one fsync, then one word that they are durable."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from gpuq.changes import Change
from gpuq.store import replies
from gpuq.store.changes import apply
from gpuq.store.db import Store

logger = logging.getLogger(__name__)

_BATCH_CHANGES = 1_000  # about 30 ms of writing: the longest that what has just arrived waits for what came before
_PRUNE_ROWS = 500  # likewise
_CHECKPOINT_PAGES = 2_000  # 8 MB of log; copying it takes some 20 ms, and reads stay quick below it
_COMMIT_PAGES = 10  # what the smallest commit writes: a leaf of each table and index it touches
_PROBE_BYTES = 1 << 20


class FailureKind(Enum):
    FULL = "full"  # no space: nothing is lost but the undecided, and writing can go on once there is room
    BROKEN = "broken"  # the disk or the code failed: what is on disk is only known after a restart


@dataclass(frozen=True, slots=True)
class StoreFailure:
    """A commit that failed. The changes numbered first_seq and all later ones did not become durable.

    After BROKEN that is unknown for those in the failed commit: only opening the database again tells.
    """

    kind: FailureKind
    first_seq: int
    text: str


@dataclass(frozen=True, slots=True)
class _Batch:
    commands: list[tuple[int, tuple[Change, ...]]]
    prune_before: float | None


class Writer:
    """Makes changes durable in the order they are given. All methods are for the event loop's thread.

    on_durable(seq) is called in the writer's thread once a commit, with the highest number it made durable.
    on_failure is called there too, once until `resume`; what is given between the failure and `resume` was decided on
    a memory that is to be rolled back, and is dropped.
    """

    def __init__(
        self, store: Store, on_durable: Callable[[int], None], on_failure: Callable[[StoreFailure], None]
    ) -> None:
        self._store = store
        self._conn = store.write_connection
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._wake = threading.Condition()
        self._queue: deque[tuple[int, tuple[Change, ...]]] = deque()
        self._prune_before: float | None = None
        self._failed: FailureKind | None = None
        self._closing = False
        self._last_seq = self._durable = store.last_seq()
        self._log_pages = 0  # written since the last checkpoint, by estimate
        self._thread = threading.Thread(target=self._run, name="gpuq-writer", daemon=True)
        self._thread.start()

    def enqueue(self, seq: int, changes: tuple[Change, ...]) -> None:
        """Have changes written, all or none of them. seq must be greater than any given before."""
        with self._wake:
            if seq <= self._last_seq or self._closing:
                raise ValueError(f"change {seq} comes after {self._last_seq}, or after close")
            self._last_seq = seq
            if self._failed is None:
                self._queue.append((seq, changes))
                self._wake.notify()

    def enqueue_prune(self, before: float) -> None:
        """Have answers given before a wall time deleted, a few with each commit."""
        with self._wake:
            if self._failed is None:
                self._prune_before = before
                self._wake.notify()

    def resume(self) -> None:
        """Write again after FULL; numbers go on from the last durable one. Does not help after BROKEN."""
        with self._wake:
            if self._failed is FailureKind.FULL:
                self._failed = None
                self._last_seq = self._durable

    def probe(self) -> bool:
        """Whether the disk has room again: tries to write 1 MiB beside the database. Takes some milliseconds."""
        path = self._store.path.with_name(self._store.path.name + ".probe")
        try:
            with path.open("wb") as file:
                file.write(os.urandom(_PROBE_BYTES))  # zeros might be compressed away
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        finally:
            path.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Write what was given, then end the thread. Returns when it has ended."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # ---------------------------------------------------------------- in the writer's thread

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            failure = self._attempt(batch)
            if failure is not None:
                self._fail(failure)
                if failure.kind is FailureKind.BROKEN:
                    return

    def _next(self) -> _Batch | None:
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._prune_before is not None or self._closing)
            if self._closing and not self._queue:
                return None
            commands, size = [], 0
            while self._queue and size < _BATCH_CHANGES:
                commands.append(self._queue.popleft())
                size += len(commands[-1][1])
            return _Batch(commands, self._prune_before)

    def _attempt(self, batch: _Batch) -> StoreFailure | None:
        first = batch.commands[0][0] if batch.commands else self._durable + 1
        try:
            self._commit(batch)
        except sqlite3.Error as error:
            logger.exception("store.commit_failed first=%d", first)
            return StoreFailure(self._roll_back(error), first, str(error))
        except Exception:  # top of the loop: a record that cannot be written is a defect, and memory is ahead of disk
            logger.exception("store.commit_failed first=%d", first)
            self._roll_back(None)
            return StoreFailure(FailureKind.BROKEN, first, "a record could not be written; the log has the traceback")
        if batch.commands:
            self._durable = batch.commands[-1][0]
            self._on_durable(self._durable)
        try:
            self._checkpoint(batch)
        except sqlite3.Error as error:
            if not _is_full(error):  # without room the log just grows, until a commit says so
                logger.exception("store.checkpoint_failed")
                return StoreFailure(FailureKind.BROKEN, self._durable + 1, str(error))
        return None

    def _commit(self, batch: _Batch) -> None:
        self._conn.execute("BEGIN IMMEDIATE")
        if batch.commands:
            apply(self._conn, chain.from_iterable(changes for _, changes in batch.commands), batch.commands[-1][0])
        pruned = None if batch.prune_before is None else replies.prune(self._conn, batch.prune_before, _PRUNE_ROWS)
        self._conn.execute("COMMIT")
        if pruned is not None and pruned < _PRUNE_ROWS:
            with self._wake:
                if self._prune_before == batch.prune_before:
                    self._prune_before = None

    def _roll_back(self, error: sqlite3.Error | None) -> FailureKind:
        """Leave the failed transaction; a COMMIT that fails may leave it open."""
        try:
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("store.rollback_failed")
            return FailureKind.BROKEN
        return FailureKind.FULL if error is not None and _is_full(error) else FailureKind.BROKEN

    def _checkpoint(self, batch: _Batch) -> None:
        """Now and then, copy the log into the database, so that it is written from its start again."""
        self._log_pages += _COMMIT_PAGES + sum(len(changes) for _, changes in batch.commands)
        if self._log_pages >= _CHECKPOINT_PAGES:
            self._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._log_pages = 0

    def _fail(self, failure: StoreFailure) -> None:
        with self._wake:
            self._failed = failure.kind
            self._queue.clear()
            self._prune_before = None
        self._on_failure(failure)


def _is_full(error: sqlite3.Error) -> bool:
    # The text of SQLITE_FULL: Python tells error codes from 3.11 on.
    return str(error) == "database or disk is full"
