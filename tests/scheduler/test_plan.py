"""The plan against what must hold of any plan, on generated clusters, and its rules one by one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from gpuq.cluster import Cluster
from gpuq.model import (
    Dependency,
    DependencyKind,
    ExitRecord,
    Gpu,
    GpuHealth,
    JobId,
    NodeName,
    PutJob,
    PutNode,
    RankPhase,
    Request,
    StopKind,
    WaitCode,
)
from gpuq.scheduler import Explainer, explain, plan, shortfalls
from gpuq.scheduler.fit import empty, fits, rooms
from gpuq.scheduler.fit import shortfalls as short_of
from gpuq.states import ACTIVE, JobState, NodeState
from gpuq.view import Plan, Policy
from tests.service.builders import ADA, ROOT, Desk, a_node, an_inventory, exited

SEEDS = range(60)


def a_generated_desk(seed: int) -> Desk:
    """A few odd nodes, some of them closed, work already running, and some forty jobs and arrays waiting."""
    chance = random.Random(seed)
    nodes = []
    for number in range(chance.randint(1, 6)):
        kinds = chance.choices(["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"], k=chance.choice([0, 2, 4, 8]))
        health = chance.choices(list(GpuHealth), weights=[8, 1, 1], k=len(kinds))
        gpus = tuple(
            Gpu(i, f"u{i}", kind, chance.choice([None, (80 if "H100" in kind else 40) << 30]), ok)
            for i, (kind, ok) in enumerate(zip(kinds, health, strict=True))
        )
        inventory = replace(an_inventory(cpus=chance.choice([4, 16, 64])), gpus=gpus)
        nodes.append(a_node(f"n{number}", inventory=inventory, cordoned=chance.random() < 0.1))
    if chance.random() < 0.2:
        nodes.append(a_node("new", inventory=None, boot_id=None))
    desk = Desk(*nodes, policy=Policy(max_ranks_per_node=chance.choice([3, 8, 128])))
    for turn in range(chance.choice([1, 2, 3])):
        for _ in range(chance.randint(1, 20)):
            submit(desk, chance)
        if turn:
            desk.plan()
            for attempt in list(desk.cluster.attempts.values()):
                if chance.random() < 0.4:
                    desk.requeue(attempt.job, actor=ROOT)
                elif chance.random() < 0.4:
                    desk.end(attempt.job)
    for node in nodes:
        desk.states[node.name] = chance.choices(list(NodeState), weights=[8, 1, 1])[0]
    return desk


def submit(desk: Desk, chance: random.Random) -> None:
    gpus = chance.choice([0, 0, 1, 1, 2, 4, 8, 64])
    names = [name for name in desk.cluster.nodes if chance.random() < 0.5]
    desk.submit(
        ROOT,
        gpus=gpus,
        gpu_type=chance.choice([None, "h100", "A100"]) if gpus else None,
        gpu_memory_bytes=chance.choice([None, None, 60 << 30]) if gpus else None,
        cpus=chance.choice([0, 1, 4, 100]),
        memory_bytes=chance.choice([0, 0, 8 << 30, 60 << 30]),
        only_nodes=tuple(names) if chance.random() < 0.2 else (),
        not_nodes=tuple(names) if chance.random() < 0.2 else (),
        priority=chance.choice([0, 0, 0, 5, -5]),
        array=chance.choice([None, None, None, "0-5", "0-9%2", "3,7-20%4"]),
        hold=chance.random() < 0.1,
    )


def planned(desk: Desk) -> Plan:
    return plan(desk.cluster, desk.now, desk.policy)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_exceeds_what_nodes_have_or_offer(seed: int) -> None:
    desk = a_generated_desk(seed)
    view, policy = desk.cluster, desk.policy
    gpus: set[tuple[NodeName, int]] = set()
    cpus: Counter[NodeName] = Counter()
    memory: Counter[NodeName] = Counter()
    ranks: Counter[NodeName] = Counter()
    started: Counter[JobId] = Counter()
    for placement in planned(desk).placements:
        job = view.job(placement.job)
        assert job is not None
        assert job.ready
        (rank,) = placement.ranks
        node, request = view.nodes[rank.node], job.request
        assert node.inventory is not None
        assert view.node_state(node.name) is NodeState.UP
        assert not node.cordoned
        assert not node.draining
        assert node.name not in request.not_nodes
        assert not request.only_nodes or node.name in request.only_nodes
        assert len(rank.gpus) == len(set(rank.gpus)) == request.gpus_per_node
        assert list(rank.gpus) == sorted(rank.gpus)
        by_index = {gpu.index: gpu for gpu in node.inventory.gpus}
        for index in rank.gpus:
            gpu = by_index[index]
            assert gpu.health is GpuHealth.OK
            assert request.gpu_type is None or request.gpu_type in gpu.name.lower()
            assert request.gpu_memory_bytes is None or (gpu.memory_total_bytes or 0) >= request.gpu_memory_bytes
            assert index in view.free_gpus(node.name)
            assert (node.name, index) not in gpus
            gpus.add((node.name, index))
        assert (rank.cpus, rank.memory_bytes) == (request.cpus, request.memory_bytes)
        cpus[node.name] += rank.cpus
        memory[node.name] += rank.memory_bytes
        ranks[node.name] += 1
        started[job.array_id] += 1
    assert all(n <= max(0, view.free_cpus(name)) for name, n in cpus.items())
    assert all(n <= max(0, view.free_memory_bytes(name)) for name, n in memory.items())
    assert all(n + view.ranks_on(name) <= policy.max_ranks_per_node for name, n in ranks.items())
    for id, n in started.items():
        row = view.job(id)
        if row is not None and row.array is not None and row.array.max_running is not None:
            assert n + view.running_elements(id) <= row.array.max_running


@pytest.mark.parametrize("seed", SEEDS)
def test_each_placement_is_the_best_fit_of_what_is_left(seed: int) -> None:
    """Against a search through all nodes, which is slow and plain."""
    desk = a_generated_desk(seed)
    left = {room.name: room for room in rooms(desk.cluster, desk.policy)}
    for placement in planned(desk).placements:
        job = desk.cluster.job(placement.job)
        assert job is not None
        request = job.request
        able = [room for room in left.values() if fits(room, request)]
        if request.gpus_per_node:
            best = min(able, key=lambda room: (len(room.gpus), room.name))
        else:
            best = min(able, key=lambda room: (len(room.inventory.gpus) > 0, -room.cpus, -room.ranks, room.name))
        assert placement.ranks[0].node == best.name
        best.take(placement.ranks[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_jobs_that_ask_for_the_same_start_in_queue_order_and_equal_views_give_equal_plans(seed: int) -> None:
    desk = a_generated_desk(seed)
    first = planned(desk)
    assert first == planned(desk)
    ranks: dict[Request, list[tuple[int, int, int]]] = {}
    for placement in first.placements:
        job = desk.cluster.job(placement.job)
        assert job is not None
        ranks.setdefault(job.request, []).append(job.rank_in_queue)
    assert all(order == sorted(order) for order in ranks.values())
    other = Cluster(desk)
    other.apply(PutNode(node) for node in reversed(list(desk.cluster.nodes.values())))
    live = list(desk.cluster.live_jobs())
    other.apply(PutJob(job) for job in reversed(live))
    if not desk.cluster.attempts and not any(job.index is not None for job in live):
        assert plan(other, desk.now, desk.policy) == first, "whatever order the records came in"


@pytest.mark.parametrize("seed", SEEDS)
def test_reasons_agree_with_the_plan(seed: int) -> None:
    desk = a_generated_desk(seed)
    before = {job.id: desk.reason(job.id) for job in desk.cluster.live_jobs()}
    shared = Explainer(desk.cluster, desk.now, desk.policy)
    for job in desk.cluster.live_jobs():
        assert shared.reason(job) == before[job.id]
        if job.state is JobState.QUEUED and not (job.array and not job.array.waiting):
            assert before[job.id] is not None, "what waits has a reason"
        if before[job.id] is None and job.array is not None:
            assert all(element.state is not JobState.QUEUED for element in desk.cluster.elements(job.id))
    placed = {placement.job for placement in planned(desk).placements}
    for id in placed:
        reason = before[id]
        assert reason is not None
        assert reason.code in (WaitCode.PLACING, WaitCode.BEHIND)
    first: dict[Request, JobId] = {}
    for request, members in desk.cluster.ready().items():
        able = [job for job in members if before[job.id] and before[job.id].code is not WaitCode.ARRAY_LIMIT]  # type: ignore[union-attr]
        if able:
            first[request] = able[0].id
            reason = before[able[0].id]
            assert reason is not None
            assert reason.code is not WaitCode.BEHIND, "the head of a group waits for no one of it"
            if reason.code is not WaitCode.PLACING:
                assert not {job.id for job in able} & placed
            fitting = [name for name, ok, _ in shortfalls(desk.cluster, able[0], desk.policy) if ok]
            assert bool(fitting) == (reason.code is WaitCode.PLACING)
    desk.plan()
    for job in desk.cluster.live_jobs():
        reason = desk.reason(job.id)
        assert reason is None or reason.code is not WaitCode.PLACING, "what fits has been placed"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_fits_exactly_when_nothing_is_short(seed: int) -> None:
    desk = a_generated_desk(seed)
    for room in rooms(desk.cluster, desk.policy):
        for request in {job.request for job in desk.cluster.live_jobs()}:
            for each in (room, empty(room, desk.policy)):
                assert fits(each, request) == (not short_of(each, request))


# ---------------------------------------------------------------- rules one by one


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
    desk.word("1_0", *_requeued())
    for _ in range(3):
        desk.plan()
        assert desk.cluster.running_elements(JobId("1")) == 2
    running = {job.id for job in desk.cluster.elements(JobId("1")) if job.state is not JobState.QUEUED}
    assert running == {"1_0", "1_1"}, "an element that was made goes before those that were not"


def _requeued() -> tuple[RankPhase, ExitRecord]:
    return RankPhase.ENDED, exited(None, signal=15, stopped=StopKind.REQUEUE)


def test_an_array_at_its_limit_holds_up_nobody_who_asks_for_the_same() -> None:
    desk = Desk()
    desk.submit(array="0-9%1", gpus=1)
    desk.plan()
    other = desk.submit(gpus=1)
    assert desk.reason("1").text == "1 element of the array runs at once, as its %1 allows"  # type: ignore[union-attr]
    assert desk.reason(other).code is WaitCode.PLACING  # type: ignore[union-attr]
    assert started(desk) == [other]


@pytest.mark.parametrize("health", [GpuHealth.UNKNOWN, GpuHealth.QUARANTINED])
def test_a_gpu_that_is_not_well_is_never_granted(health: GpuHealth) -> None:
    inventory = an_inventory(gpus=2)
    sick = replace(inventory, gpus=(replace(inventory.gpus[0], health=health), inventory.gpus[1]))
    desk = Desk(a_node(inventory=sick))
    both, one = desk.submit(gpus=2), desk.submit(gpus=1)
    desk.plan()
    assert where(desk, one) == ("n1", (1,))
    assert desk.reason(both).text == "waits for 2 more GPUs"  # type: ignore[union-attr]


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


# ---------------------------------------------------------------- every reason, word for word


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


def test_an_array_all_of_whose_elements_are_made_waits_as_its_first_that_waits() -> None:
    desk = Desk()
    desk.submit(array="0-1", gpus=4)
    desk.plan()
    desk.requeue("1_0")
    desk.word("1_0", *_requeued())
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
    assert shortfalls(desk.cluster, desk.job(job), desk.policy) == [
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


def test_the_actor_does_not_matter_to_the_plan() -> None:
    one, other = Desk(), Desk()
    one.submit(ADA, gpus=1)
    other.submit(ROOT, gpus=1)
    assert planned(one) == planned(other)
