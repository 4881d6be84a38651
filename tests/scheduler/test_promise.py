"""Whom room was promised at the latest stays first until it starts, and nobody else does for longer than that."""

from __future__ import annotations

from gpuq.scheduler import promised
from gpuq.scheduler.plan import plan
from gpuq.states import JobState
from tests.service.builders import ROOT, Desk, a_node

HOUR = 3_600


def a_desk_with_a_promise() -> Desk:
    """Three of four GPUs are held for an hour; job 2, which is long, has all four promised then."""
    desk = Desk(a_node(gpus=4))
    desk.submit(gpus=3, time_limit_seconds=HOUR)
    desk.plan()
    for _ in range(3):
        desk.submit(gpus=4, time_limit_seconds=10 * HOUR)
    desk.submit(time_limit_seconds=9 * HOUR, gpus=1)
    desk.plan()
    assert desk.cluster.promised == "2"
    return desk


def short(desk: Desk) -> str:
    """A job that goes before long ones, and ends after room for the first of them comes free."""
    desk.wall += 3_000
    return desk.submit(gpus=1, time_limit_seconds=1_000)


def test_short_work_that_comes_later_does_not_go_before_it() -> None:
    desk = a_desk_with_a_promise()
    job = short(desk)
    desk.plan()
    assert desk.state(job) is JobState.QUEUED
    reason = desk.reason(job)
    assert reason is not None
    assert reason.text == "fits, but room is kept for 2, in 10m at the latest"
    desk.end("1")
    desk.plan()
    assert desk.state("2") is JobState.ALLOCATED


def test_it_ends_with_a_hold() -> None:
    desk = a_desk_with_a_promise()
    desk.hold("2")
    job = short(desk)
    desk.plan()
    assert desk.state(job) is JobState.ALLOCATED
    assert desk.cluster.promised == "3", "the next of those for whom room is kept"


def test_a_higher_priority_goes_before_it_and_takes_it_over() -> None:
    desk = a_desk_with_a_promise()
    desk.submit(ROOT, gpus=4, time_limit_seconds=HOUR, priority=1)
    desk.plan()
    assert desk.cluster.promised == "6"
    desk.end("1")
    desk.plan()
    assert desk.state("6") is JobState.ALLOCATED


def test_of_an_array_each_element_in_its_turn_is_promised_room() -> None:
    desk = Desk(a_node(gpus=4))
    desk.submit(gpus=3, time_limit_seconds=HOUR)
    desk.plan()
    desk.submit(gpus=4, time_limit_seconds=HOUR, array="0-2")
    desk.submit(gpus=1, time_limit_seconds=9 * HOUR)
    desk.plan()
    assert desk.cluster.promised == "2"
    desk.end("1")
    desk.plan()
    assert desk.state("2_0") is JobState.ALLOCATED
    assert desk.cluster.promised == "2"
    desk.cancel("3")
    desk.tick(HOUR)
    desk.end("2_0")
    desk.plan()
    assert desk.state("2_1") is JobState.ALLOCATED


def test_nobody_is_promised_what_is_only_expected() -> None:
    desk = Desk(a_node(gpus=4))
    desk.submit(gpus=3)
    desk.plan()
    desk.submit(gpus=4)
    desk.submit(gpus=1, time_limit_seconds=9 * HOUR)
    planned = plan(desk.cluster, desk.now, desk.policy)
    assert [kept.bounded for kept in planned.reserved] == [False]
    assert promised(desk.cluster, planned) is None


def test_after_a_cancel_it_is_the_next_ones() -> None:
    desk = a_desk_with_a_promise()
    desk.cancel("2")
    desk.plan()
    assert desk.cluster.promised == "3"
