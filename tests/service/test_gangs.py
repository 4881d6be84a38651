"""Jobs of several ranks: they start whole or not at all, and end together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.model import EndReason, ExitRecord, JobId, NodeName, OnLost, RankPhase, StopKind
from gpuq.protocol import RankReport
from gpuq.service.commands import RemoveNode
from gpuq.service.nodes import orders
from gpuq.states import JobState
from tests.service.builders import ROOT, WALL, Desk, a_node, exited

PHASES = (RankPhase.ACCEPTED, RankPhase.READY)


def two(**fields: Any) -> tuple[Desk, JobId]:
    """Two nodes of four GPUs, and a job on both that was planned and sent."""
    desk = Desk(a_node("n1"), a_node("n2"))
    id = desk.submit(nodes=2, gpus_per_node=4, **fields)
    desk.plan()
    return desk, id


def say(desk: Desk, id: str, rank: int, phase: RankPhase, exit: ExitRecord | None = None) -> None:
    attempt = desk.attempt(id)
    started = desk.wall if phase is RankPhase.RUNNING else None
    report = RankReport(attempt.uid, rank, phase, exit=exit, started_at=started)
    desk.sync(attempt.ranks[rank].node, report)


def at(seconds: float, exit: ExitRecord) -> ExitRecord:
    return replace(exit, ended_at=WALL + seconds)


def ready(desk: Desk, id: str) -> None:
    for phase in PHASES:
        for rank in (0, 1):
            say(desk, id, rank, phase)


def run(desk: Desk, id: str) -> None:
    ready(desk, id)
    for rank in (0, 1):
        say(desk, id, rank, RankPhase.RUNNING)


def told(desk: Desk, name: str, *held: str) -> Any:
    """What a node is told now that holds these jobs' attempts."""
    request = desk.sync(name, holds=tuple(desk.attempt(id).uid for id in held))
    return orders(desk.cluster, NodeName(name), request, frozenset())


def test_a_gang_is_granted_one_rank_on_each_of_its_nodes_and_a_port_on_the_first() -> None:
    desk, id = two()
    attempt = desk.attempt(id)
    assert [(rank.node, rank.gpus) for rank in attempt.ranks] == [("n1", (0, 1, 2, 3)), ("n2", (0, 1, 2, 3))]
    assert attempt.port is not None


def test_a_gang_that_does_not_fit_whole_holds_nothing_and_says_what_it_waits_for() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    desk.submit(gpus=1)
    desk.plan()
    id = desk.submit(nodes=2, gpus_per_node=4)
    desk.plan()
    assert desk.state(id) is JobState.QUEUED
    reason = desk.reason(id)
    assert reason is not None
    assert reason.text == "waits for 1 more node with 4 GPUs: 1 of 2 have room"
    larger = desk.submit(nodes=3, gpus_per_node=4)
    reason = desk.reason(larger)
    assert reason is not None
    assert reason.text == "needs 3 nodes with 4 GPUs, only 2 could run a part of it: n1, n2"


def test_live_gangs_of_one_node_have_different_ports_and_the_next_attempt_another() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    ids = [desk.submit(nodes=2) for _ in range(50)]
    desk.plan()
    ports = [desk.attempt(id).port for id in ids]
    assert len(set(ports)) == 50
    desk.requeue(ids[0])
    for rank in (0, 1):
        say(desk, ids[0], rank, RankPhase.ENDED, ExitRecord(EndReason.NEVER_STARTED, WALL, stopped=StopKind.REQUEUE))
    desk.plan()
    assert desk.attempt(ids[0]).port not in (None, ports[0])


def test_the_second_rank_is_ordered_though_the_first_was_accepted_already() -> None:
    desk, id = two()
    say(desk, id, 0, RankPhase.ACCEPTED)
    assert desk.state(id) is JobState.STARTING
    assert [rank for _, rank in told(desk, "n2").run] == [1]


def test_no_rank_is_let_go_before_all_are_ready() -> None:
    desk, id = two()
    for phase, rank in ((RankPhase.ACCEPTED, 0), (RankPhase.ACCEPTED, 1), (RankPhase.READY, 0)):
        say(desk, id, rank, phase)
        assert not told(desk, "n1", id).go
    say(desk, id, 1, RankPhase.READY)
    uid = desk.attempt(id).uid
    assert (told(desk, "n1", id).go, told(desk, "n2", id).go) == ((uid,), (uid,))
    say(desk, id, 0, RankPhase.RUNNING)
    assert desk.state(id) is JobState.STARTING
    assert (told(desk, "n1", id).go, told(desk, "n2", id).go) == ((), (uid,))
    say(desk, id, 1, RankPhase.RUNNING)
    assert desk.state(id) is JobState.RUNNING


def test_a_rank_whose_set_up_fails_stops_those_that_are_ready() -> None:
    desk, id = two()
    say(desk, id, 0, RankPhase.READY)
    say(desk, id, 1, RankPhase.ENDED, ExitRecord(EndReason.SETUP_FAILED, WALL, text="set-up 1 failed"))
    assert not told(desk, "n1", id).go
    assert [stop.kind for stop in told(desk, "n1", id).stop] == [StopKind.SIBLING]
    say(desk, id, 0, RankPhase.ENDED, ExitRecord(EndReason.NEVER_STARTED, WALL, stopped=StopKind.SIBLING))
    assert desk.cause(id) == ("setup_failed", "set-up 1 failed")


