"""When queued jobs are expected to start, if nothing else is submitted and what runs ends when it is expected to.

What starts now is what the plan starts now. From the first end on the queue is played forward by the plan's rules: in
its order, each job where the plan would put it, the first that does not fit with room kept for it. Time limits bound
run times, predictions stand in where there are none, and how long gaps last is judged by them too.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from gpuq.model import Attempt, Job, JobId, NodeName, Now, Rank, Request
from gpuq.scheduler.backfill import UNBOUNDED_SECONDS, Hold, Reservation, holds, reserve, until_when
from gpuq.scheduler.choose import Chooser
from gpuq.scheduler.claim import Claims, awaited, settle
from gpuq.scheduler.fit import Room
from gpuq.scheduler.limits import startable
from gpuq.scheduler.order import by_expectation
from gpuq.scheduler.plan import plan
from gpuq.scheduler.quota import Quotas
from gpuq.view import ClusterView, Placement, Policy

MOST_STARTS = 200  # looked ahead: beyond these, what is submitted meanwhile decides
_MOST_ENDS = 2_000  # of what runs and of what was started so: a bound on the work, not on the truth
NEVER_SECONDS = UNBOUNDED_SECONDS / 2  # no run time is known, so neither is anything behind it


@dataclass(frozen=True, slots=True)
class Start:
    """at is in wall seconds. bounded: no later than that, for time limits alone say so; else predictions take part."""

    at: float
    bounded: bool


def starts(view: ClusterView, now: Now, policy: Policy) -> Mapping[JobId, Start]:
    """The first MOST_STARTS of the queue that wait for resources only; of an array its next element's start."""
    claims = settle(view, now, policy)
    open_rooms = [room for room in claims.rooms if not room.closed and room.ranks > 0]
    placed = plan(view, now, policy, preempts=False).placements
    found = _Played(view, now, open_rooms, claims, placed).starts if open_rooms else {}
    return {**found, **{id: claimed(view, job, now) for id, job in claims.jobs.items()}}


def claimed(view: ClusterView, job: Job, now: Now) -> Start:
    """When a job with a claim starts: when those it waits for have had their grace."""
    return Start(max((now.wall, *awaited(view, job).values())), True)


def held_until(view: ClusterView, now: Now, attempt: Attempt) -> Hold | None:
    """Until when a live attempt is expected to hold what it was granted; None where nothing is known of that."""
    job = view.job(attempt.job)
    if job is None:
        return None
    until, bounded = until_when(view, job, attempt, now, view.settings.cluster.predict_run_times)
    return None if until - now.wall > NEVER_SECONDS else Hold(until, bounded, attempt.ranks)


def _waiting(view: ClusterView, now: Now, claims: Claims) -> Iterator[Job]:
    """Those that only wait for room, in the plan's order; an array as often as it may start elements."""
    key, quotas = by_expectation(view, now), Quotas(view, now, claims.jobs.values())
    found = []
    for lanes in view.ready().values():
        for lane, members in lanes:
            for job in islice(members, MOST_STARTS):
                if job.id not in claims.jobs:
                    found.append((key(lane, job), job.number, job))
    for _, _, job in heapq.nsmallest(MOST_STARTS, found, key=lambda entry: entry[:2]):
        allowed = startable(view, job)
        within = quotas.starts(job)
        for _ in range(allowed if within is None else min(allowed, within)):
            quotas.took(job)
            yield job


class _Played:
    """A queue played forward, from end to end of what holds room."""

    def __init__(
        self, view: ClusterView, now: Now, open_rooms: list[Room], claims: Claims, placed: Iterable[Placement]
    ) -> None:
        self.starts: dict[JobId, Start] = {}
        self._view, self._rooms = view, open_rooms
        self._predicts = view.settings.cluster.predict_run_times
        self._chooser = Chooser(open_rooms, view.demand())
        self._queue = deque(islice(_waiting(view, now, claims), MOST_STARTS))
        self._ends = [(hold.until, number, hold) for number, hold in enumerate(holds(view, now, self._predicts))]
        self._number = len(self._ends)
        self._bounded = True
        heapq.heapify(self._ends)
        for placement in placed:
            if placement.job not in claims.jobs:
                self._start_planned(placement, now)
        at = now.wall
        for _ in range(_MOST_ENDS):
            if not self._queue or not self._ends or self._ends[0][0] - now.wall > NEVER_SECONDS:
                return
            at = max(at, self._ends[0][0])
            while self._ends and self._ends[0][0] <= at:
                self._end(heapq.heappop(self._ends)[2])
            self._start_what_fits(Now(now.monotonic + at - now.wall, at))

    def _start_planned(self, placement: Placement, now: Now) -> None:
        job = self._view.job(placement.job)
        if job is not None:
            with suppress(ValueError):  # not among those that are looked at
                self._queue.remove(job)
            until, bounded = until_when(self._view, job, None, now, self._predicts)
            self._start(job, placement.ranks, now, Hold(until, bounded, placement.ranks), bounded=True)

    def _start(self, job: Job, ranks: tuple[Rank, ...], now: Now, hold: Hold, bounded: bool) -> None:
        self._chooser.take(ranks)
        self.starts.setdefault(job.id, Start(now.wall, bounded))
        self._number += 1
        heapq.heappush(self._ends, (hold.until, self._number, hold))

    def _start_what_fits(self, now: Now) -> None:
        left: deque[Job] = deque()
        first: Reservation | None = None
        full: set[Request] = set()
        while self._queue:
            job = self._queue.popleft()
            until, bounded = until_when(self._view, job, None, now, self._predicts)
            kept: tuple[NodeName, ...] = first.keeps(job.request) if first is not None and until > first.at else ()
            asked = (
                replace(job.request, not_nodes=tuple(sorted({*job.request.not_nodes, *kept}))) if kept else job.request
            )
            ranks = None if asked in full else self._chooser.choose(asked)
            if ranks is None:
                full.add(asked)
                left.append(job)
                if first is None:
                    first = reserve(job, now, self._rooms, [hold for _, _, hold in self._ends])
                continue
            gap_is_sure = first is None or (first.bounded and bounded)
            self._start(job, ranks, now, Hold(until, bounded, ranks), self._bounded and gap_is_sure)
            if first is not None and until > first.at:
                first.take(ranks)
        self._queue = left

    def _end(self, hold: Hold) -> None:
        self._bounded = self._bounded and hold.bounded
        self._chooser.give(hold.ranks)
