"""What the controller starts from: all that has not ended, and nothing else."""

from __future__ import annotations

from gpuq.changes import PutAttempt, PutJob
from gpuq.model import Array, IndexRange, JobId
from gpuq.states import JobState
from gpuq.store import Store
from tests.store.builders import RunningWriter, a_job, a_submit, an_attempt

S = JobState


def test_load_gives_what_has_not_ended_in_submit_order(store: Store, running: RunningWriter) -> None:
    array = Array((IndexRange(0, 9),), (IndexRange(3, 9),))
    live = [a_job("2"), a_job("3", array=array), a_job("3_2", S.RUNNING), a_job("10", S.LOST)]
    ended = [a_job("1", S.FAILED), a_job("3_0", S.SUCCEEDED), a_job("3_1", S.SUCCEEDED), a_job("4", S.CANCELED)]
    running.write(1, *(PutJob(job) for job in [*reversed(live), *ended]))
    snapshot = store.load()
    assert snapshot.jobs == live
    assert snapshot.element_counts == {JobId("3"): {S.SUCCEEDED: 2, S.RUNNING: 1}}


def test_live_attempts_are_loaded_oldest_first(store: Store, running: RunningWriter) -> None:
    late, early = an_attempt("aa", "1", (0,), granted_at=9.0), an_attempt("bb", "2", (1,), granted_at=3.0)
    over = an_attempt("cc", "3", (2,), granted_at=1.0, ended_at=2.0)
    running.write(1, *map(PutAttempt, (late, early, over)))
    assert store.load().attempts == [early, late]


def test_the_next_number_never_goes_back(store: Store, running: RunningWriter) -> None:
    running.write(1, *a_submit(41))
    running.write(2, *a_submit(7))
    store.write_connection.execute("DELETE FROM jobs")
    assert store.load().next_number == 42


def test_an_array_that_ended_is_loaded_no_more(store: Store, running: RunningWriter) -> None:
    array = Array((IndexRange(0, 0),), ())
    running.write(1, PutJob(a_job("5", array=array)), PutJob(a_job("5_0", S.RUNNING)))
    running.write(2, PutJob(a_job("5", S.SUCCEEDED, array=array)), PutJob(a_job("5_0", S.SUCCEEDED)))
    snapshot = store.load()
    assert (snapshot.jobs, snapshot.element_counts, snapshot.next_number) == ([], {}, 6)


def test_jobs_that_ask_for_the_same_share_one_request(store: Store, running: RunningWriter) -> None:
    running.write(1, *a_submit(1))
    running.write(2, *a_submit(2))
    first, second = store.load().jobs
    assert first.request is second.request
