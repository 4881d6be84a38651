"""The rules of the plan, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuq.model import JobId, NodeName
from gpuq.node import Gpu, GpuHealth
from gpuq.reasons import WaitCode
from gpuq.scheduler import plan
from gpuq.states import ACTIVE, JobState, NodeState
from tests.service.builders import ADA, REQUEUED, ROOT, Desk, a_node, an_inventory


def started(desk: Desk) -> list[str]:
    before = {job.id for job in desk.jobs.values() if job.state in ACTIVE}
    desk.plan()
    return [a.job for a in desk.cluster.attempts.values() if a.job not in before]


def where(desk: Desk, id: str) -> tuple[str, tuple[int, ...]]:
    (rank,) = desk.attempt(id).ranks
    return rank.node, rank.gpus


def test_priority_comes_first_then_the_order_of_submitting() -> None:
    desk = Desk(a_node(gpus=2))
    desk.submit(gpus=1)
    desk.submit(gpus=1)
    desk.submit(ROOT, gpus=1, priority=5)
    assert started(desk) == ["3", "1"]


def test_a_small_job_leaves_whole_nodes_whole() -> None:
    desk = Desk(a_node("a", gpus=8), a_node("b", gpus=8))
    desk.submit(gpus=2)
    desk.plan()
    desk.submit(gpus=1)
    desk.submit(gpus=8)
    desk.plan()
    assert [where(desk, id) for id in ("1", "2", "3")] == [("a", (0, 1)), ("a", (2,)), ("b", tuple(range(8)))]


def test_work_without_gpus_goes_where_no_gpus_are_and_never_waits_for_any() -> None:
    desk = Desk(a_node("a", gpus=8, cpus=64), a_node("b", gpus=0, cpus=8))
    desk.submit(gpus=8)
    desk.submit(gpus=8)
    cpu = [desk.submit(cpus=4) for _ in range(3)]
    desk.plan()
    assert [where(desk, id)[0] for id in cpu] == ["b", "b", "a"]
    assert desk.state("2") is JobState.QUEUED


def test_an_impossible_job_blocks_nobody() -> None:
    desk = Desk()
    for _ in range(3):
        desk.submit(ROOT, gpus=64, priority=9)
        desk.submit(ROOT, cpus=10_000, priority=9)
    desk.plan()
    last = desk.submit(gpus=4)
    assert started(desk) == [last]


def test_a_requeued_element_counts_against_its_arrays_limit() -> None:
    """It used to start beside a fresh one: three at once of an array that allows two."""
    desk = Desk()
    desk.submit(array="0-9%2")
    desk.plan()
    desk.requeue("1_0")
    desk.end("1_0", REQUEUED)
    for _ in range(3):
        desk.plan()
        assert desk.cluster.running_elements(JobId("1")) == 2
    running = {job.id for job in desk.cluster.elements(JobId("1")) if job.state is not JobState.QUEUED}
    assert running == {"1_0", "1_1"}, "an element that was made goes before those that were not"


def test_an_array_at_its_limit_holds_up_nobody_who_asks_for_the_same() -> None:
    desk = Desk()
    desk.submit(array="0-9%1", gpus=1)
    desk.plan()
    other = desk.submit(gpus=1)
    assert desk.reason("1").text == "1 element of the array runs at once, as its %1 allows"  # type: ignore[union-attr]
    assert desk.reason(other).code is WaitCode.PLACING  # type: ignore[union-attr]
    assert started(desk) == [other]


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (GpuHealth.UNKNOWN, "1 unknown"),
        (GpuHealth.QUARANTINED, "1 quarantined"),
        (GpuHealth.FOREIGN, "1 in use outside of gpuq"),
    ],
)
def test_a_gpu_that_is_not_well_is_never_granted_and_the_reason_says_why(health: GpuHealth, said: str) -> None:
    inventory = an_inventory(gpus=2)
    gpu = replace(inventory.gpus[0], health=health, health_text="because")
    sick = replace(inventory, gpus=(gpu, inventory.gpus[1]))
    desk = Desk(a_node(inventory=sick))
    both, one = desk.submit(gpus=2), desk.submit(gpus=1)
    desk.plan()
    assert where(desk, one) == ("n1", (1,))
    assert desk.reason(both).text == f"waits for 2 more GPUs; {said} (n1 GPU 0: because)"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "size", "gpus"),
    [("h100", None, (1, 3)), (None, 60 << 30, (1, 3)), ("A100", None, (0, 2)), ("NVIDIA", 30 << 30, (0, 1))],
)
def test_gpus_are_chosen_by_type_and_memory(kind: str | None, size: int | None, gpus: tuple[int, ...]) -> None:
    mixed = tuple(
        Gpu(i, f"u{i}", "NVIDIA H100" if i % 2 else "NVIDIA A100", (80 if i % 2 else 40) << 30) for i in range(4)
    )
    desk = Desk(a_node(inventory=replace(an_inventory(), gpus=mixed)))
    job = desk.submit(gpus=2, gpu_type=kind, gpu_memory_bytes=size)
    desk.plan()
    assert where(desk, job) == ("n1", gpus)


def test_a_gpu_of_unknown_memory_meets_no_demand_for_memory() -> None:
    desk = Desk(a_node(inventory=replace(an_inventory(), gpus=(Gpu(0, "u", "x", None),))))
    job, other = desk.submit(gpus=1, gpu_memory_bytes=1), desk.submit(gpus=1)
    assert started(desk) == [other]
    assert desk.reason(job).text == "needs 1 GPU with 1B, no node has any"  # type: ignore[union-attr]


@pytest.mark.parametrize("state", [NodeState.SUSPECT, NodeState.LOST])
def test_a_node_that_is_not_up_takes_no_work(state: NodeState) -> None:
    desk = Desk()
    desk.states[NodeName("n1")] = state
    desk.submit()
    assert started(desk) == []


def test_the_actor_does_not_matter_to_the_plan() -> None:
    one, other = Desk(), Desk()
    one.submit(ADA, gpus=1)
    other.submit(ROOT, gpus=1)
    assert plan(one.cluster, one.now, one.policy) == plan(other.cluster, other.now, other.policy)
