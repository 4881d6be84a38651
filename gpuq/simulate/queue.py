"""A trace of jobs in virtual time: the planner and the cluster of the controller, run as fast as they decide."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuq.changes import PutAttempt, PutJob, PutNode, PutPromise
from gpuq.cluster import Cluster
from gpuq.errors import InvalidRequest
from gpuq.model import Attempt, AttemptUid, Job, JobId, NodeName, Now, OnLost, Request
from gpuq.node import Gpu, Inventory, Node
from gpuq.scheduler import plan, promised
from gpuq.scheduler.plan import SCHEMES
from gpuq.simulate.queue_trace import TracedJob
from gpuq.states import JobState, NodeState
from gpuq.view import Placement, Policy

# Traces count from 0 or before; wall times of a cluster do not.
_EPOCH = 1_000_000_000.0


@dataclass(frozen=True, slots=True)
class Machines:
    nodes: int
    gpus_per_node: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay gives. Waits are of all jobs that could run, from submit to start; seconds."""

    jobs: int
    wait_mean_s: float
    wait_median_s: float
    wait_p99_s: float
    wait_max_s: float
    wait_mean_8plus_s: float | None  # of jobs with 8 GPUs or more; None where there is none
    jct_mean_s: float
    makespan_s: float  # from the first submit to the last end
    utilization_percent: float  # of all GPUs over the makespan
    too_large: int  # jobs left out, since all nodes together could not run them


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits that jobs of a trace have: so many times their run time, or None."""

    factor: float | None

    def of(self, job: TracedJob) -> int | None:
        return None if self.factor is None else math.ceil(self.factor * job.seconds)


def parse_limits(text: str) -> Limits:
    """none, exact or over:K; raises InvalidRequest for anything else."""
    if text in ("none", "exact"):
        return Limits(1.0 if text == "exact" else None)
    try:
        factor = float(text.removeprefix("over:")) if text.startswith("over:") else 0.0
    except ValueError:
        factor = 0.0
    if not 1.0 <= factor <= 1e6:
        raise InvalidRequest(f"'{text}' is not none, exact or over:K", "K is how many times too long, 1 or more")
    return Limits(factor)


def replay(trace: Sequence[TracedJob], machines: Machines, scheme: str, limits: Limits) -> Outcome:
    """Runs a trace through the planner under a scheme by name; a pure function of what it is given."""
    wanted = [job for job in trace if _request(job, machines).nodes <= machines.nodes]
    if not wanted:
        raise InvalidRequest("every job is larger than all nodes together", "give more --nodes or --gpus-per-node")
    run = _Replay(wanted, machines, scheme, limits)
    run.run()
    return _outcome(wanted, run.starts, machines, len(trace) - len(wanted))


class _Replay:
    """The cluster, what is still to come, and what runs until when."""

    def __init__(self, trace: list[TracedJob], machines: Machines, scheme: str, limits: Limits) -> None:
        self.starts: list[float] = [math.nan] * len(trace)
        self._trace, self._machines, self._scheme = trace, machines, SCHEMES[scheme]
        self._limits = Limits(1.0) if self._scheme.oracle else limits
        self._policy = Policy(max_ranks_per_node=machines.gpus_per_node)
        self._cluster = Cluster(_Up())
        self._cluster.apply(PutNode(node) for node in _nodes(machines))
        self._ends: list[tuple[float, int, AttemptUid]] = []
        self._next = 0

    def run(self) -> None:
        while self._ends or self._next < len(self._trace):
            coming = self._trace[self._next].submitted_at if self._next < len(self._trace) else math.inf
            at = min(coming, self._ends[0][0] if self._ends else math.inf)
            while self._ends and self._ends[0][0] <= at:
                self._end(at, heapq.heappop(self._ends)[2])
            while self._next < len(self._trace) and self._trace[self._next].submitted_at <= at:
                self._cluster.apply([PutJob(self._job(self._next))])
                self._next += 1
            planned = plan(self._cluster, Now(at, _EPOCH + at), self._policy, self._scheme)
            self._cluster.apply([PutPromise(promised(self._cluster, planned))])
            for placement in planned.placements:
                self._start(at, placement)

    def _job(self, number: int) -> Job:
        traced = self._trace[number]
        request = _request(traced, self._machines)
        submitted = _EPOCH + traced.submitted_at
        id = JobId(str(number))
        return Job(
            id,
            number,
            None,
            traced.name,
            traced.user,
            "main",
            0,
            request,
            JobState.QUEUED,
            submitted,
            submitted,
            time_limit_seconds=self._limits.of(traced),
        )

    def _start(self, at: float, placement: Placement) -> None:
        job = self._cluster.job(placement.job)
        assert job is not None
        self.starts[job.number] = at
        uid = AttemptUid(job.id)
        attempt = Attempt(uid, job.id, 1, placement.ranks, _EPOCH + at, OnLost.KEEP)
        self._cluster.apply([PutJob(replace(job, state=JobState.RUNNING)), PutAttempt(attempt)])
        heapq.heappush(self._ends, (at + self._trace[job.number].seconds, job.number, uid))

    def _end(self, at: float, uid: AttemptUid) -> None:
        attempt = self._cluster.attempt(uid)
        assert attempt is not None
        job = self._cluster.job(attempt.job)
        assert job is not None
        ended = replace(attempt, ended_at=_EPOCH + at)
        self._cluster.apply([PutJob(replace(job, state=JobState.SUCCEEDED)), PutAttempt(ended)])


class _Up:
    """What is volatile in a cluster of nodes that never fail."""

    def node_state(self, name: NodeName) -> NodeState:
        return NodeState.UP

    def order_left(self, uid: AttemptUid) -> bool:
        return True


def _request(job: TracedJob, machines: Machines) -> Request:
    """A job of more GPUs than a node has takes whole nodes."""
    if job.gpus <= machines.gpus_per_node:
        return Request(gpus_per_node=job.gpus)
    return Request(nodes=math.ceil(job.gpus / machines.gpus_per_node), gpus_per_node=machines.gpus_per_node)


def _nodes(machines: Machines) -> list[Node]:
    gpus = tuple(Gpu(i, f"GPU-{i}", "GPU", None) for i in range(machines.gpus_per_node))
    inventory = Inventory("node", gpus, 1, 1, True, "")
    return [Node(NodeName(f"n{i:05}"), inventory=inventory, boot_id="1") for i in range(machines.nodes)]


def _outcome(trace: Sequence[TracedJob], starts: Sequence[float], machines: Machines, too_large: int) -> Outcome:
    waits = sorted(start - job.submitted_at for job, start in zip(trace, starts, strict=True))
    large = [start - job.submitted_at for job, start in zip(trace, starts, strict=True) if job.gpus >= 8]
    ends = [start + job.seconds for job, start in zip(trace, starts, strict=True)]
    makespan = max(ends) - min(job.submitted_at for job in trace)
    busy = sum(job.gpus * job.seconds for job in trace)
    capacity = makespan * machines.nodes * machines.gpus_per_node
    return Outcome(
        len(trace),
        statistics.fmean(waits),
        statistics.median(waits),
        waits[math.ceil(0.99 * len(waits)) - 1],
        waits[-1],
        statistics.fmean(large) if large else None,
        statistics.fmean(end - job.submitted_at for job, end in zip(trace, ends, strict=True)),
        makespan,
        100.0 * busy / capacity if capacity else 0.0,
        too_large,
    )