def test_the_first_failing_rank_gives_the_job_its_exit_code_and_stops_the_others() -> None:
    desk, id = two()
    run(desk, id)
    say(desk, id, 1, RankPhase.ENDED, exited(7))
    assert desk.state(id) is JobState.STOPPING
    assert desk.cluster.free_gpus(NodeName("n2")) == (), "a gang gives its GPUs back together"
    say(desk, id, 0, RankPhase.ENDED, exited(None, signal=15, stopped=StopKind.SIBLING))
    assert (desk.state(id), desk.job(id).exit_code) == (JobState.FAILED, 7)
    assert desk.cluster.free_gpus(NodeName("n2")) == (0, 1, 2, 3)


def test_of_two_ranks_that_fail_by_themselves_the_earlier_one_tells() -> None:
    desk, id = two()
    run(desk, id)
    say(desk, id, 0, RankPhase.ENDED, at(2, exited(1)))
    say(desk, id, 1, RankPhase.ENDED, at(1, exited(5)))
    assert desk.job(id).exit_code == 5


def test_a_rank_that_ends_well_leaves_the_others_to_their_own_end() -> None:
    desk, id = two()
    run(desk, id)
    say(desk, id, 0, RankPhase.ENDED, exited(0))
    assert desk.state(id) is JobState.RUNNING
    assert not told(desk, "n2", id).stop
    say(desk, id, 1, RankPhase.ENDED, exited(0))
    assert (desk.state(id), desk.job(id).exit_code) == (JobState.SUCCEEDED, 0)


def test_a_gangs_own_failure_is_retried_once_all_ranks_are_gone() -> None:
    desk, id = two(max_retries=1)
    run(desk, id)
    say(desk, id, 0, RankPhase.ENDED, exited(3))
    say(desk, id, 1, RankPhase.ENDED, exited(None, signal=15, stopped=StopKind.SIBLING))
    assert (desk.state(id), desk.job(id).retries_used) == (JobState.QUEUED, 1)


def test_a_time_limit_is_the_cause_even_if_a_sibling_fails_because_of_it() -> None:
    desk, id = two(time_limit_seconds=10)
    run(desk, id)
    say(desk, id, 0, RankPhase.ENDED, at(9, exited(None, signal=15, stopped=StopKind.TIME_LIMIT)))
    say(desk, id, 1, RankPhase.ENDED, at(8, exited(1)))
    cause = desk.cause(id)
    assert cause is not None
    assert cause[0] == "time_limit"


def test_a_gang_is_lost_while_one_of_its_nodes_is_silent_and_returns_with_the_last() -> None:
    desk, id = two()
    run(desk, id)
    desk.silence("n2")
    assert desk.state(id) is JobState.LOST
    desk.sync("n1")
    assert desk.state(id) is JobState.LOST, "the other node's word says nothing of the silent one"
    desk.sync("n2")
    assert desk.state(id) is JobState.RUNNING


def test_a_restarted_node_ends_the_gang_as_a_loss_and_only_when_the_others_are_gone() -> None:
    desk, id = two()
    run(desk, id)
    desk.sync("n2", holds=(), boot_id="boot-2")
    assert desk.state(id) is JobState.STOPPING
    assert desk.cluster.free_gpus(NodeName("n1")) == ()
    say(desk, id, 0, RankPhase.ENDED, exited(None, signal=15, stopped=StopKind.SIBLING))
    assert (desk.state(id), desk.job(id).losses_used) == (JobState.QUEUED, 1)


def test_a_fenced_node_does_not_end_the_ranks_of_nodes_that_live() -> None:
    desk, id = two(on_lost=OnLost.FENCE)
    run(desk, id)
    desk.silence("n2")
    assert desk.cluster.attempt_of(id) is not None, "rank 0 still runs"
    assert [stop.kind for stop in told(desk, "n1", id).stop] == [StopKind.SIBLING]
    say(desk, id, 0, RankPhase.ENDED, exited(None, signal=15, stopped=StopKind.SIBLING))
    assert (desk.state(id), desk.job(id).losses_used) == (JobState.QUEUED, 1)


def test_removing_a_node_ends_its_rank_and_the_others_follow() -> None:
    desk, id = two()
    run(desk, id)
    desk.do(RemoveNode(ROOT, NodeName("n2"), force=True))
    assert desk.state(id) is JobState.STOPPING
    say(desk, id, 0, RankPhase.ENDED, exited(None, signal=15, stopped=StopKind.SIBLING))
    assert desk.state(id) is JobState.QUEUED
    assert desk.cluster.free_gpus(NodeName("n1")) == (0, 1, 2, 3)


@pytest.mark.parametrize("phase", [RankPhase.ACCEPTED, RankPhase.READY, RankPhase.RUNNING])
def test_a_cancel_reaches_every_rank_however_far_it_has_come(phase: RankPhase) -> None:
    desk, id = two()
    say(desk, id, 0, phase)
    desk.cancel(id)
    assert [[stop.kind for stop in told(desk, name, id).stop] for name in ("n1", "n2")] == [[StopKind.CANCEL]] * 2
    for rank in (0, 1):
        say(desk, id, rank, RankPhase.ENDED, ExitRecord(EndReason.NEVER_STARTED, WALL, stopped=StopKind.CANCEL))
    assert desk.state(id) is JobState.CANCELED
