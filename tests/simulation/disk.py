"""The simulation's store: records on a disk that outlives crashes, written by a writer that takes its time.

Stands in for gpuq.store, whose own tests show that `load` gives back what was written; what is simulated here is when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gpuq.changes import (
    Change,
    DropNode,
    PutAttempt,
    PutJob,
    PutNode,
    PutPromise,
    PutReply,
    PutSettings,
    PutSpec,
    PutToken,
    PutUser,
)
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec, NodeName, PastRun, User
from gpuq.node import Node
from gpuq.settings import Settings
from gpuq.spent import SpentHour
from gpuq.states import FINAL, JobState
from tests.simulation.clock import Clock


@dataclass
class Disk:
    """What is durable. Implements service.records.Lookup, and the snapshot that Cluster.load reads."""

    all_jobs: dict[JobId, Job] = field(default_factory=dict)
    specs: dict[JobId, JobSpec] = field(default_factory=dict)
    all_attempts: dict[AttemptUid, Attempt] = field(default_factory=dict)
    all_nodes: dict[NodeName, Node] = field(default_factory=dict)
    all_users: dict[str, User] = field(default_factory=dict)
    all_tokens: dict[str, PutToken] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    promised: JobId | None = None
    replies: dict[str, str] = field(default_factory=dict)
    next_number: int = 1
    last_seq: int = 0
    epoch: int = 1

    def write(self, seq: int, changes: tuple[Change, ...]) -> None:
        for change in changes:
            match change:
                case PutJob(job):
                    self.all_jobs[job.id] = job
                    self.next_number = max(self.next_number, job.number + 1)
                case PutSpec(id, spec):
                    self.specs[id] = spec
                case PutAttempt(attempt):
                    self.all_attempts[attempt.uid] = attempt
                case PutNode(node):
                    self.all_nodes[node.name] = node
                case DropNode(name):
                    self.all_nodes.pop(name, None)
                case PutUser(user):
                    self.all_users[user.name] = user
                case PutToken():
                    self.all_tokens[change.id] = change
                case PutSettings(settings):
                    self.settings = settings
                case PutPromise(job):
                    self.promised = job
                case PutReply(id, _, _, body):
                    self.replies[id] = body
                case _:
                    pass
        self.last_seq = seq

    def job(self, id: JobId) -> Job | None:
        return self.all_jobs.get(id)

    def spec(self, id: JobId) -> JobSpec | None:
        return self.specs.get(id)

    def ended_attempts(self, uids: Iterable[AttemptUid]) -> set[AttemptUid]:
        return {uid for uid in uids if (attempt := self.all_attempts.get(uid)) is not None and not attempt.live}

    def reply(self, request_id: str) -> str | None:
        return self.replies.get(request_id)

    @property
    def jobs(self) -> list[Job]:
        return [job for job in self.all_jobs.values() if job.state not in FINAL]

    @property
    def attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.all_attempts.values() if attempt.live]

    @property
    def past(self) -> list[PastRun]:
        return []  # estimates are no part of what must be the same after a crash

    @property
    def spent(self) -> list[SpentHour]:
        return []  # nobody here has a quota of GPU-hours

    @property
    def nodes(self) -> list[Node]:
        return list(self.all_nodes.values())

    @property
    def users(self) -> list[User]:
        return list(self.all_users.values())

    @property
    def tokens(self) -> list[PutToken]:
        return [token for token in self.all_tokens.values() if token.revoked_at is None]

    @property
    def element_counts(self) -> dict[JobId, dict[JobState, int]]:
        counts: dict[JobId, dict[JobState, int]] = {}
        for job in self.all_jobs.values():
            row = self.all_jobs.get(job.array_id)
            if job.index is not None and row is not None and row.state not in FINAL:
                by_state = counts.setdefault(row.id, {})
                by_state[job.state] = by_state.get(job.state, 0) + 1
        return counts


class DiskWriter:
    """service.commit.Writer for one life of the controller: commits in order, some time later, in groups.

    busy: how often the disk is, for up to a second: much is decided meanwhile that is not durable yet.
    """

    def __init__(
        self, clock: Clock, disk: Disk, busy: float, confirmed: Callable[[int], None], full: Callable[[], None]
    ) -> None:
        self._clock, self._disk, self._busy, self._confirmed, self._full = clock, disk, busy, confirmed, full
        self.waiting: deque[tuple[int, tuple[Change, ...]]] = deque()
        self._flying: deque[tuple[int, tuple[Change, ...]]] = deque()
        self.dead = False
        self.fail_next = False

    def enqueue(self, seq: int, changes: tuple[Change, ...]) -> None:
        self.waiting.append((seq, changes))
        if not self._flying:
            self._clock.after(self._clock.random.uniform(0.0, 0.002), self._begin)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self._flying

    def _begin(self) -> None:
        """Takes everything that waits into one transaction; what comes from here on waits for the next."""
        if not self.dead and self.waiting and not self._flying:
            self._flying, self.waiting = self.waiting, deque()
            busy = 50.0 if self._busy and self._clock.chance(self._busy) else 1.0
            self._clock.after(self._clock.random.uniform(0.0002, 0.02) * busy, self._commit)

    def _commit(self) -> None:
        if self.dead:
            return
        group, self._flying = self._flying, deque()
        if self.fail_next:
            self.fail_next = False
            self.waiting.clear()
            self._full()
            return
        for seq, changes in group:
            self._disk.write(seq, changes)
        self._confirmed(group[-1][0])
        self._begin()

    def crash(self) -> None:
        """The process dies: the transaction under way reached the disk whole or not at all, unconfirmed."""
        self.dead = True
        if self._clock.chance(0.5):
            for seq, changes in self._flying:
                self._disk.write(seq, changes)
