"""A cluster in virtual time for tests of the plan: jobs with run times of their own, and what each plan said."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, replace

from gpuq.changes import PutAttempt, PutJob, PutNode, PutPromise, PutSettings
from gpuq.cluster import Cluster
from gpuq.model import Attempt, AttemptUid, Job, JobId, NodeName, Now, OnLost, Request
from gpuq.node import Gpu
from gpuq.scheduler import plan, promised
from gpuq.scheduler.plan import SCHEMES
from gpuq.settings import ClusterSettings, Settings
from gpuq.states import JobState, NodeState
from gpuq.view import Policy, Reserved
from tests.service.builders import a_node, an_inventory

START = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Work:
    """A job to come. limit None: nobody knows how long it may run."""

    at: float
    seconds: float
    gpus: int = 1
    nodes: int = 1
    user: str = "ada"
    name: str = "train"
    priority: int = 0
    limit: int | None = None
    asks: Request | None = None  # instead of gpus and nodes


class Line:
    """A queue that is worked off; times are seconds since the start."""

    def __init__(self, nodes: int, gpus: int, scheme: str = "ours", predicts: bool = True) -> None:
        self.cluster = Cluster(self)
        settings = Settings(cluster=ClusterSettings(predict_run_times=predicts))
        self.cluster.apply([PutSettings(settings), *(PutNode(a_node(f"n{i}", gpus=gpus)) for i in range(nodes))])
        self.started: dict[int, float] = {}
        self.promised: dict[int, list[tuple[float, Reserved]]] = {}  # by job: when room was kept, and which
        self.now = 0.0
        self._scheme, self._work = SCHEMES[scheme], list[Work]()
        self._ends: list[tuple[float, int, AttemptUid]] = []

    def node_state(self, name: NodeName) -> NodeState:
        return NodeState.UP

    def order_left(self, uid: AttemptUid) -> bool:
        return True

    def run(self, work: list[Work], until: float = math.inf) -> None:
        self._work, coming = sorted(work, key=lambda each: each.at), 0
        while coming < len(self._work) or self._ends:
            next_submit = self._work[coming].at if coming < len(self._work) else math.inf
            self.now = min(next_submit, self._ends[0][0] if self._ends else math.inf)
            if self.now > until:
                return
            while self._ends and self._ends[0][0] <= self.now:
                self._end(heapq.heappop(self._ends)[2])
            while coming < len(self._work) and self._work[coming].at <= self.now:
                self.cluster.apply([PutJob(self._job(coming))])
                coming += 1
            self._plan()

    def start_of(self, work: Work) -> float:
        return self.started[self._work.index(work) + 1]

    def work_started(self) -> list[Work]:
        return [self._work[number - 1] for number in self.started]

    def _plan(self) -> None:
        planned = plan(self.cluster, Now(self.now, START + self.now), Policy(), self._scheme)
        self.cluster.apply([PutPromise(promised(self.cluster, planned))])
        for placement in planned.placements:
            job = self.cluster.job(placement.job)
            assert job is not None
            self.started[job.number] = self.now
            attempt = Attempt(AttemptUid(job.id), job.id, 1, placement.ranks, START + self.now, OnLost.KEEP)
            self.cluster.apply([PutJob(replace(job, state=JobState.RUNNING)), PutAttempt(attempt)])
            heapq.heappush(self._ends, (self.now + self._work[job.number - 1].seconds, job.number, attempt.uid))
        for kept in planned.reserved:
            self.promised.setdefault(int(kept.job), []).append((self.now, kept))

    def _job(self, place: int) -> Job:
        work, at = self._work[place], START + self._work[place].at
        number = place + 1
        request = work.asks or Request(nodes=work.nodes, gpus_per_node=work.gpus, account=work.user)
        return Job(
            id=JobId(str(number)),
            number=number,
            index=None,
            name=work.name,
            user=work.user,
            queue="main",
            priority=work.priority,
            request=request,
            state=JobState.QUEUED,
            submitted_at=at,
            queued_at=at,
            time_limit_seconds=work.limit,
        )

    def _end(self, uid: AttemptUid) -> None:
        attempt = self.cluster.attempt(uid)
        assert attempt is not None
        job = self.cluster.job(attempt.job)
        assert job is not None
        ended = PutAttempt(replace(attempt, ended_at=START + self.now))
        self.cluster.apply([PutJob(replace(job, state=JobState.SUCCEEDED)), ended])


def some_work(seed: int, jobs: int = 60, limits: bool = True, nodes: int = 3, gpus: int = 4) -> list[Work]:
    """A busy queue: sizes up to all nodes, run times over three orders, limits up to four times too long."""
    chance = random.Random(seed)
    work = []
    for _ in range(jobs):
        seconds = float(round(10 ** chance.uniform(1, 4)))
        limit = math.ceil(seconds * chance.choice([1.0, 1.0, 1.5, 4.0])) if limits else None
        whole = chance.choice([0, 0, 0, 1, 2, nodes])
        asked = (gpus, whole) if whole else (chance.choice([1, 1, 1, 2, 3, gpus]), 1)
        at = float(round(chance.uniform(0, 20_000)))
        work.append(
            Work(at, seconds, *asked, user=chance.choice(["ada", "bob"]), name=chance.choice(["a", "b"]), limit=limit)
        )
    return work


def an_odd_line(seed: int, scheme: str = "ours", predicts: bool = True) -> Line:
    """A cluster for `odd_work`: two models of GPUs on each node, and few CPUs."""
    chance, line = random.Random(seed), Line(0, 0, scheme, predicts)
    for number in range(3):
        models = chance.choices([("NVIDIA H100 80GB", 80 << 30), ("NVIDIA A100 40GB", 40 << 30)], k=4)
        gpus = tuple(Gpu(i, f"GPU-{number}{i}", model, size) for i, (model, size) in enumerate(models))
        line.cluster.apply([PutNode(a_node(f"n{number}", inventory=replace(an_inventory(cpus=16), gpus=gpus)))])
    return line


def odd_work(seed: int) -> list[Work]:
    """As `some_work`, of jobs that ask for shares, models, CPUs, nodes for themselves. Not all of them can ever run."""
    chance = random.Random(seed)
    return [replace(work, asks=_odd_request(chance)) for work in some_work(seed)]


def _odd_request(chance: random.Random) -> Request:
    each = chance.choice([1, 1, 2, 3, 4])
    return chance.choice(
        [
            Request(gpus_per_node=min(each, 2), gpu_share_bytes=chance.choice([10, 20, 40]) << 30),
            Request(gpus_per_node=each, gpu_type=chance.choice([None, "h100", "a100"]), cpus=chance.choice([0, 4, 16])),
            Request(nodes=chance.choice([2, 3]), gpus_per_node=min(each, 2)),
            Request(gpus_per_node=1, exclusive=True),
            Request(cpus=chance.choice([2, 8, 16])),
        ]
    )
