"""Every reason for which a job waits, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from gpuq.changes import PutNode
from gpuq.model import Dependency, DependencyKind, JobId, NodeName
from gpuq.scheduler import by_node, explain
from gpuq.states import NodeState
from gpuq.view import Policy
from tests.service.builders import REQUEUED, Desk, a_node


def say(desk: Desk, id: str) -> str:
    reason = desk.reason(id)
    assert reason is not None
    return f"{reason.code.value}: {reason.text}"


def test_held_depending_beginning_and_backing_off() -> None:
    desk = Desk()
    held = desk.submit(hold=True)
    waits = desk.submit(
        dependencies=tuple(Dependency(kind, JobId(held)) for kind in DependencyKind),
    )
    begins = desk.submit(begin_at=desk.wall + 3_600)
    assert say(desk, held) == "held: held by ada"
    assert say(desk, waits) == "dependency: waits for the success of 1, the end of 1, the failure of 1"
    assert say(desk, begins) == "begin: begins 2023-11-14T23:13:20.000Z"


def test_no_nodes() -> None:
    desk = Desk(a_node("new", inventory=None, boot_id=None))
    job = desk.submit()
    assert say(desk, job) == "no_nodes: no node has joined yet"
    desk = Desk(*(a_node(f"n{i}", gpus=8 if i < 5 else 0) for i in range(6)))
    job = desk.submit(gpus=1)
    second = desk.submit(gpus=1)
    for node in list(desk.cluster.nodes.values()):
        desk.states[node.name] = NodeState.SUSPECT
    assert say(desk, job) == say(desk, second) == "no_nodes: no node is up"
    desk.states.clear()
    desk.cluster.apply([PutNode(a_node("n0", gpus=8, cordoned=True))])
    desk.cluster.apply([PutNode(a_node("n1", gpus=8, cordoned=True, draining=True))])
    desk.states.update({NodeName(name): NodeState.LOST for name in ("n2", "n3", "n4")})
    assert say(desk, job) == (
        "no_nodes: no node that could run it takes work: n0 is cordoned, n1 is draining, n2 is lost and 2 more"
    )


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"gpus": 16}, "needs 16 GPUs on one node, the largest has 8"),
        ({"gpus": 16, "gpu_type": "H100"}, "needs 16 h100 GPUs on one node, the largest has 8"),
        ({"gpus": 1, "gpu_type": "b200"}, "needs 1 b200 GPU, no node has any"),
        ({"gpus": 2, "gpu_memory_bytes": 96 << 30}, "needs 2 GPUs with 96G on one node, no node has any"),
        ({"cpus": 100}, "no node could ever run it: the largest, n2, has 64 of 100 CPUs free"),
        ({"memory_bytes": 128 << 30}, "no node could ever run it: the largest, n2, has 64G of 128G memory free"),
        ({"gpus": 1, "cpus": 32}, "no node could ever run it: the largest, n2, has 0 of 1 GPU free"),
        ({"only_nodes": ("n9",)}, "none of the nodes it may run on has joined"),
        ({"not_nodes": ("n1", "n2")}, "none of the nodes it may run on has joined"),
        ({"only_nodes": ("n2",), "gpus": 1}, "needs 1 GPU, no node has any"),
    ],
)
def test_too_large_for_any_node_even_an_empty_one(asked: dict[str, Any], text: str) -> None:
    desk = Desk(a_node("n1", gpus=8, cpus=16), a_node("n2", gpus=0, cpus=64))
    desk.states[NodeName("n1")] = NodeState.LOST  # it may come back: what it has counts
    job, second = desk.submit(**asked), desk.submit(**asked)
    assert say(desk, job) == f"too_large: {text}"
    assert say(desk, second) == f"too_large: {text}", "and not: behind the first"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"gpus": 4}, "waits for 3 more GPUs on one node"),
        ({"gpus": 4, "gpu_type": "H100"}, "waits for 3 more h100 GPUs on one node"),
        ({"gpus": 2, "only_nodes": ("n1",)}, "waits for 1 more GPU"),
        ({"gpus": 1, "cpus": 16}, "n1 has 1 of 16 CPUs free"),
        ({"gpus": 1, "memory_bytes": 64 << 30, "cpus": 16}, "n1 has 1 of 16 CPUs free and has 24G of 64G memory free"),
    ],
)
def test_short_for_now_with_its_numbers(asked: dict[str, Any], text: str) -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    for name in ("n1", "n2"):
        desk.submit(gpus=3, cpus=15, memory_bytes=40 << 30, only_nodes=(name,))
    desk.plan()
    assert say(desk, desk.submit(**asked)) == f"resources: {text}"


def test_behind_placing_and_as_many_jobs_as_one_node_may_run() -> None:
    desk = Desk(policy=Policy(max_ranks_per_node=2))
    jobs = [desk.submit() for _ in range(4)]
    assert [say(desk, id) for id in jobs[:2]] == ["placing: starts with the next plan", "behind: behind 1"]
    desk.plan()
    assert [say(desk, id) for id in jobs[2:]] == ["resources: n1 runs as many jobs as one node may", "behind: behind 3"]
    assert desk.reason(jobs[0]) is None


def test_who_is_behind_whom_goes_by_the_order_of_the_plan_and_not_by_that_of_submitting() -> None:
    desk = Desk(a_node("n1", gpus=1))
    for name, seconds in (("eval", 10), ("train", 10_000)):
        for _ in range(8):
            id = desk.submit(gpus=1, name=name)
            desk.run(id)
            desk.tick(seconds)
            desk.end(id)
    desk.run(desk.submit(gpus=1, name="train"))
    trains, evals = ([desk.submit(gpus=1, name=name) for _ in range(2)] for name in ("train", "eval"))
    assert [say(desk, id) for id in (*evals, *trains)] == [
        "resources: waits for 1 more GPU",
        f"behind: behind {evals[0]}",
        f"behind: behind {evals[0]}",
        f"behind: behind {evals[0]}",
    ]
    desk.end(next(iter(desk.cluster.attempts.values())).job)
    desk.plan()
    assert desk.states_of(*evals, *trains) == ["ALLOCATED", "QUEUED", "QUEUED", "QUEUED"]


def test_an_array_all_of_whose_elements_are_made_waits_as_its_first_that_waits() -> None:
    desk = Desk()
    desk.submit(array="0-1", gpus=4)
    desk.plan()
    desk.requeue("1_0")
    desk.end("1_0", REQUEUED)
    desk.hold("1_0")
    desk.plan()
    assert desk.states_of("1_0", "1_1") == ["QUEUED", "ALLOCATED"]
    assert say(desk, "1") == "held: held by ada"


def test_why_names_every_node_with_what_is_short() -> None:
    desk = Desk(
        a_node("n1"), a_node("n2", gpus=1), a_node("n3"), a_node("n4", cordoned=True), a_node("n5", inventory=None)
    )
    desk.states[NodeName("n3")] = NodeState.SUSPECT
    job = desk.submit(gpus=2, not_nodes=("n3",))
    assert [
        (said.node, not said.short, said.short) for said in by_node(desk.cluster, desk.job(job), desk.now, desk.policy)
    ] == [
        ("n1", True, ""),
        ("n2", False, "has 1 of 2 GPUs free"),
        ("n3", False, "is not among the nodes asked for and is suspect"),
        ("n4", False, "is cordoned"),
    ]


def test_a_job_that_does_not_wait_has_no_reason() -> None:
    desk = Desk()
    job = desk.submit()
    desk.run(job)
    assert explain(desk.cluster, desk.job(job), desk.now, desk.policy) is None
    desk.end(job)
    assert explain(desk.cluster, desk.job(job), desk.now, desk.policy) is None
