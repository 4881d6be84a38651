"""What the controller starts from: all that has not ended, and nothing else."""

from __future__ import annotations

from gpuq.changes import PutAttempt, PutJob
from gpuq.model import Array, IndexRange, JobId
from gpuq.spent import Spent, SpentHour
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


def test_gpu_hours_are_loaded_by_user_and_the_hour_of_the_end(store: Store, running: RunningWriter) -> None:
    at, day = 3_600.0 * 24 * 100, 86_400.0
    ended = [
        an_attempt("aa", "1", (0, 1), granted_at=at - 100.5, ended_at=at + 1.0),
        an_attempt("bb", "1", (0,), granted_at=at + 2.0, ended_at=at + 12.0),
        an_attempt("cc", "2", (2,), granted_at=at - 31 * day, ended_at=at - 30 * day + 4_000.0),
        an_attempt("dd", "2", (3,), granted_at=1.0, ended_at=at - 31 * day),
        an_attempt("ee", "2", (), granted_at=1.0, ended_at=at),
        an_attempt("ff", "2", (4,), granted_at=1.0),
    ]
    jobs = [a_job("1", S.SUCCEEDED, user="ada"), a_job("2", S.RUNNING, user="bob")]
    running.write(1, *map(PutJob, jobs), *map(PutAttempt, ended))
    assert store.load().spent == [SpentHour("ada", 2_400, 203 + 10), SpentHour("bob", 1_681, int(day + 4_000))]


def test_gpu_hours_are_after_a_restart_what_they_were_before(store: Store, running: RunningWriter) -> None:
    before, after, at = Spent(), Spent(), 5_000_000.0
    running.write(1, PutJob(a_job("1", S.SUCCEEDED, user="ada")))
    for number in range(5):
        attempt = an_attempt(f"a{number}", "1", (0, 1), granted_at=at + 0.3 * number, ended_at=at + 1_234.56 * number)
        before.started(attempt, "ada")
        before.ended(attempt.uid, attempt.ended_at or 0.0)
        running.write(2 + number, PutAttempt(attempt))
    for hour in store.load().spent:
        after.remember(hour)
    assert after.gpu_hours("ada", at + 9_000.0) == before.gpu_hours("ada", at + 9_000.0) > 6
