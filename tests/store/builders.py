"""Records with defaults, and a writer whose news a test can wait for."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable
from typing import Any

from gpuq.changes import AddEvent, Change, PutJob, PutReply, PutSpec
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec, NodeName, OnLost, Rank, Request
from gpuq.states import FINAL, JobState
from gpuq.store import Store, StoreFailure, Writer

PATIENCE_SECONDS = 30.0


def a_job(id: str, state: JobState = JobState.QUEUED, **fields: Any) -> Job:
    number, _, index = id.partition("_")
    at = float(number)
    defaults: dict[str, Any] = {
        "name": "train",
        "user": "ada",
        "queue": "default",
        "priority": 0,
        "request": Request(gpus_per_node=1),
        "submitted_at": at,
        "queued_at": at,
        "finished_at": at + 1000.0 if state in FINAL else None,
    }
    return Job(
        id=JobId(id), number=int(number), index=int(index) if index else None, state=state, **{**defaults, **fields}
    )


def an_attempt(uid: str, job: str = "1", gpus: tuple[int, ...] = (0,), node: str = "n1", **fields: Any) -> Attempt:
    rank = Rank(NodeName(node), gpus, cpus=1, memory_bytes=0)
    defaults: dict[str, Any] = {"number": 1, "ranks": (rank,), "granted_at": 5.0, "on_lost": OnLost.KEEP}
    return Attempt(uid=AttemptUid(uid), job=JobId(job), **{**defaults, **fields})


def a_submit(number: int, spec: JobSpec | None = None) -> tuple[Change, ...]:
    """What one acknowledged submit writes."""
    job = a_job(str(number))
    return (
        PutJob(job),
        PutSpec(job.id, spec or JobSpec(("true",), None, "/home/ada")),
        AddEvent(job.submitted_at, "job.queued", "submitted", job.id, user=job.user),
        PutReply(f"request-{number:08d}", job.user, job.submitted_at, f'{{"id":"{number}"}}'),
    )


class Overtaken(sqlite3.Connection):
    """A reader's connection: before each of its queries, somebody else writes."""

    meanwhile: Callable[[], None]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.startswith("SELECT"):
            self.meanwhile()
        return super().execute(sql, parameters)


class RunningWriter:
    """A Writer, and what it said, in order: durable numbers and failures."""

    def __init__(self, store: Store) -> None:
        self.news: queue.SimpleQueue[int | StoreFailure] = queue.SimpleQueue()
        self.writer = Writer(store, self.news.put, self.news.put)

    def next(self) -> int | StoreFailure:
        return self.news.get(timeout=PATIENCE_SECONDS)

    def wait_durable(self, seq: int) -> list[int]:
        """The durable numbers said until `seq` was; fails on any failure before that."""
        said: list[int] = []
        while not said or said[-1] < seq:
            news = self.next()
            assert isinstance(news, int), news
            said.append(news)
        return said

    def write(self, seq: int, *changes: Change) -> None:
        self.writer.enqueue(seq, changes)
        self.wait_durable(seq)
