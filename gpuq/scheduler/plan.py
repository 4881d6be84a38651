"""The plan: each job in its turn starts where it fits; for the first that does not room is kept, and others fill gaps.

Jobs of a lane are interchangeable, so once one does not fit, the rest of its lane is not looked at: a pass costs the
number of lanes, not of jobs.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from gpuq import arrays
from gpuq.model import Job, JobId, Lane, NodeName, Now, Rank, Request, Waiting
from gpuq.scheduler import order
from gpuq.scheduler.backfill import Hold, Reservation, ends_in_order, fills_until, hold_of_new, reserve_in_order
from gpuq.scheduler.choose import Chooser
from gpuq.scheduler.claim import Claims, settle
from gpuq.scheduler.fit import Room, empty, fits
from gpuq.scheduler.limits import startable
from gpuq.scheduler.order import Key, Order
from gpuq.scheduler.preempt import nobody_ever, preemptions
from gpuq.scheduler.promise import stays_first
from gpuq.scheduler.quota import Quotas
from gpuq.view import ClusterView, Placement, Plan, Policy, Reserved

_Head = tuple[Key, Lane, Sequence[Waiting], int]  # keys differ; the int is the place in the lane


class Backfill(Enum):
    """What those behind may do while the first that does not fit waits."""

    NONE = "none"  # wait
    ANY = "any"  # start wherever they fit
    LIMITS = "limits"  # start if by time limits that does not delay the first: EASY
    EXPECTED = "expected"  # the same, where there are no limits by expected run times


# How many times the time to work off the queue has to pass, after `max_bypass`, until nobody fills a gap on an estimate
# any more. With 1, nodes are kept empty so often that two of nine published traces wait longer by a tenth to a third;
# with 2, large jobs do.
PATIENCE = 1.5


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to plan, by name: who comes first, who may start before the first, and which place is best."""

    order: Callable[[ClusterView, Now], Order]
    backfill: Backfill
    placing: str = "best-fit"  # one of placing.PLACINGS
    oracle: bool = False  # whether it takes time limits for run times, and only makes sense where they are


OURS = "ours"
SCHEMES = {
    "fifo": Scheme(order.by_submit, Backfill.NONE),
    "first-fit": Scheme(order.by_submit, Backfill.ANY),
    "easy": Scheme(order.by_submit, Backfill.LIMITS),
    "sjf": Scheme(order.by_known_length, Backfill.LIMITS, oracle=True),
    OURS: Scheme(order.by_expectation, Backfill.EXPECTED, "ours"),
}


def plan(view: ClusterView, now: Now, policy: Policy, scheme: Scheme = SCHEMES[OURS], preempts: bool = True) -> Plan:
    """Starts for this instant, in order; with preempts also what to stop. The same view at the same time gives the same
    plan.
    """
    if not view.fronts():
        return Plan()
    claims = settle(view, now, policy)
    open_rooms = [room for room in claims.rooms if not room.closed and room.ranks > 0]
    if not open_rooms:
        return Plan(claims.placements, vain=claims.vain, lasts=not claims.any)
    placing = Pass(view, now, policy, scheme, open_rooms, claims)
    placing.run()
    stops = preemptions(view, now, policy, scheme.order, claims, placing.placements) if preempts else ()
    lasts = placing.found_no_room and not claims.any and nobody_ever(view)
    return Plan((*claims.placements, *placing.placements), placing.reserved, stops, claims.vain, lasts)


