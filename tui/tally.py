"""Jobs counted as they come and change, so that no view walks a hundred thousand rows to say how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuq.states import ACTIVE, FINAL
from tui.job_row import JobRow

_ACTIVE = frozenset(state.value for state in ACTIVE)
_FINAL = frozenset(state.value for state in FINAL)
UNSAID = "unsaid"  # the reason of elements that wait while others of their array run: a row has one reason
MANY_ATTEMPTS = 3  # so many starts of one job are a person's business


@dataclass(slots=True)
class QueueTally:
    """One queue. Elements of arrays count one by one."""

    active: int = 0
    queued: int = 0
    gpus_used: int = 0
    gpus_wanted: int = 0  # by those that wait
    reasons: Counter[str] = field(default_factory=Counter)  # of those that wait, by reason code


class Tally:
    """What all rows come to. `replace` keeps it true at a cost that does not grow with the rows."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueTally] = {}
        self.states: dict[str, Counter[str]] = {}  # by user
        self.stuck: set[str] = set()  # no node present could ever run them
        self.restarting: set[str] = set()  # live, and started MANY_ATTEMPTS times or more
        self.failed: dict[tuple[str, str], set[str]] = {}  # ids that FAILED, or elements of theirs, by user and name

    def replace(self, old: JobRow | None, new: JobRow | None) -> None:
        """A row came (old is None), changed, or went (new is None)."""
        if old is not None:
            self._count(old, -1)
            self._forget(old)
        if new is not None:
            self._count(new, 1)
            self._note(new)

    def _count(self, row: JobRow, sign: int) -> None:
        user = self.states.get(row.user)
        if user is None:
            user = self.states[row.user] = Counter()
        active = queued = 0
        for state, n in by_state(row).items():
            user[state] += sign * n
            if state == "QUEUED":
                queued = n
            elif state in _ACTIVE:
                active += n
        if not (active or queued):
            return
        queue = self.queues.get(row.queue)
        if queue is None:
            queue = self.queues[row.queue] = QueueTally()
        if active:
            queue.active += sign * active
            queue.gpus_used += sign * active * row.gpus
        if queued:
            queue.queued += sign * queued
            queue.gpus_wanted += sign * queued * row.gpus
            queue.reasons[row.reason["code"] if row.reason else UNSAID] += sign * queued

    def _note(self, row: JobRow) -> None:
        if _has_failed(row):
            self.failed.setdefault((row.user, row.name), set()).add(row.id)
        if row.reason is not None and row.reason["code"] == "too_large":
            self.stuck.add(row.id)
        if row.attempt >= MANY_ATTEMPTS and row.state not in _FINAL:
            self.restarting.add(row.id)

    def _forget(self, row: JobRow) -> None:
        self.stuck.discard(row.id)
        self.restarting.discard(row.id)
        if _has_failed(row):
            named = self.failed.get((row.user, row.name))
            if named is not None:
                named.discard(row.id)
                if not named:
                    del self.failed[row.user, row.name]


def _has_failed(row: JobRow) -> bool:
    """Whether it, or an element of it, FAILED."""
    return row.state == "FAILED" or (row.elements is not None and bool(row.elements["counts"].get("FAILED")))


def by_state(row: JobRow) -> Mapping[str, int]:
    """How many a row stands for in each state: one, or an array's elements."""
    if row.elements is None:
        return {row.state: 1}
    counts: Mapping[str, int] = row.elements["counts"]
    return counts
