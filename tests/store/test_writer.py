"""Group commit: order kept, all or nothing, one word a commit, and failure that loses nothing acknowledged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gpuq.changes import AddEvent, PutAttempt, PutJob
from gpuq.model import JobId, JobSpec
from gpuq.states import JobState
from gpuq.store import FailureKind, Store, StoreFailure, attempts, events, jobs, specs
from tests.store.builders import RunningWriter, a_job, a_submit, an_attempt

BULKY = JobSpec(("true",), "x" * 10_000, None)


def test_what_is_said_to_be_durable_is_read_by_everyone(path: Path, running: RunningWriter) -> None:
    running.write(1, *a_submit(1))
    other = sqlite3.connect(path)
    assert other.execute("SELECT COUNT(*) FROM jobs").fetchone() == (1,)
    other.close()


def test_many_changes_become_durable_in_order_with_few_commits(store: Store, running: RunningWriter) -> None:
    shell = sqlite3.connect(store.path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")  # the first commit waits for it: what comes meanwhile is one group
    for seq in range(1, 201):
        running.writer.enqueue(seq, a_submit(seq))
    shell.close()
    said = running.wait_durable(200)
    assert said == sorted(said)
    assert len(said) < 20
    order = [event.job for _, event in events.after(store.reader, 0, events.Filter(), 1000)]
    assert order == [str(seq) for seq in range(1, 201)]


def test_of_many_states_in_one_group_the_last_one_stays(store: Store, running: RunningWriter) -> None:
    attempt = an_attempt("aa")
    running.writer.enqueue(1, (PutJob(a_job("1")),))
    running.writer.enqueue(2, (PutJob(a_job("1", JobState.ALLOCATED)), PutAttempt(attempt)))
    over = an_attempt("aa", ended_at=8.0)
    running.write(3, PutJob(a_job("1", JobState.SUCCEEDED)), PutAttempt(over), AddEvent(1.0, "x", ""))
    assert jobs.job(store.reader, JobId("1")) == a_job("1", JobState.SUCCEEDED)
    assert attempts.of_job(store.reader, JobId("1")) == [over]


def test_numbers_must_rise(running: RunningWriter) -> None:
    running.write(5, *a_submit(1))
    for seq in (5, 4):
        with pytest.raises(ValueError, match="comes after 5"):
            running.writer.enqueue(seq, ())


def test_close_writes_what_was_given(store: Store, running: RunningWriter) -> None:
    for seq in range(1, 101):
        running.writer.enqueue(seq, a_submit(seq))
    running.writer.close()
    assert store.load().last_seq == 100
    with pytest.raises(ValueError, match="after close"):
        running.writer.enqueue(101, ())


def test_a_reader_left_open_does_not_stop_the_writer(store: Store, running: RunningWriter) -> None:
    reader = store.open_reader()
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM jobs").fetchone()
    for seq in range(1, 301):  # past several checkpoints
        running.write(seq, *a_submit(seq))
    assert reader.execute("SELECT COUNT(*) FROM jobs").fetchone() == (0,)
    reader.execute("COMMIT")
    assert reader.execute("SELECT COUNT(*) FROM jobs").fetchone() == (300,)
    reader.close()


def test_the_log_does_not_grow_without_end(path: Path, running: RunningWriter) -> None:
    for seq in range(1, 1501):
        running.write(seq, *a_submit(seq))
    assert path.with_name("controller.db-wal").stat().st_size < 24 << 20


def fill(store: Store, running: RunningWriter) -> StoreFailure:
    """Submit, many at a time, until the database may not grow any more; submit n is change n."""
    (pages,) = store.write_connection.execute("PRAGMA page_count").fetchone()
    store.write_connection.execute(f"PRAGMA max_page_count = {pages + 300}")
    for seq in range(1, 1001):
        running.writer.enqueue(seq, a_submit(seq, BULKY))
        if seq % 10 == 0:
            news = running.next()
            while isinstance(news, int) and news < seq:
                news = running.next()
            if isinstance(news, StoreFailure):
                return news
    raise AssertionError("the database never filled up")


def test_a_full_disk_loses_nothing_acknowledged_and_writing_goes_on_when_there_is_room(
    store: Store, running: RunningWriter
) -> None:
    failure = fill(store, running)
    assert failure.kind is FailureKind.FULL
    assert "full" in failure.text
    kept = store.load()
    assert kept.last_seq == failure.first_seq - 1
    assert [job.number for job in kept.jobs] == list(range(1, failure.first_seq))

    running.writer.enqueue(5_000, a_submit(5_000))  # decided before the failure was known: dropped
    running.writer.resume()
    running.writer.enqueue(failure.first_seq, a_submit(failure.first_seq, BULKY))
    again = running.next()  # still no room
    while isinstance(again, int):  # unless the group was smaller than before and just fitted
        running.writer.enqueue(again + 1, a_submit(again + 1, BULKY))
        again = running.next()
    assert again.kind is FailureKind.FULL

    store.write_connection.execute("PRAGMA max_page_count = 1000000")
    running.writer.resume()
    running.write(again.first_seq, *a_submit(again.first_seq, BULKY))
    assert [job.number for job in store.load().jobs] == list(range(1, again.first_seq + 1))
    assert specs.spec(store.reader, JobId(str(again.first_seq))) == BULKY


def test_a_record_that_cannot_be_written_stops_the_writer_for_good(store: Store, running: RunningWriter) -> None:
    running.write(1, *a_submit(1))
    running.writer.enqueue(2, (*a_submit(2), PutJob(a_job("3", priority=2**70))))
    failure = running.next()
    assert isinstance(failure, StoreFailure)
    assert (failure.kind, failure.first_seq) == (FailureKind.BROKEN, 2)
    running.writer.resume()
    running.writer.enqueue(3, a_submit(4))
    running.writer.close()
    assert running.news.empty()
    assert [job.number for job in store.load().jobs] == [1]


def test_a_disk_with_room_is_told_and_nothing_is_left_of_the_trial(path: Path, running: RunningWriter) -> None:
    before = sorted(path.parent.iterdir())
    assert running.writer.probe()
    assert sorted(path.parent.iterdir()) == before