class Pass:
    """A plan in the making; but: as if this job were not there, and made to its end, to ask what `would_start` then."""

    def __init__(
        self,
        view: ClusterView,
        now: Now,
        policy: Policy,
        scheme: Scheme,
        open_rooms: list[Room],
        claims: Claims,
        but: JobId | None = None,
    ) -> None:
        self.placements: list[Placement] = []
        self._view, self._now, self._policy, self._scheme = view, now, policy, scheme
        self._rooms, self._chooser = open_rooms, Chooser(open_rooms, view.demand(), scheme.placing)
        self._but = None if but is None else view.job(but)
        self._claims = {**claims.jobs}  # they have their room, and are not looked at
        if self._but is not None:
            self._claims[self._but.id] = self._but
        self._claiming = {job.lane for job in self._claims.values()}
        self._started = Counter(job.array_id for job in claims.jobs.values())  # elements placed, by array
        self._quotas = Quotas(view, now, claims.jobs.values())
        self.found_no_room = False  # for anyone who waits, whatever time it is
        self._full: set[Request] = set()  # for which no room is left
        self._full_beside: set[Request] = set()  # for which none is left beside what is kept
        self._reservation: Reservation | None = None
        self._backlog: float | None = None  # seconds of work that wait; worked out when it first matters
        self._new: list[Hold] = []
        self._predicts = scheme.backfill is Backfill.EXPECTED and view.settings.cluster.predict_run_times
        self._promised = stays_first(view)

    @property
    def reserved(self) -> tuple[Reserved, ...]:
        kept = self._reservation
        return () if kept is None else (Reserved(kept.job.id, kept.at, kept.bounded),)

    def run(self) -> None:
        waiting = self._view.fronts()
        self._full = {request for request in waiting if self._chooser.choose(request) is None}
        self.found_no_room = len(self._full) == len(waiting)
        if self.found_no_room and self._but is None:
            return  # most passes of a busy cluster: nothing fits, whatever comes first
        key = self._scheme.order(self._view, self._now)
        heads = self._heads(waiting, key)
        while heads and (len(self._full) < len(waiting) or self._but is not None):
            _, lane, members, place = heapq.heappop(heads)
            if self._surely_not(lane):
                continue
            job = self._view.job(members[place].id)
            if job is None or not self._place(job, lane):
                if self._scheme.backfill is Backfill.NONE and self._could_ever(lane.request):
                    return
                continue  # the lane's head does not fit, so none of it does
            place += 1
            if place < len(members):
                heapq.heappush(heads, (key(lane, members[place]), lane, members, place))

    def _heads(self, waiting: Mapping[Request, Mapping[Lane, Sequence[Waiting]]], key: Order) -> list[_Head]:
        """The first of each lane, as a heap; of those who ask for what is full, the first of all."""
        heads: list[_Head] = []
        for request, lanes in waiting.items():
            # Who is over a quota is not the one for whom room is to be kept.
            found = [
                (key(lane, members[0]), lane, members, 0)
                for lane, all_of_it in lanes.items()
                if (members := self._unclaimed(lane, all_of_it))
                and (not self._quotas.any or self._within_quota(members[0]))
            ]
            if request not in self._full:
                heads += found
            elif found and self._scheme.backfill is not Backfill.ANY:
                heads.append(min(found, key=_first))  # none of them fits: it only matters who of them would be first
        heapq.heapify(heads)
        return heads

    def _unclaimed(self, lane: Lane, members: Sequence[Waiting]) -> Sequence[Waiting]:
        if lane not in self._claiming:
            return members
        return [member for member in members if member.id not in self._claims]

    def _within_quota(self, first: Waiting) -> bool:
        job = self._view.job(first.id)
        return job is not None and self._quotas.starts(job) != 0

    def _surely_not(self, lane: Lane) -> bool:
        """Whether a lane need not be looked at closer: the first has its room kept, and none is left for others."""
        if self._reservation is None:
            return False
        return lane.request in self._full or (lane.request in self._full_beside and self._outlasts(lane))

    def _place(self, job: Job, lane: Lane) -> bool:
        """Places a job, or as many elements of an array as fit; False when something was left for want of room."""
        allowed = startable(self._view, job, self._started[job.array_id])
        if allowed and (within := self._quotas.starts(job)) is not None:
            if not within:
                return False  # nor may anyone else of its lane: they are the same user's, and ask for the same
            allowed = min(allowed, within)
        if job.array is None:
            return allowed == 0 or self._place_one(job, lane, None)
        for index, _ in zip(arrays.expand(job.array.waiting), range(allowed), strict=False):
            if not self._place_one(job, lane, index):
                return False
        return True

    def _place_one(self, job: Job, lane: Lane, index: int | None) -> bool:
        ranks = self._grant(job, lane)
        if ranks is None:
            return False
        self._chooser.take(ranks)
        self._started[job.array_id] += 1
        self._quotas.took(job)
        self.placements.append(Placement(job.id, index, ranks))
        return True

    def _grant(self, job: Job, lane: Lane) -> tuple[Rank, ...] | None:
        """Where a job starts now, without delaying whoever has room kept."""
        first, outlasts = self._reservation, self._outlasts(lane)
        ranks = None
        none = self._full_beside if outlasts else self._full
        if job.request not in self._full and job.request not in none:
            ranks = self._beside(first if outlasts else None, job.request)
            if ranks is None:
                none.add(job.request)
        if ranks is None:
            if first is None:
                self._reservation = self._reserve(job)
            return None
        if first is not None:
            first.remember(ranks)
            if outlasts:
                first.take(ranks)
                self._full_beside.clear()  # another node may have become of no use to the first
        self._new.append(hold_of_new(lane, self._now, self._predicts, ranks))
        return ranks

    def would_start(self, job: Job) -> bool:
        """Whether a job that came after all others would start now as well."""
        first = self._reservation if self._outlasts(job.lane) else None
        return self._quotas.starts(job) != 0 and self._beside(first, job.request) is not None

    def _beside(self, first: Reservation | None, request: Request) -> tuple[Rank, ...] | None:
        """A place that leaves the first its room, if room is kept for one."""
        if first is None:
            return self._chooser.choose(request)
        kept = first.keeps(request)
        while (ranks := self._chooser.choose(_without(kept, request))) and (lost := first.lost_by(ranks)):
            kept += lost
        return ranks

    def _outlasts(self, lane: Lane) -> bool:
        """Whether a job of the lane, started now, may be there when the first is to have its room."""
        first = self._reservation
        if first is None:
            return False
        until, bounded = fills_until(self._view, lane, self._now, self._predicts)
        return until > first.at or not (bounded or self._may_be_bypassed(first))

    def _may_be_bypassed(self, first: Reservation) -> bool:
        """Whether what is only expected to end in time may use the room that is kept."""
        if first.bounded:
            return False
        longer = self._now.wall - first.job.queued_at - self._view.settings.cluster.max_bypass
        if longer > 0 and self._backlog is None:
            self._backlog = order.backlog_seconds(self._view, self._now)
        return longer <= PATIENCE * (self._backlog or 0.0)

    def _reserve(self, job: Job) -> Reservation | None:
        if self._scheme.backfill in (Backfill.NONE, Backfill.ANY):
            return None
        if self._promised is not None and job.id == self._promised.id:
            # By time limits alone, as it was promised: what is only expected to end may go on for longer.
            kept = reserve_in_order(job, self._now, self._rooms, (hold for hold in self._ends() if hold.bounded))
            if kept is not None:
                return kept
        return reserve_in_order(job, self._now, self._rooms, self._ends())

    def _ends(self) -> Iterator[Hold]:
        return ends_in_order(self._view, self._now, self._predicts, self._new)

    def _could_ever(self, request: Request) -> bool:
        return sum(fits(empty(room, self._policy), request) for room in self._rooms) >= request.nodes


def _without(kept: tuple[NodeName, ...], request: Request) -> Request:
    """The same request, on other nodes than those kept for another job."""
    return replace(request, not_nodes=tuple(sorted({*request.not_nodes, *kept}))) if kept else request


def _first(head: _Head) -> Key:
    return head[0]
