"""The room kept for the first job that does not fit, and who may start before it all the same."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from gpuq.model import Attempt, Job, Lane, NodeName, Now, Rank, Request
from gpuq.scheduler.fit import Room, fits, rank_on
from gpuq.view import ClusterView

# Stands for a run time that nobody has bounded: Slurm, too, reckons with a year.
UNBOUNDED_SECONDS = 365 * 86_400.0
# Of the expected run time, what counts against a gap: run times are spread so widely that most jobs end well before,
# and the end of what runs is a guess as well. On published traces 0.1 to 0.25 do about as well; with 0.5 and more,
# whoever waits for whole nodes holds up all others, and in turn comes no sooner.
GAP_SHARE = 0.15


# What has just begun is expected to go on for so long at least. On published traces, 0 to 20 minutes do about as well.
RUNS_ON_SECONDS = 600.0


class Hold(NamedTuple):
    """A grant and when it is expected back; bounded: no later than that, for a time limit says so."""

    until: float
    bounded: bool
    ranks: tuple[Rank, ...]


class _Then:
    """What will be free when some grants were given back. Rooms are copied only as far as they are looked at."""

    def __init__(self, rooms: Iterable[Room], request: Request) -> None:
        self._now = {room.name: room for room in rooms}
        self._request = request
        self._then: dict[NodeName, Room] = {}
        self._back: dict[NodeName, list[Rank]] = {}  # given back, and not yet put into a copy
        self._gpus: dict[NodeName, int] = {}  # at least as many as are free with those
        least = request.gpus_per_node
        near = (room for room in self._now.values() if len(room.gpus) + len(room.shares) >= least)  # most have too few
        self.fitting = {room.name for room in near if fits(room, request)}

    def give(self, rank: Rank) -> None:
        name = rank.node
        room = self._now.get(name)
        if room is None:
            return
        back = self._back.get(name)
        if back is None:
            back = self._back[name] = []
            self._gpus.setdefault(name, len(room.gpus) + len(room.shares))
        back.append(rank)
        self._gpus[name] += len(rank.gpus)
        # Most nodes that get something back have too little still: there is nothing to copy for.
        if self._gpus[name] >= self._request.gpus_per_node and name not in self.fitting:
            self.check(name)

    def check(self, name: NodeName) -> None:
        """Looks again whether the request fits a node."""
        (self.fitting.add if fits(self.room(name), self._request) else self.fitting.discard)(name)

    def room(self, name: NodeName) -> Room:
        room = self._then.get(name)
        if room is None:
            room = self._now[name]
            room = self._then[name] = replace(room, shares=dict(room.shares))
        for rank in self._back.pop(name, ()):
            room.give(rank)
        return room


class Reservation:
    """Room for one job from `at` on, on nodes that are not decided before then.

    It stands as long as, whatever is started besides, enough nodes remain on which the job fits at `at`.
    """

    def __init__(self, job: Job, at: float, bounded: bool, then: _Then) -> None:
        self.job, self.at, self.bounded = job, at, bounded
        self._then = then  # what is free at `at`
        self._kept: dict[Request, tuple[NodeName, ...]] = {}

    def keeps(self, request: Request) -> tuple[NodeName, ...]:
        """Nodes, by name, that a job of this request has to leave alone if it may outlast `at`."""
        kept = self._kept.get(request)
        if kept is None:
            fitting = self._then.fitting
            spare = len(fitting) - self.job.request.nodes
            lost = () if spare >= request.nodes else (name for name in fitting if self._lost(name, request))
            kept = tuple(sorted(lost))
            self._kept[request] = kept
        return kept

    def _lost(self, name: NodeName, request: Request) -> bool:
        """Whether the node would be lost to the job if the request were placed there."""
        room = self._then.room(name)
        if not fits(room, request):
            return True
        rank = rank_on(room, request)
        room.take(rank)
        fitting = fits(room, self.job.request)
        room.give(rank)
        return not fitting

    def lost_by(self, ranks: Iterable[Rank]) -> tuple[NodeName, ...]:
        """Nodes that exactly this grant would lose to the job, if that leaves it too few.

        What is free now is less than at `at`: other GPUs of a node may have to be taken than `keeps` reckoned with.
        """
        lost = []
        for rank in ranks:
            if rank.node in self._then.fitting:
                room = self._then.room(rank.node)
                room.take(rank)
                if not fits(room, self.job.request):
                    lost.append(rank.node)
                room.give(rank)
        return tuple(lost) if len(self._then.fitting) - len(lost) < self.job.request.nodes else ()

    def remember(self, ranks: Iterable[Rank]) -> None:
        """Something is about to be taken out of the rooms it was made from: what is free at `at` stays as it is."""
        for rank in ranks:
            self._then.room(rank.node)

    def take(self, ranks: Iterable[Rank]) -> None:
        """Something was started that may outlast `at`."""
        for rank in ranks:
            self._then.room(rank.node).take(rank)
            self._then.check(rank.node)
        self._kept.clear()


def reserve(job: Job, now: Now, rooms: Iterable[Room], holds: Iterable[Hold]) -> Reservation | None:
    """The earliest room for a job that does not fit now, if all is given back when expected; None if not even then."""
    copies = (replace(room, shares=dict(room.shares)) for room in rooms)
    return reserve_in_order(job, now, copies, sorted(holds, key=_until))


def reserve_in_order(job: Job, now: Now, rooms: Iterable[Room], holds: Iterable[Hold]) -> Reservation | None:
    """The same for holds that come in the order of their ends: it looks at no more of them than it needs.

    Nor does it copy all rooms: whoever changes one has the reservation `remember` it first.
    """
    rooms, request = list(rooms), job.request
    if sum(len(room.inventory.gpus) >= request.gpus_per_node for room in rooms) < request.nodes:
        return None  # the usual way to be impossible, at once
    then = _Then(rooms, request)
    at, bounded = now.wall, True
    coming = iter(holds)
    hold = next(coming, None)
    # All that ends at that time counts, whichever was granted first: else the order of records would show.
    while (short := len(then.fitting) < request.nodes) or (hold is not None and hold.until <= at):
        if hold is None:
            return None
        at = max(at, hold.until)
        bounded = bounded and (hold.bounded or not short)
        for rank in hold.ranks:
            then.give(rank)
        hold = next(coming, None)
    return Reservation(job, at, bounded, then)


def _until(hold: Hold) -> float:
    return hold.until


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
    return now.wall + view.run_times.expected(job.kind, job.batch, now.wall), False


def fills_until(view: ClusterView, lane: Lane, now: Now, predicts: bool) -> tuple[float, bool]:
    """Until when a job of a lane that started now counts as one that fills a gap; whether a time limit bounds that."""
    if lane.time_limit_seconds is not None:
        return now.wall + lane.time_limit_seconds, True
    if not predicts:
        return now.wall + UNBOUNDED_SECONDS, False
    return now.wall + GAP_SHARE * view.run_times.expected(lane.kind, lane.batch, now.wall), False


def hold_of_new(lane: Lane, now: Now, predicts: bool, ranks: tuple[Rank, ...]) -> Hold:
    """What a job of a lane holds that starts now, as `ends_in_order` will say of it."""
    if lane.time_limit_seconds is not None:
        return Hold(now.wall + lane.time_limit_seconds, True, ranks)
    return Hold(now.wall + (RUNS_ON_SECONDS if predicts else UNBOUNDED_SECONDS), False, ranks)


def ends_in_order(view: ClusterView, now: Now, predicts: bool, new: Iterable[Hold]) -> Iterator[Hold]:
    """Live attempts and what has just been placed, by when their room is given back.

    That is their time limit; who has none is expected to run as long again as it has run, and a little longer. For run
    times are spread so widely that how long it has run tells more than how long its like took: on published traces
    large jobs wait up to a third less for their room.
    """
    attempts, wall = view.attempts, now.wall
    bounded = (Hold(max(wall, at), True, attempts[uid].ranks) for at, uid in view.limited())
    if predicts:
        least = wall + RUNS_ON_SECONDS
        begun = (
            Hold(least + max(0.0, wall - at), False, attempts[uid].ranks) for at, uid in reversed(view.unlimited())
        )
    else:
        begun = (Hold(at + UNBOUNDED_SECONDS, False, attempts[uid].ranks) for at, uid in view.unlimited())
    return heapq.merge(sorted(new, key=_until), bounded, begun, key=_until)
