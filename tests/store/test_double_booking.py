"""The schema refuses what must never be, whatever the code above it decided."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from gpuq.changes import PutAttempt
from gpuq.model import Attempt, NodeName, Rank
from gpuq.states import JobState
from gpuq.store import FailureKind, Store, StoreFailure, attempts, jobs
from tests.store.builders import RunningWriter, a_job, a_submit, an_attempt


@pytest.fixture
def conn(store: Store) -> sqlite3.Connection:
    return store.write_connection


def put(conn: sqlite3.Connection, *changed: Attempt) -> None:
    with conn:  # commits, or rolls back and raises
        conn.execute("BEGIN")
        attempts.put(conn, changed)


def test_a_gpu_is_not_granted_to_two_live_attempts(conn: sqlite3.Connection) -> None:
    put(conn, an_attempt("aa", "1", gpus=(0, 1)))
    with pytest.raises(sqlite3.IntegrityError, match="grants"):
        put(conn, an_attempt("bb", "2", gpus=(1, 2)))


def test_the_same_index_on_another_node_is_another_gpu(conn: sqlite3.Connection) -> None:
    put(conn, an_attempt("aa", "1", node="n1"), an_attempt("bb", "2", node="n2"))
    assert len(attempts.live(conn)) == 2


def test_a_job_has_no_two_live_attempts(conn: sqlite3.Connection) -> None:
    put(conn, an_attempt("aa", "1", gpus=(0,)))
    with pytest.raises(sqlite3.IntegrityError, match=r"attempts\.job"):
        put(conn, an_attempt("bb", "1", gpus=(1,), number=2))


def test_two_ranks_of_one_attempt_do_not_share_a_gpu(conn: sqlite3.Connection) -> None:
    rank = Rank(NodeName("n1"), (3,), 1, 0)
    with pytest.raises(sqlite3.IntegrityError, match="grants"):
        put(conn, an_attempt("aa", "1", ranks=(rank, rank)))


def test_what_an_ended_attempt_held_is_granted_again_in_the_same_change(conn: sqlite3.Connection) -> None:
    put(conn, an_attempt("aa", "1"))
    after = an_attempt("bb", "1", number=2)
    put(conn, after, an_attempt("aa", "1", ended_at=9.0))
    assert attempts.live(conn) == [after]


def test_an_attempt_that_comes_back_takes_its_gpus_back_or_is_refused(conn: sqlite3.Connection) -> None:
    put(conn, an_attempt("aa", "1", ended_at=9.0))
    put(conn, an_attempt("aa", "1"))
    with pytest.raises(sqlite3.IntegrityError, match="grants"):
        put(conn, an_attempt("bb", "2"))
    put(conn, an_attempt("aa", "1", ended_at=9.0), an_attempt("bb", "2"))
    with pytest.raises(sqlite3.IntegrityError, match="grants"):
        put(conn, an_attempt("aa", "1"))


def shared(uid: str, job: str, **fields: Any) -> Attempt:
    return an_attempt(uid, job, ranks=(Rank(NodeName("n1"), (0, 1), 1, 0, gpu_share_bytes=20 << 30),), **fields)


def test_shares_of_a_gpu_lie_side_by_side_but_not_beside_one_that_has_it_whole(conn: sqlite3.Connection) -> None:
    put(conn, shared("aa", "1"), shared("bb", "2"))
    assert attempts.live(conn) == [shared("aa", "1"), shared("bb", "2")]
    with pytest.raises(sqlite3.IntegrityError, match="whole and shared"):
        put(conn, an_attempt("cc", "3", gpus=(1,)))
    put(conn, shared("aa", "1", ended_at=9.0), shared("bb", "2", ended_at=9.0), an_attempt("cc", "3", gpus=(1,)))
    for uid, job in (("dd", "4"), ("aa", "1")):
        with pytest.raises(sqlite3.IntegrityError, match="whole and shared"):
            put(conn, shared(uid, job))


def test_a_job_that_ended_has_an_end_and_a_state_is_one_of_ours(conn: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        jobs.put(conn, [a_job("1", JobState.FAILED, finished_at=None)])
    jobs.put(conn, [a_job("1")])
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        conn.execute("UPDATE jobs SET state = 'PENDING'")


def test_a_double_booking_is_never_durable_and_stops_the_writer(store: Store, running: RunningWriter) -> None:
    running.write(1, PutAttempt(an_attempt("aa", "1")))
    running.writer.enqueue(2, (*a_submit(2), PutAttempt(an_attempt("bb", "2"))))
    failure = running.next()
    assert isinstance(failure, StoreFailure)
    assert (failure.kind, failure.first_seq) == (FailureKind.BROKEN, 2)
    running.writer.enqueue(3, a_submit(3))
    running.writer.close()
    assert running.news.empty()
    assert (store.load().last_seq, store.load().jobs) == (1, [])
