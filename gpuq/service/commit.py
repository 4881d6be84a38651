"""The only file that joins store and cluster: applies changes at once, hands them to the writer, and says when they
are durable.

Nothing that was computed from a change may leave the controller before that change is on disk. So whoever has an
answer ready calls `when_durable(number, ...)`; the answer goes out when the writer confirms, or is replaced by an
Unavailable when it cannot.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from gpuq.changes import AddEvent, Change
from gpuq.cluster import Cluster
from gpuq.errors import Unavailable
from gpuq.service.board import Board
from gpuq.service.unwritten import Unwritten

logger = logging.getLogger(__name__)

Then = Callable[[Unavailable | None], None]


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
        self.unwritten = Unwritten()

    def apply(self, changes: tuple[Change, ...]) -> int:
        """Applies at once and hands on; gives the number under which these changes will be durable."""
        if changes:
            self.last += 1
            self.board.note(changes)
            self.cluster.apply(changes)
            self.unwritten.note(changes)
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
        self.unwritten = Unwritten()
        waiting, self._waiting = self._waiting, deque()
        for _, then in waiting:
            then(error)

    def _landed(self, changes: tuple[Change, ...]) -> None:
        self.unwritten.landed(changes)
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
