"""What decisions read and what the planner gives: the read-only view, the plan, the policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gpuq.changes import PutToken
from gpuq.model import Attempt, AttemptUid, Job, JobId, Lane, NodeName, Rank, Request, User, Waiting
from gpuq.node import Node
from gpuq.predict import RunTimes, Usage
from gpuq.settings import Settings
from gpuq.spent import Spent
from gpuq.states import JobState, NodeState


class ClusterView(Protocol):
    """What decisions read. Nothing here can change the cluster."""

    @property
    def nodes(self) -> Mapping[NodeName, Node]: ...

    @property
    def users(self) -> Mapping[str, User]: ...

    @property
    def tokens(self) -> Mapping[str, PutToken]:
        """Tokens that were not revoked, by id; expired ones too."""

    @property
    def settings(self) -> Settings: ...

    def node_state(self, name: NodeName) -> NodeState: ...

    def order_left(self, uid: AttemptUid) -> bool:
        """Whether an order to run this attempt may have left the controller, in this life or an earlier one."""

    def job(self, id: JobId) -> Job | None:
        """A job that has not ended, or an array that has elements left to end; None for any other."""

    def live_jobs(self) -> Iterable[Job]:
        """All jobs and arrays that have not ended, in submit order."""

    def attempt(self, uid: AttemptUid) -> Attempt | None:
        """A live attempt, else None."""

    @property
    def attempts(self) -> Mapping[AttemptUid, Attempt]:
        """Live attempts."""

    def attempt_of(self, id: JobId) -> Attempt | None:
        """The live attempt of a job, else None."""

    def limited(self) -> Sequence[tuple[float, AttemptUid]]:
        """Live attempts of jobs with a time limit, by when it is over, in wall seconds."""

    def unlimited(self) -> Sequence[tuple[float, AttemptUid]]:
        """Live attempts of the others, by when they were granted."""

    def attempts_on(self, name: NodeName) -> Iterable[Attempt]:
        """Live attempts with a rank on the node, oldest first."""

    def elements(self, id: JobId) -> Iterable[Job]:
        """Elements of an array that were made and have not ended, by index."""

    def element_counts(self, id: JobId) -> Mapping[JobState, int]:
        """How many made elements of a live array are in each state, ended ones included.

        arrays.with_unmade adds those that were never made.
        """

    def dependents(self, id: JobId) -> Iterable[Job]:
        """Queued jobs that wait for this one."""

    def fronts(self) -> Mapping[Request, Mapping[Lane, Sequence[Waiting]]]:
        """The same as `ready`, without the jobs: a plan looks at the first of each lane, and at few of them closer."""

    def ready(self) -> Mapping[Request, Iterable[tuple[Lane, Iterable[Job]]]]:
        """Jobs that wait for resources only, by what they ask for and by lane, each lane in queue order.

        An array with waiting indices stands in its lane once, for all of them.
        """

    def waiting(self) -> Mapping[Lane, int]:
        """How many jobs `ready` has in each lane; an array counts its waiting elements."""

    def claims(self) -> Iterable[Job]:
        """Jobs that wait for resources only and have a claim, in queue order."""

    @property
    def promised(self) -> JobId | None:
        """The job that stays first of its priority while it waits for room only: see scheduler/promise.py."""

    def timed(self) -> Iterable[Job]:
        """Queued jobs with a begin time, back-off or scheduling timeout."""

    def free_gpus(self, name: NodeName) -> tuple[int, ...]:
        """Indices of healthy GPUs no live attempt holds, ascending."""

    def free_shares(self, name: NodeName) -> Mapping[int, int]:
        """Bytes left on healthy GPUs that are held by shares only, by index. A GPU is held whole or by shares."""

    def free_cpus(self, name: NodeName) -> int: ...

    def free_memory_bytes(self, name: NodeName) -> int: ...

    def ranks_on(self, name: NodeName) -> int:
        """Live attempts with a rank on the node."""

    def taken_alone(self, name: NodeName) -> bool:
        """Whether a live attempt holds the node for itself."""

    @property
    def run_times(self) -> RunTimes:
        """How long jobs are expected to run, from what has run here."""

    @property
    def usage(self) -> Usage:
        """Who has used how many GPU-seconds lately."""

    @property
    def spent(self) -> Spent:
        """Who has had how many GPU-hours in the last 30 days."""

    def demand(self) -> Mapping[Request, int]:
        """How many jobs that have not ended ask for what; an array counts its waiting elements."""

    def running_elements(self, id: JobId) -> int:
        """Elements of an array with a live attempt."""

    @property
    def next_number(self) -> int:
        """The number the next submitted job gets."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One start the plan asks for: ranks in order, each with its node and GPUs. index is set for an array's element."""

    job: JobId
    index: int | None
    ranks: tuple[Rank, ...]


@dataclass(frozen=True, slots=True)
class Preemption:
    """Attempts to stop so that a job can start on `ranks`, kept for it from now on. index: of an array's element."""

    job: JobId
    index: int | None
    ranks: tuple[Rank, ...]
    victims: tuple[AttemptUid, ...]  # never none


@dataclass(frozen=True, slots=True)
class Reserved:
    """Room that is kept for a job from `at` on, in wall seconds. bounded: time limits alone say so."""

    job: JobId
    at: float
    bounded: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start now, in order, for whom room is kept, and what to stop. Everything not placed waits; `explain`
    says why.
    """

    placements: tuple[Placement, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    vain: tuple[JobId, ...] = ()  # jobs whose claim cannot come true any more
    lasts: bool = False  # whether it is empty, and so at any later time, while view and states of nodes are the same


@dataclass(frozen=True, slots=True)
class Policy:
    """The figures that decisions use. Durations in seconds. An admin sets some of them, see `under`.

    lost_after must exceed lease + the longest fenced grace + kill_margin, so that a fenced attempt is surely gone
    before the next one can start.
    """

    suspect_after: float = 30.0  # and at least 3 missed exchanges of at most 5 s: 30 s is six
    lost_after: float = 90.0
    lease: float = 40.0
    fence_grace: int = 30  # longest grace a job with on_lost=fence may have
    kill_margin: float = 10.0
    max_ranks_per_node: int = 256  # jobs that reserve nothing would otherwise all start on one machine at once
    retry_backoff: float = 5.0  # doubled for each retry used, at most retry_backoff_max
    retry_backoff_max: float = 300.0

    def __post_init__(self) -> None:
        if self.lost_after < self.lease + self.fence_grace + self.kill_margin:
            raise ValueError("lost_after must be at least lease + fence_grace + kill_margin")

    def under(self, settings: Settings) -> Policy:
        """This policy, with what the cluster's settings say of it."""
        cluster = settings.cluster
        return replace(self, suspect_after=float(cluster.suspect_after), lost_after=float(cluster.lost_after))
