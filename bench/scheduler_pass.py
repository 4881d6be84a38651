"""How long one plan takes on a large cluster with a long queue."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from statistics import median

from bench.figures import Figure
from gpuq.changes import PutAttempt, PutJob, PutNode
from gpuq.cluster import Cluster
from gpuq.model import Attempt, AttemptUid, Job, JobId, NodeName, Now, OnLost, Rank, Request
from gpuq.node import Gpu, Inventory, Node
from gpuq.scheduler import plan
from gpuq.states import JobState, NodeState
from gpuq.view import Policy

NODES, GPUS_PER_NODE, RUNNING, PENDING, SWEEP = 1_000, 8, 6_000, 100_000, 80
AT = 1_700_000_000.0
DAY = 86_400.0
PASSES = 15


class _Up:
    def node_state(self, name: NodeName) -> NodeState:
        return NodeState.UP

    def order_left(self, uid: AttemptUid) -> bool:
        return True


def measure() -> list[Figure]:
    cluster = _cluster(random.Random(1))
    full, one = [], []
    for turn in range(PASSES):
        at = AT + turn
        began = time.perf_counter()
        assert not plan(cluster, Now(turn, at), Policy()).placements
        full.append(time.perf_counter() - began)
        _end_one(cluster, turn, at)
        began = time.perf_counter()
        planned = plan(cluster, Now(turn, at), Policy())
        one.append(time.perf_counter() - began)
        assert planned.placements
        for placement in planned.placements:
            _start(cluster, placement.job, placement.ranks, at)
    what = f"{PENDING:,} pending, {NODES:,} nodes x {GPUS_PER_NODE}, {RUNNING:,} running"
    return [
        Figure(f"a pass that finds no room: {what}", median(full) * 1e3, "ms", must=50),
        Figure("a pass after one job of these has ended", median(one) * 1e3, "ms", must=50, aim=5),
    ]


def _cluster(chance: random.Random) -> Cluster:
    cluster = Cluster(_Up())
    gpus = tuple(Gpu(i, f"GPU-{i}", "NVIDIA H100 80GB HBM3", 80 << 30) for i in range(GPUS_PER_NODE))
    inventory = Inventory("node", gpus, 128, 1 << 40, True, "bench")
    cluster.apply(PutNode(Node(NodeName(f"n{i:04}"), boot_id="1", inventory=inventory)) for i in range(NODES))
    number = 0
    for node in range(NODES):  # 6,000 jobs hold all 8,000 GPUs: per node one of 3 GPUs and five of 1
        first = 0
        for size in (3, 1, 1, 1, 1, 1):
            number += 1
            cluster.apply([PutJob(_job(number, size, f"u{chance.randrange(50)}", "train", AT - DAY))])
            rank = Rank(NodeName(f"n{node:04}"), tuple(range(first, first + size)), 0, 0)
            _start(cluster, JobId(str(number)), (rank,), AT - chance.random() * DAY)
            first += size
    for sweep in range(PENDING // SWEEP):
        size, user = chance.choice([1, 1, 1, 2, 4, 8, 16]), f"u{chance.randrange(50)}"
        at = AT - chance.random() * 3 * DAY
        for _ in range(SWEEP):
            number += 1
            cluster.apply([PutJob(_job(number, size, user, f"sweep-{chr(97 + sweep % 26)}", at))])
    return cluster


def _job(number: int, gpus: int, user: str, name: str, at: float) -> Job:
    request = Request(max(1, gpus // GPUS_PER_NODE), min(gpus, GPUS_PER_NODE), account=user)
    return Job(JobId(str(number)), number, None, name, user, "main", 0, request, JobState.QUEUED, at, at)


def _start(cluster: Cluster, id: JobId, ranks: tuple[Rank, ...], at: float) -> None:
    job = cluster.job(id)
    assert job is not None
    attempt = Attempt(AttemptUid(id), id, 1, ranks, at, OnLost.KEEP)
    cluster.apply([PutJob(replace(job, state=JobState.RUNNING)), PutAttempt(attempt)])


def _end_one(cluster: Cluster, turn: int, at: float) -> None:
    attempt = cluster.attempt(AttemptUid(str(2 + 6 * turn)))
    assert attempt is not None
    job = cluster.job(attempt.job)
    assert job is not None
    cluster.apply([PutJob(replace(job, state=JobState.SUCCEEDED)), PutAttempt(replace(attempt, ended_at=at))])
