"""The things gpuq knows: jobs, attempts, people. Of machines see node.py.

Everything here is frozen: a change is a new record in place of the old one. None always means "not known" or "not
asked for", never zero. Times named *_at are wall seconds since the epoch; deadlines are never stored in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, NewType

from gpuq.gpu_use import GpuReceipt
from gpuq.spec import JobSpec as JobSpec
from gpuq.spec import WarningSignal as WarningSignal
from gpuq.states import JobState

JobId = NewType("JobId", str)  # '1042', or '1042_7' for element 7 of array 1042
AttemptUid = NewType("AttemptUid", str)  # random hex, names one attempt for ever; every message about execution has it
NodeName = NewType("NodeName", str)


class Now(NamedTuple):
    """Both clocks at one instant. Deadlines use monotonic; begin times, expiry and display use wall."""

    monotonic: float
    wall: float


_AFTER_ALL_ELEMENTS = 2**31
_BATCH_SECONDS = 3_600  # 600 to 14,400 do about as well on the published traces
_DIGITS = re.compile(r"\d+")

# ---------------------------------------------------------------- what a job asks for


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks of the machines. Jobs with equal requests are interchangeable to the planner."""

    nodes: int = 1
    gpus_per_node: int = 0
    gpu_type: str | None = None  # matched against a GPU's type or name, without regard to case
    gpu_memory_bytes: int | None = None  # least memory each GPU must have
    cpus: int = 0  # per node; 0 reserves none
    memory_bytes: int = 0  # per node; 0 reserves none
    only_nodes: tuple[NodeName, ...] = ()  # sorted; empty means any
    not_nodes: tuple[NodeName, ...] = ()  # sorted
    account: str = ""  # that of its user, in which it runs unless a node has but one for all; see accounts.py
    gpu_share_bytes: int | None = None  # this much memory of each GPU, beside other such jobs; None: whole GPUs
    constraint: str = ""  # on the attributes of its nodes, in normal form: see constraint.py; empty allows any
    exclusive: bool = False  # no other job on its nodes while it runs

    @property
    def gpus(self) -> int:
        """GPUs of the whole job."""
        return self.nodes * self.gpus_per_node


class DependencyKind(str, Enum):
    AFTER_OK = "afterok"  # the other job SUCCEEDED
    AFTER_ANY = "afterany"  # it ended, however
    AFTER_NOT_OK = "afternotok"  # it FAILED or was CANCELED


@dataclass(frozen=True, slots=True)
class Dependency:
    kind: DependencyKind
    job: JobId

    def met_by(self, state: JobState) -> bool:
        """Whether the final state of the other job lets this one run; if not, it never will."""
        if self.kind is DependencyKind.AFTER_OK:
            return state is JobState.SUCCEEDED
        return self.kind is DependencyKind.AFTER_ANY or state is not JobState.SUCCEEDED


class OnLost(str, Enum):
    KEEP = "keep"  # the job stays with its silent node and goes on when the node returns
    FENCE = "fence"  # its supervisor stops it when the node's lease ends, so that it can safely run elsewhere


class CauseCode(str, Enum):
    """Why a job ended as it did, or its attempt was given up."""

    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    TIME_LIMIT = "time_limit"
    OOM = "oom"  # host memory, by the kernel's word
    GPU_OOM = "gpu_oom"  # recognised in the log
    GPU_FAULT = "gpu_fault"  # a GPU it had failed under it
    GPU_MEMORY = "gpu_memory"  # it took more memory of a GPU it shared than it had asked for
    SETUP_FAILED = "setup_failed"
    LAUNCH_FAILED = "launch_failed"
    NODE_LOST = "node_lost"
    SUPERVISOR_LOST = "supervisor_lost"
    SCHEDULING_TIMEOUT = "scheduling_timeout"
    DEPENDENCY = "dependency"
    CANCELED = "canceled"
    REQUEUED = "requeued"  # an attempt given up because someone asked for another
    DRAINED = "drained"  # an attempt given up to empty its node
    PREEMPTED = "preempted"  # an attempt given up to make room for a job of a queue that goes before
    NEVER_STARTED = "never_started"  # an attempt the agent did not start, and has barred for good


# Ends that say nothing of how long the work takes: it goes on in another attempt, or did not begin.
_BEGUN_AGAIN = {CauseCode.REQUEUED, CauseCode.DRAINED, CauseCode.PREEMPTED, CauseCode.NEVER_STARTED}
GIVEN_UP = frozenset({CauseCode.NODE_LOST, CauseCode.SUPERVISOR_LOST, *_BEGUN_AGAIN})


