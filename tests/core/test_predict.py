"""What is learned from runs that ended, and from those that have not."""

from __future__ import annotations

from gpuq.model import AttemptUid, Job, JobId, PastRun, Request
from gpuq.predict import FIRST_GUESS_SECONDS, HALF_LIFE_SECONDS, KEPT, RunTimes, Usage
from gpuq.states import JobState

AT = 1_700_000_000.0


def a_job(name: str = "train", user: str = "ada", gpus: int = 1, at: float = AT) -> Job:
    request = Request(gpus_per_node=gpus)
    return Job(JobId("1"), 1, None, name, user, "main", 0, request, JobState.QUEUED, at, at)


def ran(job: Job, seconds: float, at: float = AT, whole: bool = True) -> PastRun:
    return PastRun(job.kind, job.batch, at, at + seconds, whole)


def test_before_anything_has_run_there_is_a_guess() -> None:
    assert RunTimes().expected(a_job().kind, 0, AT) == FIRST_GUESS_SECONDS


def test_a_kind_comes_to_its_own_mean_and_an_unknown_one_to_that_of_its_size() -> None:
    times = RunTimes()
    for _ in range(200):
        times.remember(ran(a_job("short"), 60))
        times.remember(ran(a_job("long", gpus=8), 36_000))
    at = AT + 60
    assert times.expected(a_job("short").kind, 0, at) < 70
    assert times.expected(a_job("new", user="bob").kind, 0, at) < 200
    assert times.expected(a_job("new", user="bob", gpus=8).kind, 0, at) > 30_000


def test_names_that_differ_in_numbers_are_one_kind() -> None:
    assert a_job("lr0.1-seed3").kind == a_job("lr0.25-seed14").kind != a_job("eval").kind


def test_siblings_that_still_run_raise_the_expectation() -> None:
    times, job = RunTimes(), a_job()
    for _ in range(50):
        times.remember(ran(a_job("other"), 60))
    before = times.expected(job.kind, job.batch, AT)
    for number in range(8):
        times.started(AttemptUid(str(number)), job, AT)
    assert times.expected(job.kind, job.batch, AT + 7_200) > max(7_200, 10 * before)


def test_a_run_that_was_given_up_counts_its_time_but_not_as_an_end() -> None:
    given_up, done = RunTimes(), RunTimes()
    given_up.remember(ran(a_job(), 600, whole=False))
    done.remember(ran(a_job(), 600))
    assert given_up.expected(a_job().kind, 0, AT + 600) > done.expected(a_job().kind, 0, AT + 600)


def test_what_is_long_past_gives_way_to_what_is_new() -> None:
    times = RunTimes()
    for _ in range(100):
        times.remember(ran(a_job(), 60))
    later = AT + 8 * HALF_LIFE_SECONDS
    for _ in range(10):
        times.remember(ran(a_job(), 6_000, at=later))
    assert times.expected(a_job().kind, 1, later + 6_000) > 5_000


def test_memory_is_bounded_however_many_kinds_there_are() -> None:
    times = RunTimes()
    for number in range(2 * KEPT):
        times.remember(ran(a_job(user=f"u{number}"), 60, at=AT + number))
    assert len(vars(times)["_tallies"]) <= KEPT + 4


def test_usage_counts_what_runs_and_halves_what_is_past() -> None:
    usage = Usage()
    usage.started(AttemptUid("a"), a_job(gpus=4), AT)
    assert usage.of("ada", AT + 100) == 400
    usage.ended(AttemptUid("a"), AT + 100)
    assert usage.of("ada", AT + 100) == 400
    assert usage.of("ada", AT + 100 + HALF_LIFE_SECONDS) == 200
    assert usage.of("bob", AT) == 0
