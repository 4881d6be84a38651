"""The room kept for the first job that does not fit, and who may start before it all the same."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from gpuq.model import Attempt, Job, NodeName, Now, Rank, Request
from gpuq.scheduler.fit import Room, fits, rank_on
from gpuq.view import ClusterView

# Stands for a run time that nobody has bounded: Slurm, too, reckons with a year.
UNBOUNDED_SECONDS = 365 * 86_400.0
# Of the expected run time, what counts against a gap: run times are spread so widely that most jobs end well before.
GAP_SHARE = 0.5


class Hold(NamedTuple):
    """A grant and when it is expected back; bounded: no later than that, for a time limit says so."""

    until: float
    bounded: bool
    ranks: tuple[Rank, ...]


class Reservation:
    """Room for one job from `at` on, on nodes that are not decided before then.

    It stands as long as, whatever is started besides, enough nodes remain on which the job fits at `at`.
    """

    def __init__(self, job: Job, at: float, bounded: bool, then: dict[NodeName, Room]) -> None:
        self.job, self.at, self.bounded = job, at, bounded
        self._then = then  # what is free at `at`
        self._fitting = {name for name, room in then.items() if fits(room, job.request)}
        self._kept: dict[Request, tuple[NodeName, ...]] = {}

    def keeps(self, request: Request) -> tuple[NodeName, ...]:
        """Nodes, by name, that a job of this request has to leave alone if it may outlast `at`."""
        kept = self._kept.get(request)
        if kept is None:
            spare = len(self._fitting) - self.job.request.nodes
            kept = () if spare >= request.nodes else tuple(sorted(filter(self._lost_to(request), self._fitting)))
            self._kept[request] = kept
        return kept

    def _lost_to(self, request: Request):  # type: ignore[no-untyped-def]
        def lost(name: NodeName) -> bool:
            room = self._then[name]
            if not fits(room, request):
                return True
            rank = rank_on(room, request)
            room.take(rank)
            fitting = fits(room, self.job.request)
            room.give(rank)
            return not fitting

        return lost

    def take(self, ranks: Iterable[Rank]) -> None:
        """Something was started that may outlast `at`."""
        for rank in ranks:
            self._then[rank.node].take(rank)
            if not fits(self._then[rank.node], self.job.request):
                self._fitting.discard(rank.node)
        self._kept.clear()


def reserve(job: Job, now: Now, rooms: Iterable[Room], holds: Iterable[Hold]) -> Reservation | None:
    """The earliest room for a job that does not fit now, if all is given back when expected; None if not even then."""
    then = {room.name: replace(room, shares=dict(room.shares)) for room in rooms}
    fitting = {name for name, room in then.items() if fits(room, job.request)}
    at, bounded = now.wall, True
    ends = [(hold.until, not hold.bounded, number, hold) for number, hold in enumerate(holds)]
    heapq.heapify(ends)
    # All that ends at that time counts, whichever was granted first: else the order of records would show.
    while (short := len(fitting) < job.request.nodes) or (ends and ends[0][0] <= at):
        if not ends:
            return None
        until, _, _, hold = heapq.heappop(ends)
        at = max(at, until)
        bounded = bounded and (hold.bounded or not short)
        for rank in hold.ranks:
            room = then.get(rank.node)
            if room is not None:
                room.give(rank)
                if fits(room, job.request):
                    fitting.add(rank.node)
    return Reservation(job, at, bounded, then)


def holds(view: ClusterView, now: Now, predicts: bool) -> Iterator[Hold]:
    """Every live attempt: until its time limit, or if it has none as long as such runs are expected to go on."""
    for attempt in view.attempts.values():
        job = view.job(attempt.job)
        if job is not None:
            until, bounded = until_when(view, job, attempt, now, predicts)
            yield Hold(until, bounded, attempt.ranks)


def until_when(view: ClusterView, job: Job, attempt: Attempt | None, now: Now, predicts: bool) -> tuple[float, bool]:
    """When a job that runs, or started now, gives its room back, and whether a time limit bounds that."""
    begun = now.wall if attempt is None else attempt.granted_at
    limit = job.time_limit_seconds
    if limit is not None:
        return max(now.wall, begun + limit), True
    if not predicts:
        return begun + UNBOUNDED_SECONDS, False
    if attempt is not None:
        return now.wall + view.run_times.left(attempt.uid, now.wall), False
    return now.wall + GAP_SHARE * view.run_times.expected(job.kind, job.batch, now.wall), False
