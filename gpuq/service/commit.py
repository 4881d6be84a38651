"""The only file that joins store and cluster: applies changes at once, hands them to the writer, and says when they
are durable.

Nothing that was computed from a change may leave the controller before that change is on disk. So whoever has an
answer ready calls `when_durable(number, ...)`; the answer goes out when the writer confirms, or is replaced by an
Unavailable when it cannot.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from gpuq.changes import AddEvent, Change, PutAttempt, PutJob, PutReply
from gpuq.cluster import Cluster
from gpuq.errors import Unavailable
from gpuq.model import AttemptUid, Job, JobId
from gpuq.service.board import Board
from gpuq.states import FINAL

logger = logging.getLogger(__name__)

Then = Callable[[Unavailable | None], None]

# Of ended attempts, this many are known without asking the store: their agents go on naming them for some exchanges,
# and each asks about all of them again. 150 bytes each.
KEPT_ENDED = 1_000


class Writer(Protocol):
    """What makes changes durable: the store's writer thread, or the simulation's."""

    def enqueue(self, seq: int, changes: tuple[Change, ...]) -> None: ...


class Commit:
    """Numbers changes, applies them, and keeps who waits for which number. Lives on the event loop."""

    def __init__(self, cluster: Cluster, writer: Writer, last: int) -> None:
        self.cluster = cluster
        self.board = Board(cluster)
        self.last = last  # number of the newest change applied
        self.durable = last
        self._writer = writer
        self._waiting: deque[tuple[int, Then]] = deque()  # ascending by number
        self._flying: deque[tuple[int, tuple[Change, ...]]] = deque()
        # What is applied but not durable, for look-ups that would otherwise ask the store too early.
        self._ended_jobs: dict[JobId, Job] = {}
        self._ended_attempts: set[AttemptUid] = set()
        self._kept_ended: deque[AttemptUid] = deque()  # those of them that are durable
        self._replies: dict[str, str] = {}

    def apply(self, changes: tuple[Change, ...]) -> int:
        """Applies at once and hands on; gives the number under which these changes will be durable."""
        if changes:
            self.last += 1
            self.board.note(changes)
            self.cluster.apply(changes)
            self._note(changes)
            self._flying.append((self.last, changes))
            self._writer.enqueue(self.last, changes)
        return self.last

    def when_durable(self, number: int, then: Then) -> None:
        """Calls then(None) once `number` is durable, at once if it is; then(error) if it never will be."""
        if number <= self.durable:
            then(None)
        else:
            self._waiting.append((number, then))

    def confirmed(self, number: int) -> None:
        """The writer's word that everything up to `number` is on disk."""
        self.durable = max(self.durable, number)
        while self._flying and self._flying[0][0] <= self.durable:
            self._landed(self._flying.popleft()[1])
        while self._waiting and self._waiting[0][0] <= self.durable:
            self._waiting.popleft()[1](None)

    def rolled_back(self, cluster: Cluster, error: Unavailable) -> None:
        """Everything that was not durable is undone: memory is `cluster`, as the store has it; waiters are told.

        Their numbers are used again: no answer computed at one of them has ever left.
        """
        self.cluster = cluster
        self.board.start(cluster)
        self.last = self.durable
        self._flying.clear()
        self._ended_jobs.clear()
        self._ended_attempts.clear()
        self._kept_ended.clear()
        self._replies.clear()
        waiting, self._waiting = self._waiting, deque()
        for _, then in waiting:
            then(error)

    # ------------------------------------------------------------ what the store cannot tell yet, or need not

    def ended_job(self, id: JobId) -> Job | None:
        return self._ended_jobs.get(id)

    def ended_attempt(self, uid: AttemptUid) -> bool:
        """True is sure; False means that the store may know better."""
        return uid in self._ended_attempts

    def reply(self, request_id: str) -> str | None:
        return self._replies.get(request_id)

    def _note(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, PutJob) and change.job.state in FINAL:
                self._ended_jobs[change.job.id] = change.job
            elif isinstance(change, PutAttempt) and not change.attempt.live:
                self._ended_attempts.add(change.attempt.uid)
            elif isinstance(change, PutReply):
                self._replies[change.request_id] = change.body

    def _landed(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, AddEvent):
                logger.info(
                    "%s job=%s attempt=%s node=%s user=%s",
                    change.kind,
                    change.job,
                    change.attempt,
                    change.node,
                    change.user,
                )
            elif isinstance(change, PutJob):
                if self._ended_jobs.get(change.job.id) is change.job:  # an earlier record of it says nothing of its end
                    del self._ended_jobs[change.job.id]
            elif isinstance(change, PutAttempt) and not change.attempt.live:
                self._kept_ended.append(change.attempt.uid)
                if len(self._kept_ended) > KEPT_ENDED:
                    self._ended_attempts.discard(self._kept_ended.popleft())
            elif isinstance(change, PutReply):
                self._replies.pop(change.request_id, None)