@dataclass(frozen=True, slots=True)
class Cause:
    code: CauseCode
    text: str


@dataclass(frozen=True, slots=True)
class IndexRange:
    """Array indices start, start+step, ... up to and including last."""

    start: int
    last: int
    step: int = 1

    def __len__(self) -> int:
        return (self.last - self.start) // self.step + 1 if self.last >= self.start else 0


class Kind(NamedTuple):
    """Whose jobs resemble each other in how long they run: what run times are predicted by. A tuple, as a plan looks up
    thousands of them.
    """

    user: str
    name: str  # digits as '#': run-17 and run-18 are the same work
    gpus: int


def kind_of(user: str, name: str, request: Request) -> Kind:
    return Kind(user, _DIGITS.sub("#", name), request.gpus)


def batch_of(submitted_at: float) -> int:
    """Which jobs were submitted at about the same time."""
    return int(submitted_at // _BATCH_SECONDS)


class Lane(NamedTuple):
    """Waiting jobs that are alike to the planner. They start in the order of `rank_in_queue`."""

    request: Request
    queue: str
    priority: int
    kind: Kind
    batch: int  # of about the same time: a sweep's jobs resemble each other more than last month's of the same name
    time_limit_seconds: int | None


class Waiting(NamedTuple):
    """One that waits in a lane: what its turn depends on."""

    rank_in_queue: tuple[int, int, int]
    id: JobId
    submitted_at: float


@dataclass(frozen=True, slots=True)
class Array:
    """An array is one record; `waiting` are the indices that have no job of their own yet, in ascending order."""

    ranges: tuple[IndexRange, ...]  # as submitted, ascending and disjoint
    waiting: tuple[IndexRange, ...]
    max_running: int | None = None  # the %N of 0-99%N
    dropped: int = 0  # elements that ended, with the record's cause, before they were made

    @property
    def size(self) -> int:
        return sum(len(r) for r in self.ranges)


@dataclass(frozen=True, slots=True)
class Job:
    """The scheduling side of a job: what decisions need. What it executes is its JobSpec, kept in the store only.

    An array's record stays QUEUED until its last element has ended and is shown as states.fold of its elements;
    elements copy the array's record when they are made, with `index` set and `array` None.
    """

    id: JobId
    number: int  # submit order; all elements of an array share it
    index: int | None
    name: str
    user: str
    queue: str
    priority: int  # higher first
    request: Request
    state: JobState
    submitted_at: float
    queued_at: float  # when it last began to wait for resources only: the scheduling timeout counts from here
    array: Array | None = None
    held_by: str | None = None
    waits_for: tuple[Dependency, ...] = ()  # dependencies not met yet
    eligible_at: float | None = None  # begin time or end of a back-off still ahead; the tick clears it
    time_limit_seconds: int | None = None
    scheduling_timeout_seconds: int | None = None
    grace_seconds: int = 30  # between SIGTERM and SIGKILL
    max_retries: int = 0  # budget for the job's own failures
    retries_used: int = 0
    max_losses: int = 10  # budget for lost nodes and preemptions
    losses_used: int = 0
    requeue: bool = True  # whether it runs again after proof of a node's death; without, nobody preempts it
    on_lost: OnLost = OnLost.KEEP
    comment: str = ""
    claim: tuple[Rank, ...] = ()  # room that others were stopped for, kept for this job until it starts
    attempt: int = 0  # number of the latest attempt; 0 means none yet
    started_at: float | None = None  # of the latest attempt
    finished_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    cause: Cause | None = None

    @property
    def array_id(self) -> JobId:
        """The id of the array an element belongs to; of any other job, its own."""
        return JobId(str(self.number))

    @property
    def rank_in_queue(self) -> tuple[int, int, int]:
        """Sort key: what comes first is offered GPUs first. An array's waiting elements follow those already made."""
        return (-self.priority, self.number, _AFTER_ALL_ELEMENTS if self.index is None else self.index)

    @property
    def kind(self) -> Kind:
        return kind_of(self.user, self.name, self.request)

    @property
    def batch(self) -> int:
        return batch_of(self.submitted_at)

    @property
    def lane(self) -> Lane:
        """Whom this job waits with."""
        return Lane(self.request, self.queue, self.priority, self.kind, self.batch, self.time_limit_seconds)

    @property
    def ready(self) -> bool:
        """Whether only resources stand between this job and a start."""
        return self.state is JobState.QUEUED and not (self.held_by or self.waits_for or self.eligible_at is not None)


# ---------------------------------------------------------------- attempts


class StopKind(str, Enum):
    CANCEL = "cancel"
    REQUEUE = "requeue"
    DRAIN = "drain"  # to an agent a requeue, as the next two: only the controller tells them apart
    PREEMPT = "preempt"
    GPU_MEMORY = "gpu_memory"  # it took more of a shared GPU than its share
    TIME_LIMIT = "time_limit"
    FENCE = "fence"  # only ever decided by a supervisor, whose lease ended
    GPU_FAULT = "gpu_fault"  # only ever decided by an agent, one of whose GPUs failed under it
    VANISHED = "vanished"  # the agent no longer knows an attempt it had accepted
    SIBLING = "sibling"  # another rank of the gang failed


@dataclass(frozen=True, slots=True)
class Stop:
    """That an attempt is to end, and why. Kept with the attempt; a cancel replaces any other kind."""

    kind: StopKind
    by: str  # user name, or 'gpuq'
    at: float
    text: str = ""


class EndReason(str, Enum):
    """The supervisor's or agent's word on how a rank came to its end."""

    EXITED = "exited"  # exit_code or signal is real
    NEVER_STARTED = "never_started"  # no process was made, and none ever will be
    SETUP_FAILED = "setup_failed"
    LAUNCH_FAILED = "launch_failed"
    SUPERVISOR_LOST = "supervisor_lost"
    NODE_LOST = "node_lost"  # the machine went down under it


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The end of one rank, written once and kept by the agent until the controller acknowledges it.

    stopped is what made the supervisor end the rank, or None if it ended by itself (even if a stop was on its way).
    log_size is the final size of the rank's log in bytes; followers end there.
    """

    reason: EndReason
    ended_at: float
    exit_code: int | None = None
    signal: int | None = None
    stopped: StopKind | None = None
    text: str = ""
    started_at: float | None = None
    log_size: int = 0
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    gpu_fault: str = ""  # what befell a GPU of its while it ran, if anything did
    oom_kills: int = 0  # of its processes, by the kernel, because the job's memory or the machine's was short
    gpu_oom: str = ""  # the line at the end of its log that says a GPU had no memory left for it
    gpu_receipt: GpuReceipt | None = None

    @property
    def failed(self) -> bool:
        """Whether it came to an end of its own, and not to a good one."""
        return self.exit_code != 0 and self.stopped is None


class RankPhase(str, Enum):
    """How far a rank has come, by the agent's reports. Phases only ever advance."""

    ORDERED = "ordered"
    ACCEPTED = "accepted"
    READY = "ready"  # of a gang: all is set up, and it waits for the others
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Rank:
    """One node's part of an attempt, with what it was granted there."""

    node: NodeName
    gpus: tuple[int, ...]  # indices on the node, ascending
    cpus: int
    memory_bytes: int
    gpu_share_bytes: int | None = None  # of the memory of each of its GPUs; None: the GPUs are its alone
    exclusive: bool = False  # the node is its alone
    phase: RankPhase = RankPhase.ORDERED
    started_at: float | None = None
    exit: ExitRecord | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job. Live until ended_at is set; while live it holds everything its ranks were granted."""

    uid: AttemptUid
    job: JobId
    number: int
    ranks: tuple[Rank, ...]  # in rank order
    granted_at: float
    on_lost: OnLost
    port: int | None = None  # on the first rank's node, for the ranks to find each other; None: it has but one
    stop: Stop | None = None
    lost_since: float | None = None
    ended_at: float | None = None
    cause: Cause | None = None

    @property
    def live(self) -> bool:
        return self.ended_at is None

    @property
    def whole(self) -> bool:
        """Whether the work came to an end of its own, and was not given up to be done by another attempt."""
        return self.cause is None or self.cause.code not in GIVEN_UP

    @property
    def may_go(self) -> bool:
        """Whether all ranks have come as far as they may without each other."""
        return all(rank.phase is not RankPhase.ORDERED and rank.phase is not RankPhase.ACCEPTED for rank in self.ranks)


@dataclass(frozen=True, slots=True)
class PastRun:
    """An attempt that has ended, as far as the next ones can be judged by it. whole: it was not given up."""

    kind: Kind
    batch: int
    granted_at: float
    ended_at: float
    whole: bool


# ---------------------------------------------------------------- people


ROLES = ("viewer", "user", "admin")  # of people, each may do what those before it may


@dataclass(frozen=True, slots=True)
class User:
    """Someone who may have tokens. role is the most that any of them may do."""

    name: str
    role: str  # one of ROLES
    created_at: float
    disabled_at: float | None = None

    def capped(self, role: str) -> str:
        """What a token of this role may do, as a token of this user's."""
        return min(role, self.role, key=ROLES.index)
