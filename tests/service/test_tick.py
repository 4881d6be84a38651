"""What only time brings: scheduling timeouts."""

from __future__ import annotations

from gpuq.states import JobState
from tests.service.builders import WALL, Desk, a_node


def test_a_scheduling_timeout_fails_what_has_not_started() -> None:
    desk = Desk()
    job, other = desk.submit(gpus=64, scheduling_timeout_seconds=90), desk.submit(scheduling_timeout_seconds=90)
    desk.run(other)
    desk.tick(89.9)
    assert desk.state(job) is JobState.QUEUED
    desk.tick(0.1)
    assert (desk.state(job), desk.state(other)) == (JobState.FAILED, JobState.RUNNING)
    assert desk.cause(job) == ("scheduling_timeout", "did not start within 00:01:30")
    assert desk.job(job).finished_at == desk.wall


def test_an_array_whose_elements_all_run_no_longer_times_out() -> None:
    """It used to be failed again each second, a write each, and in the end showed a cause though it SUCCEEDED."""
    desk = Desk()
    array = desk.submit(array="0-1", scheduling_timeout_seconds=60)
    desk.run("1_0")
    desk.run("1_1")
    desk.tick(61)
    assert desk.job(array).cause is None
    assert not list(desk.cluster.timed())
    desk.end("1_0")
    desk.end("1_1")
    assert (desk.state(array), desk.cause(array)) == (JobState.SUCCEEDED, None)


def test_an_arrays_timeout_fails_the_elements_that_wait_and_no_other() -> None:
    desk = Desk()
    array = desk.submit(array="0-9%2", scheduling_timeout_seconds=60)
    desk.run("1_0")
    desk.run("1_1")
    desk.tick(61)
    assert desk.states_of("1_0", "1_1") == ["RUNNING", "RUNNING"]
    assert (desk.state(array), desk.job(array).array.dropped) == (JobState.QUEUED, 8)  # type: ignore[union-attr]
    desk.end("1_0")
    desk.end("1_1")
    assert (desk.state(array), desk.cause(array)) == (
        JobState.FAILED,
        ("scheduling_timeout", "did not start within 00:01:00"),
    )


def test_a_scheduling_timeout_counts_from_when_only_resources_are_short() -> None:
    desk = Desk(a_node(gpus=1))
    desk.run(desk.submit(gpus=1))
    job = desk.submit(gpus=1, begin_at=WALL + 100, scheduling_timeout_seconds=30)
    desk.tick(100)
    desk.tick(29)
    assert desk.state(job) is JobState.QUEUED
    desk.tick(1)
    assert desk.cause(job) == ("scheduling_timeout", "did not start within 00:00:30")
