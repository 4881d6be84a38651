"""The scheduling state in memory: applies changes, answers as a ClusterView.

It holds what decisions need and nothing else: jobs that have not ended, live attempts, nodes, users, tokens that were
not revoked, and the settings. Everything beyond the records themselves (who holds which GPU, who waits for whom, what
is ready) is an index derived from them here, so there is no second truth to disagree with:
`Cluster.load(store.load()) == cluster` after any sequence of changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol

from gpuq.changes import Change, DropNode, PutAttempt, PutJob, PutNode, PutPromise, PutSettings, PutToken, PutUser
from gpuq.lanes import Lanes, size
from gpuq.model import Attempt, AttemptUid, Job, JobId, Lane, NodeName, PastRun, Rank, Request, User, Waiting
from gpuq.node import GpuHealth, Inventory, Node
from gpuq.predict import RunTimes, Usage
from gpuq.settings import Settings
from gpuq.spent import Spent, SpentHour
from gpuq.states import ACTIVE, FINAL, JobState, NodeState


class _Free(NamedTuple):
    """What a node has less what its live attempts hold."""

    gpus: tuple[int, ...]  # healthy, whole
    shares: Mapping[int, int]  # bytes left on healthy GPUs held by shares only
    cpus: int
    memory_bytes: int
    alone: bool  # held by an attempt for itself


_NOTHING = _Free((), MappingProxyType({}), 0, 0, False)


class Volatile(Protocol):
    """What this life of the controller knows and never stores."""

    def node_state(self, name: NodeName) -> NodeState: ...

    def order_left(self, uid: AttemptUid) -> bool: ...


class Snapshot(Protocol):
    """What a store hands over at the start; gpuq.store.Snapshot is one."""

    @property
    def jobs(self) -> Iterable[Job]: ...
    @property
    def element_counts(self) -> Mapping[JobId, Mapping[JobState, int]]: ...
    @property
    def attempts(self) -> Iterable[Attempt]: ...
    @property
    def past(self) -> Iterable[PastRun]: ...
    @property
    def spent(self) -> Iterable[SpentHour]: ...
    @property
    def nodes(self) -> Iterable[Node]: ...
    @property
    def users(self) -> Iterable[User]: ...
    @property
    def tokens(self) -> Iterable[PutToken]: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def promised(self) -> JobId | None: ...
    @property
    def next_number(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def epoch(self) -> int: ...


class Cluster:
    """See the module's docstring. Lookup methods are documented where they are promised, in model.ClusterView."""

    def __init__(self, volatile: Volatile) -> None:
        self.volatile = volatile
        self.next_number = 1
        self.settings = Settings()
        self.promised: JobId | None = None
        self._jobs: dict[JobId, Job] = {}
        self._nodes: dict[NodeName, Node] = {}
        self._users: dict[str, User] = {}
        self._tokens: dict[str, PutToken] = {}
        self._attempts: dict[AttemptUid, Attempt] = {}
        self._attempt_of: dict[JobId, AttemptUid] = {}
        self._limited: list[tuple[float, AttemptUid]] = []  # live attempts by when their time limit is over
        self._unlimited: list[tuple[float, AttemptUid]] = []  # those without one, by when they were granted
        self._end_of: dict[AttemptUid, tuple[list[tuple[float, AttemptUid]], tuple[float, AttemptUid]]] = {}
        self._on_node: dict[NodeName, dict[AttemptUid, None]] = {}
        self._ready = Lanes()
        self._timed: dict[JobId, None] = {}
        self._claims: dict[JobId, None] = {}
        self._dependents: dict[JobId, dict[JobId, None]] = {}
        self._elements: dict[JobId, dict[JobId, None]] = {}
        self._made: dict[JobId, dict[JobState, int]] = {}  # elements of live arrays by state, ended ones included
        self._demand: dict[Request, int] = {}
        # Learned, not recorded: nothing but the order of the queue and what people are told depends on them.
        self.run_times = RunTimes()
        self.usage = Usage()
        self.spent = Spent()
        self._free: dict[NodeName, _Free] = {}  # computed on demand, dropped on change

    @classmethod
    def load(cls, snapshot: Snapshot, volatile: Volatile) -> Cluster:
        cluster = cls(volatile)
        for node in snapshot.nodes:
            cluster._put_node(node)
        for job in snapshot.jobs:
            cluster._put_job(job)
        for run in snapshot.past:
            cluster.run_times.remember(run)
            cluster.usage.remember(run)
        for hour in snapshot.spent:
            cluster.spent.remember(hour)
        for attempt in snapshot.attempts:
            cluster._put_attempt(attempt)
        cluster._users = {user.name: user for user in snapshot.users}
        cluster._tokens = {token.id: token for token in snapshot.tokens}
        cluster._made = {id: dict(counts) for id, counts in snapshot.element_counts.items()}
        cluster.settings = snapshot.settings
        cluster.promised = snapshot.promised
        cluster.next_number = snapshot.next_number
        return cluster

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cluster):
            return NotImplemented
        return self._records() == other._records()

    __hash__ = None  # type: ignore[assignment]

    def _records(self) -> tuple[object, ...]:
        made = {id: {s: n for s, n in counts.items() if n} for id, counts in self._made.items()}
        made = {id: counts for id, counts in made.items() if counts}
        set_by_admins = self._users, self._tokens, self.settings
        return (
            self._jobs,
            self._nodes,
            self._attempts,
            made,
            self.next_number,
            self._ready.fronts,
            self._demand,
            self.promised,
            set_by_admins,
        )

    # ------------------------------------------------------------ applying

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, PutJob):
                self._put_job(change.job)
            elif isinstance(change, PutAttempt):
                self._put_attempt(change.attempt)
            elif isinstance(change, PutNode):
                self._put_node(change.node)
            elif isinstance(change, DropNode):
                self._drop_node(change.name)
            elif isinstance(change, PutUser):
                self._users[change.user.name] = change.user
            elif isinstance(change, PutToken):
                self._put_token(change)
            elif isinstance(change, PutSettings):
                self.settings = change.settings
            elif isinstance(change, PutPromise):
                self.promised = change.job

    def _put_job(self, job: Job) -> None:
        old = self._jobs.get(job.id)
        if old is not None:
            self._unindex(old)
        self.next_number = max(self.next_number, job.number + 1)
        if job.index is not None and job.array_id in self._jobs:  # an array that has just ended needs no counts
            counts = self._made.setdefault(job.array_id, {})
            if old is not None:
                counts[old.state] -= 1
            counts[job.state] = counts.get(job.state, 0) + 1
        if job.state in FINAL:
            self._jobs.pop(job.id, None)
            if job.array is not None:
                self._made.pop(job.id, None)
        else:
            self._jobs[job.id] = job
            self._index(job)
            attempt = self.attempt_of(job.id)
            if attempt is not None and (old is None or old.time_limit_seconds != job.time_limit_seconds):
                self._forget_end(attempt.uid)
                self._note_end(attempt)

    def _index(self, job: Job) -> None:
        self._count(job, 1)
        if job.index is not None:
            self._elements.setdefault(job.array_id, {})[job.id] = None
        if job.state is not JobState.QUEUED:
            return
        for dependency in job.waits_for:
            self._dependents.setdefault(dependency.job, {})[job.id] = None
        if job.array is not None and not job.array.waiting:
            return  # its elements wait for themselves
        if job.eligible_at is not None or job.scheduling_timeout_seconds is not None:
            self._timed[job.id] = None
        if job.ready:
            self._ready.add(job)
            if job.claim:
                self._claims[job.id] = None

    def _count(self, job: Job, sign: int) -> None:
        left = self._demand.get(job.request, 0) + sign * size(job)
        if left:
            self._demand[job.request] = left
        else:
            self._demand.pop(job.request, None)

    def _unindex(self, job: Job) -> None:
        self._count(job, -1)
        if job.index is not None:
            elements = self._elements[job.array_id]
            del elements[job.id]
            if not elements:
                del self._elements[job.array_id]
        if job.state is not JobState.QUEUED:
            return
        for dependency in job.waits_for:
            waiting = self._dependents.get(dependency.job, {})
            waiting.pop(job.id, None)
            if not waiting:
                self._dependents.pop(dependency.job, None)
        self._timed.pop(job.id, None)
        self._claims.pop(job.id, None)
        if job.ready and (job.array is None or job.array.waiting):
            self._ready.remove(job)

    def _put_attempt(self, attempt: Attempt) -> None:
        names = {rank.node for rank in attempt.ranks}
        self._forget_end(attempt.uid)
        if attempt.live:
            self._attempts[attempt.uid] = attempt
            self._note_end(attempt)
            self._attempt_of[attempt.job] = attempt.uid
            self._learn_start(attempt)
            for name in names:
                self._on_node.setdefault(name, {})[attempt.uid] = None
        elif self._attempts.pop(attempt.uid, None) is not None:
            del self._attempt_of[attempt.job]
            self._learn_end(attempt)
            for name in names:
                del self._on_node[name][attempt.uid]
        for name in names:
            self._free.pop(name, None)

    def _note_end(self, attempt: Attempt) -> None:
        """Notes where a live attempt stands, for its job may be gone, or have another limit, when it leaves there."""
        job = self._jobs.get(attempt.job)
        limit = None if job is None else job.time_limit_seconds
        ends = self._unlimited if limit is None else self._limited
        end = attempt.granted_at + (limit or 0), attempt.uid
        self._end_of[attempt.uid] = ends, end
        insort(ends, end)

    def _forget_end(self, uid: AttemptUid) -> None:
        known = self._end_of.pop(uid, None)
        if known is not None:
            ends, end = known
            del ends[bisect_left(ends, end)]

    def _learn_start(self, attempt: Attempt) -> None:
        job = self._jobs.get(attempt.job)
        if job is not None:
            self.run_times.started(attempt.uid, job, attempt.granted_at)
            self.usage.started(attempt.uid, job, attempt.granted_at)
            self.spent.started(attempt, job.user)

    def _learn_end(self, attempt: Attempt) -> None:
        assert attempt.ended_at is not None
        self.run_times.ended(attempt.uid, attempt.ended_at, attempt.whole)
        self.usage.ended(attempt.uid, attempt.ended_at)
        self.spent.ended(attempt.uid, attempt.ended_at)

    def _put_node(self, node: Node) -> None:
        self._nodes[node.name] = node
        self._free.pop(node.name, None)

    def _drop_node(self, name: NodeName) -> None:
        self._nodes.pop(name, None)
        self._free.pop(name, None)

    def _put_token(self, token: PutToken) -> None:
        if token.revoked_at is None:
            self._tokens[token.id] = token
        else:
            self._tokens.pop(token.id, None)

    @contextmanager
    def as_if(self, job: Job) -> Iterator[None]:
        """Inside, the cluster answers as if this new job had been submitted; nothing else may happen meanwhile."""
        number = self.next_number
        self._put_job(job)
        try:
            yield
        finally:
            self._unindex(job)
            del self._jobs[job.id]
            self.next_number = number

    # ------------------------------------------------------------ viewing

    @property
    def nodes(self) -> Mapping[NodeName, Node]:
        return self._nodes

    @property
    def users(self) -> Mapping[str, User]:
        return self._users

    @property
    def tokens(self) -> Mapping[str, PutToken]:
        return self._tokens

    def live_jobs(self) -> Iterable[Job]:
        return self._jobs.values()

    def node_state(self, name: NodeName) -> NodeState:
        return self.volatile.node_state(name)

    def order_left(self, uid: AttemptUid) -> bool:
        return self.volatile.order_left(uid)

    def job(self, id: JobId) -> Job | None:
        return self._jobs.get(id)

    def attempt(self, uid: AttemptUid) -> Attempt | None:
        return self._attempts.get(uid)

    def attempt_of(self, id: JobId) -> Attempt | None:
        uid = self._attempt_of.get(id)
        return None if uid is None else self._attempts[uid]

    @property
    def attempts(self) -> Mapping[AttemptUid, Attempt]:
        return self._attempts

    def limited(self) -> Sequence[tuple[float, AttemptUid]]:
        return self._limited

    def unlimited(self) -> Sequence[tuple[float, AttemptUid]]:
        return self._unlimited

    def attempts_on(self, name: NodeName) -> Iterator[Attempt]:
        return (self._attempts[uid] for uid in self._on_node.get(name, ()))

    def elements(self, id: JobId) -> Iterable[Job]:
        made = (self._jobs[element] for element in self._elements.get(id, ()))
        return sorted(made, key=lambda job: job.index or 0)

    def element_counts(self, id: JobId) -> Mapping[JobState, int]:
        return {state: n for state, n in self._made.get(id, {}).items() if n}

    def running_elements(self, id: JobId) -> int:
        return sum(n for state, n in self._made.get(id, {}).items() if state in ACTIVE)

    def dependents(self, id: JobId) -> Iterable[Job]:
        return [self._jobs[waiting] for waiting in self._dependents.get(id, ())]

    def fronts(self) -> Mapping[Request, Mapping[Lane, Sequence[Waiting]]]:
        return self._ready.fronts

    def ready(self) -> Mapping[Request, Iterable[tuple[Lane, Iterable[Job]]]]:
        return self._ready.with_jobs(self._jobs)

    def waiting(self) -> Mapping[Lane, int]:
        return self._ready.waiting

    def claims(self) -> Iterable[Job]:
        return sorted((self._jobs[id] for id in self._claims), key=lambda job: job.rank_in_queue)

    def timed(self) -> Iterable[Job]:
        return [self._jobs[id] for id in self._timed]

    def demand(self) -> Mapping[Request, int]:
        return self._demand

    def free_gpus(self, name: NodeName) -> tuple[int, ...]:
        return self._room(name).gpus

    def free_shares(self, name: NodeName) -> Mapping[int, int]:
        return self._room(name).shares

    def free_cpus(self, name: NodeName) -> int:
        return self._room(name).cpus

    def free_memory_bytes(self, name: NodeName) -> int:
        return self._room(name).memory_bytes

    def taken_alone(self, name: NodeName) -> bool:
        return self._room(name).alone

    def ranks_on(self, name: NodeName) -> int:
        return len(self._on_node.get(name, ()))

    def _room(self, name: NodeName) -> _Free:
        room = self._free.get(name)
        if room is None:
            node = self._nodes.get(name)
            if node is None or node.inventory is None:
                return _NOTHING
            held = [rank for attempt in self.attempts_on(name) for rank in attempt.ranks if rank.node == name]
            room = self._free[name] = _free(node.inventory, held)
        return room


def _free(inventory: Inventory, held: list[Rank]) -> _Free:
    whole = {gpu for rank in held if rank.gpu_share_bytes is None for gpu in rank.gpus}
    used: dict[int, int] = {}
    for rank in held:
        if rank.gpu_share_bytes is not None:
            for gpu in rank.gpus:
                used[gpu] = used.get(gpu, 0) + rank.gpu_share_bytes
    healthy = [gpu for gpu in inventory.gpus if gpu.health is GpuHealth.OK and gpu.index not in whole]
    return _Free(
        tuple(gpu.index for gpu in healthy if gpu.index not in used),
        {gpu.index: (gpu.memory_total_bytes or 0) - used[gpu.index] for gpu in healthy if gpu.index in used},
        inventory.cpus - sum(rank.cpus for rank in held),
        inventory.memory_total_bytes - sum(rank.memory_bytes for rank in held),
        any(rank.exclusive for rank in held),
    )
