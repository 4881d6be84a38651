"""Preemption: who is stopped for whom, what is kept for them, and what is never done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.changes import PutJob, PutNode, PutSettings
from gpuq.cluster import Cluster
from gpuq.document import read
from gpuq.errors import InvalidRequest
from gpuq.model import NodeName, StopKind
from gpuq.node import GpuHealth
from gpuq.reasons import WaitCode
from gpuq.scheduler import plan
from gpuq.service.nodes import orders
from gpuq.states import JobState, NodeState
from tests.scheduler.yielding import QUEUES, a_desk, spare
from tests.service.builders import ADA, BOB, REQUEUED, ROOT, Desk, exited


def stopping(desk: Desk) -> set[str]:
    return {a.job for a in desk.cluster.attempts.values() if a.stop is not None and a.stop.kind is StopKind.PREEMPT}


def gone(desk: Desk, *ids: str) -> None:
    """They have ended, as they were told."""
    for id in ids:
        desk.end(id, REQUEUED)


def where(desk: Desk, id: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(rank.node, rank.gpus) for rank in desk.attempt(id).ranks]


# ---------------------------------------------------------------- who is stopped


def test_a_job_of_a_queue_that_goes_before_gets_the_room_of_one_that_yields() -> None:
    desk = a_desk(2)
    victim = spare(desk, 0, gpus=2)
    job = desk.submit(gpus=2)
    desk.plan()
    assert desk.states_of(victim, job) == ["STOPPING", "QUEUED"]
    assert desk.reason(job).code is WaitCode.PREEMPTING  # type: ignore[union-attr]
    assert desk.reason(job).text == f"room is made for it on n0: waits for the end of {victim}"  # type: ignore[union-attr]
    gone(desk, victim)
    desk.plan()
    assert desk.states_of(victim, job) == ["QUEUED", "ALLOCATED"]
    assert desk.attempt(victim).cause.code.value == "preempted"  # type: ignore[union-attr]
    assert [event.text for event in desk.events if event.kind == "job.preempted"] == ["for job 2 of queue main"]


def test_without_a_queue_that_yields_nobody_is_stopped() -> None:
    queues = {**QUEUES, "spare": {"priority": 0}}
    desk = a_desk(2, queues=queues)
    victim, job = spare(desk, 0, gpus=2), desk.submit(queue="urgent", gpus=2)
    desk.plan()
    assert desk.states_of(victim, job) == ["RUNNING", "QUEUED"]


def test_only_queues_that_go_before_are_yielded_to() -> None:
    queues = {**QUEUES, "other": {"priority": 0}, "below": {"priority": -5}}
    desk = a_desk(1, queues=queues)
    spare(desk, 0)
    for queue in ("other", "below", "spare"):
        desk.submit(queue=queue, gpus=1)
    desk.plan()
    assert stopping(desk) == set()


def test_a_jobs_own_priority_stops_nobody() -> None:
    desk = a_desk(1)
    spare(desk, 0)
    desk.submit(ROOT, queue="spare", gpus=1, priority=1_000)
    desk.plan()
    assert stopping(desk) == set()


@pytest.mark.parametrize(
    ("ran", "sizes", "asked", "stopped"),
    [
        ([50, 10, 30, 20], [1, 1, 1, 1], 2, {1, 3}),  # the two that have done least
        ([10, 1, 100], [2, 1, 1], 2, {0}),  # not also the cheapest, which alone would not do
        ([10, 9, 9], [2, 1, 1], 2, {1, 2}),
        ([10, 10, 10], [2, 1, 1], 2, {0}),  # as much is lost: the fewest
        ([1, 5, 1000], [1, 1, 2], 4, {0, 1, 2}),
        ([1, 5, 5], [1, 1, 2], 1, {0}),
    ],
)
def test_the_least_gpu_time_is_lost_and_nobody_is_stopped_in_vain(
    ran: list[int], sizes: list[int], asked: int, stopped: set[int]
) -> None:
    desk = a_desk(4)
    ids = [spare(desk, 0, gpus=size, ran=seconds) for size, seconds in zip(sizes, ran, strict=True)]
    desk.submit(gpus=asked)
    desk.plan()
    assert stopping(desk) == {ids[i] for i in stopped}


def test_the_node_where_least_is_lost_is_taken() -> None:
    desk = a_desk(2, 2)
    dear = [spare(desk, 0, ran=500), spare(desk, 0, ran=1)]
    cheap = [spare(desk, 1, ran=100), spare(desk, 1, ran=100)]
    desk.submit(gpus=2)
    desk.plan()
    assert stopping(desk) == set(cheap)
    desk.submit(gpus=2)
    desk.plan()
    assert stopping(desk) == {*cheap, *dear}


def test_a_gang_gets_all_its_nodes_or_nobody_is_stopped() -> None:
    desk = a_desk(2, 2)
    first = spare(desk, 0, gpus=2, ran=100)
    mine = desk.submit(gpus=1, only_nodes=("n1",))
    desk.plan()
    gang = desk.submit(nodes=2, gpus_per_node=2)
    desk.plan()
    assert stopping(desk) == set()
    desk.end(mine)
    second = spare(desk, 1, gpus=1, time_limit_seconds=60)
    desk.plan()
    assert stopping(desk) == {first, second}
    gone(desk, first)
    desk.plan()
    assert desk.state(gang) is JobState.QUEUED
    gone(desk, second)
    desk.plan()
    assert where(desk, gang) == [("n0", (0, 1)), ("n1", (0, 1))]


def test_a_gang_that_yields_is_stopped_once_for_all_its_nodes() -> None:
    desk = a_desk(2, 2)
    victim = desk.submit(BOB, queue="spare", nodes=2, gpus_per_node=2)
    desk.plan()
    other = desk.submit(nodes=2, gpus_per_node=1)
    desk.plan()
    assert stopping(desk) == {victim}
    assert [rank.node for rank in desk.job(other).claim] == ["n0", "n1"]


def test_who_was_told_to_end_already_is_waited_for() -> None:
    desk = a_desk(2)
    first, second = spare(desk, 0, ran=9), spare(desk, 0, ran=10)
    desk.cancel(second, actor=BOB)
    desk.submit(gpus=1)
    desk.plan()
    assert stopping(desk) == set()
    desk.submit(gpus=1)
    desk.plan()
    assert stopping(desk) == {first}


def test_each_element_of_an_array_is_made_room_for_within_its_limit() -> None:
    desk = a_desk(4)
    victims = [spare(desk, 0, ran=i) for i in range(4)]
    array = desk.submit(gpus=1, array="0-3%2")
    desk.plan()
    assert stopping(desk) == set(victims[:2])
    gone(desk, *victims[:2])
    desk.plan()
    assert desk.states_of(f"{array}_0", f"{array}_1") == ["ALLOCATED"] * 2
    assert stopping(desk) == set()


def test_a_quota_is_no_way_round_by_preempting() -> None:
    desk = a_desk(2)
    settings, _ = read({"queues": QUEUES, "quotas": {ADA.user: {"gpus": 1}}})
    desk.cluster.apply([PutSettings(settings)])
    victims = [spare(desk, 0, ran=1), spare(desk, 0, ran=2)]
    ids = [desk.submit(gpus=1) for _ in range(2)]
    desk.plan()
    desk.plan()
    assert stopping(desk) == {victims[0]}
    assert [desk.reason(id).code for id in ids] == [WaitCode.PREEMPTING, WaitCode.QUOTA]  # type: ignore[union-attr]


def test_the_first_that_cannot_be_helped_is_not_delayed_by_one_behind_it() -> None:
    """Four GPUs come free for it in 100 s. Who would hold one of them longer gets nobody stopped."""
    desk = a_desk(4)
    desk.run(desk.submit(gpus=3, time_limit_seconds=100))
    victim = spare(desk, 0, gpus=1, time_limit_seconds=90)
    first = desk.submit(queue="urgent", gpus=4, time_limit_seconds=100)
    desk.submit(gpus=1, time_limit_seconds=1_000)
    desk.plan()
    assert stopping(desk) == set()
    desk.submit(gpus=1, time_limit_seconds=50)
    desk.plan()
    assert stopping(desk) == {victim}
    assert desk.state(first) is JobState.QUEUED


# ---------------------------------------------------------------- never a victim


def test_a_queue_that_yields_takes_no_job_that_may_not_run_again() -> None:
    desk = a_desk(1)
    with pytest.raises(InvalidRequest, match="--no-requeue is not possible in queue spare"):
        desk.submit(queue="spare", gpus=1, requeue=False)


@pytest.mark.parametrize("fields", [{"requeue": False}, {"losses_used": 10}])
def test_a_preemption_ends_no_job_for_good(fields: dict[str, Any]) -> None:
    desk = a_desk(1)
    id = spare(desk, 0)
    desk.cluster.apply([PutJob(replace(desk.job(id), **fields))])
    desk.submit(gpus=1)
    desk.plan()
    assert stopping(desk) == set()


def test_who_was_preempted_runs_a_while_before_it_is_again() -> None:
    desk = a_desk(1, cluster={"preempt_again_after": "10m"})
    victim = spare(desk, 0)
    for turn in range(3):
        job = desk.submit(gpus=1)
        desk.plan()
        if turn:
            assert stopping(desk) == set(), "it has only just begun"
            desk.tick(601)
            desk.plan()
        assert stopping(desk) == {victim}
        gone(desk, victim)
        desk.run(job)
        desk.end(job)
        desk.run(victim)
    assert desk.job(victim).losses_used == 3
    assert desk.job(victim).retries_used == 0


def test_a_victim_does_not_preempt_back() -> None:
    desk = a_desk(1)
    victim = spare(desk, 0, ran=1000)
    job = desk.submit(gpus=1)
    desk.plan()
    gone(desk, victim)
    for _ in range(3):
        desk.plan()
        desk.tick(5_000)
    assert desk.states_of(victim, job) == ["QUEUED", "ALLOCATED"]


# ---------------------------------------------------------------- what is kept


def test_what_came_free_is_kept_for_whom_it_was_freed() -> None:
    """Two are stopped for it; the GPU of the first that goes would fit the job behind, and one that is more urgent."""
    desk = a_desk(2)
    victims = [spare(desk, 0), spare(desk, 0)]
    job = desk.submit(gpus=2)
    desk.plan()
    gone(desk, victims[0])
    behind, before = desk.submit(gpus=1), desk.submit(queue="urgent", gpus=1)
    desk.plan()
    assert desk.states_of(job, behind, before, victims[0]) == ["QUEUED"] * 4
    assert desk.reason(before).text == "waits for 1 more GPU"  # type: ignore[union-attr]
    gone(desk, victims[1])
    desk.plan()
    assert desk.state(job) is JobState.ALLOCATED
    assert desk.job(job).claim == ()


def test_the_kept_room_outlives_the_controller() -> None:
    desk = a_desk(2)
    victims = [spare(desk, 0), spare(desk, 0)]
    job = desk.submit(gpus=2)
    desk.plan()
    gone(desk, victims[0])
    desk.submit(gpus=1)
    again = Cluster(desk)
    again.apply(PutNode(node) for node in desk.cluster.nodes.values())
    again.apply([PutSettings(desk.cluster.settings)])
    again.apply(PutJob(live) for live in desk.cluster.live_jobs())
    for attempt in desk.cluster.attempts.values():
        again._put_attempt(attempt)
    assert again == desk.cluster
    assert plan(again, desk.now, desk.policy) == plan(desk.cluster, desk.now, desk.policy)
    assert not plan(again, desk.now, desk.policy).placements
    assert job in {claimed.id for claimed in again.claims()}


def test_shared_gpus_cpus_and_whole_nodes_are_kept_too() -> None:
    desk = a_desk(1, 1)
    whole, cpus = spare(desk, 0), spare(desk, 1, gpus=0, cpus=16)
    share = desk.submit(gpus=1, shared=True, gpu_memory_bytes=20 << 30, only_nodes=("n0",))
    alone = desk.submit(cpus=1, exclusive=True, only_nodes=("n1",))
    desk.plan()
    assert stopping(desk) == {whole, cpus}
    other = desk.submit(gpus=1, shared=True, gpu_memory_bytes=70 << 30)
    small = desk.submit(cpus=1, only_nodes=("n1",))
    gone(desk, whole, cpus)
    desk.plan()
    assert desk.states_of(share, alone, other, small) == ["ALLOCATED", "ALLOCATED", "QUEUED", "QUEUED"]


@pytest.mark.parametrize("trouble", ["lost", "cordoned", "quarantined"])
def test_what_cannot_come_true_is_kept_for_nobody(trouble: str) -> None:
    desk = a_desk(2, 2)
    victims = [spare(desk, 0, gpus=2), spare(desk, 1, gpus=2, ran=50)]
    job = desk.submit(gpus=2)
    desk.plan()
    assert stopping(desk) == {victims[0]}
    node = desk.cluster.nodes[NodeName("n0")]
    assert node.inventory is not None
    if trouble == "lost":
        desk.states[node.name] = NodeState.LOST
    elif trouble == "cordoned":
        desk.cluster.apply([PutNode(replace(node, cordoned=True))])
    else:
        gone(desk, victims[0])
        sick = replace(node.inventory.gpus[0], health=GpuHealth.QUARANTINED)
        inventory = replace(node.inventory, gpus=(sick, node.inventory.gpus[1]))
        desk.cluster.apply([PutNode(replace(node, inventory=inventory))])
    desk.plan()
    assert victims[1] in stopping(desk)
    gone(desk, victims[1])
    desk.plan()
    assert where(desk, job) == [("n1", (0, 1))]


def test_a_suspect_node_is_waited_for() -> None:
    desk = a_desk(1, 1)
    victim, other = spare(desk, 0), spare(desk, 1, ran=50)
    job = desk.submit(gpus=1)
    desk.plan()
    gone(desk, victim)
    desk.states[NodeName("n0")] = NodeState.SUSPECT
    desk.plan()
    assert desk.states_of(job, other) == ["QUEUED", "RUNNING"]
    desk.states[NodeName("n0")] = NodeState.UP
    desk.plan()
    assert where(desk, job) == [("n0", (0,))]


def test_a_victim_that_does_not_go_is_not_waited_for_for_ever() -> None:
    desk = a_desk(1, 1)
    stuck, other = spare(desk, 0), spare(desk, 1, ran=50)
    job = desk.submit(gpus=1)
    desk.plan()
    desk.tick(89)
    desk.plan()
    assert stopping(desk) == {stuck}
    desk.tick(2)
    desk.plan()
    assert stopping(desk) == {stuck, other}
    gone(desk, other)
    desk.plan()
    assert where(desk, job) == [("n1", (0,))]


def test_a_job_that_is_held_or_canceled_keeps_nothing() -> None:
    desk = a_desk(1)
    for act in (desk.hold, desk.cancel):
        victim = spare(desk, 0)
        job = desk.submit(gpus=1)
        desk.plan()
        gone(desk, victim)
        act(job)
        desk.plan()
        assert desk.state(victim) is JobState.ALLOCATED
        desk.cancel(victim, actor=BOB)
        gone(desk, victim)


# ---------------------------------------------------------------- how a victim ends


def test_a_victim_that_ends_by_itself_has_ended_by_itself() -> None:
    desk = a_desk(2)
    done, failed = spare(desk, 0), spare(desk, 0)
    desk.submit(gpus=2)
    desk.plan()
    desk.end(done, exited(0))
    desk.end(failed, exited(3))
    assert desk.states_of(done, failed) == ["SUCCEEDED", "FAILED"]


def test_a_cancel_of_a_victim_ends_it() -> None:
    desk = a_desk(1)
    victim = spare(desk, 0)
    desk.submit(gpus=1)
    desk.plan()
    desk.cancel(victim, actor=BOB)
    desk.end(victim, exited(None, signal=15, stopped=StopKind.REQUEUE))
    assert desk.state(victim) is JobState.CANCELED


def test_its_time_limit_is_a_victims_own() -> None:
    desk = a_desk(1)
    victim = spare(desk, 0, time_limit_seconds=60)
    desk.submit(gpus=1)
    desk.plan()
    desk.end(victim, exited(None, signal=15, stopped=StopKind.TIME_LIMIT))
    assert desk.cause(victim) == ("time_limit", "reached its time limit")


def test_an_agent_is_told_of_a_requeue_which_it_knows() -> None:
    desk = a_desk(1)
    victim = spare(desk, 0)
    desk.submit(gpus=1)
    desk.plan()
    (order,) = orders(desk.cluster, NodeName("n0"), desk.sync("n0"), frozenset()).stop
    assert (order.uid, order.kind) == (desk.attempt(victim).uid, StopKind.REQUEUE)
