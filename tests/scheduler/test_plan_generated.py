"""The plan and its reasons against what must hold of any, on generated clusters."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from gpuq.changes import PutJob, PutNode
from gpuq.cluster import Cluster
from gpuq.model import Job, JobId, NodeName, Request
from gpuq.node import Gpu, GpuHealth
from gpuq.reasons import WaitCode
from gpuq.scheduler import Explainer, by_node, plan
from gpuq.scheduler.fit import empty, fits, rooms
from gpuq.scheduler.fit import shortfalls as short_of
from gpuq.states import JobState, NodeState
from gpuq.view import Plan, Policy
from tests.service.builders import ROOT, Desk, a_node, an_inventory

SEEDS = range(60)


def a_generated_desk(seed: int) -> Desk:
    """A few odd nodes, some of them closed, work already running, and some forty jobs and arrays waiting."""
    chance = random.Random(seed)
    nodes = []
    for number in range(chance.randint(1, 6)):
        kinds = chance.choices(["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"], k=chance.choice([0, 2, 4, 8]))
        health = chance.choices(list(GpuHealth), weights=[8, 1, 1, 1], k=len(kinds))
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
    how = chance.random()
    desk.submit(
        ROOT,
        gpus=gpus,
        gpu_type=chance.choice([None, "h100", "A100"]) if gpus else None,
        gpu_memory_bytes=chance.choice([None, None, 60 << 30]) if gpus else None,
        cpus=chance.choice([0, 1, 4, 100]),
        memory_bytes=chance.choice([0, 0, 8 << 30, 60 << 30]),
        only_nodes=tuple(names) if how < 0.2 else (),
        not_nodes=tuple(names) if 0.2 <= how < 0.4 else (),
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
    other.run_times, other.usage = desk.cluster.run_times, desk.cluster.usage  # not all of it is in live records
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
    waiting: dict[Request, list[Job]] = {}
    for request, lanes in desk.cluster.ready().items():
        waiting[request] = [job for _, members in lanes for job in members]
    for request, unsorted in waiting.items():
        members = sorted(unsorted, key=lambda job: job.rank_in_queue)
        able = [job for job in members if before[job.id] and before[job.id].code is not WaitCode.ARRAY_LIMIT]  # type: ignore[union-attr]
        if able:
            first[request] = able[0].id
            reason = before[able[0].id]
            assert reason is not None
            assert reason.code is not WaitCode.BEHIND, "the head of a group waits for no one of it"
            if reason.code is not WaitCode.PLACING:
                assert not {job.id for job in able} & placed
            fitting = [said.node for said in by_node(desk.cluster, able[0], desk.now, desk.policy) if not said.short]
            assert bool(fitting) == (reason.code in (WaitCode.PLACING, WaitCode.RESERVED))
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
