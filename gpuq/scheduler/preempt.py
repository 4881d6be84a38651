"""Whom to stop so that a job of a queue that goes before can start.

Jobs of a queue that is `preemptible` yield to those of queues with a higher priority. Who yields never preempts back,
for that goes only one way; nothing is stopped in vain, and nobody who could not run again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from gpuq import arrays
from gpuq.model import Job, Lane, NodeName, Now, Rank, Request
from gpuq.scheduler.backfill import Hold, Reservation, reserve, until_when
from gpuq.scheduler.claim import Claims, goes
from gpuq.scheduler.fit import Room, allowed, empty, fits, rank_on, rooms
from gpuq.scheduler.limits import startable
from gpuq.scheduler.order import Key, Order
from gpuq.scheduler.quota import Quotas
from gpuq.scheduler.victims import Cost, Victim, cheapest, least, stoppable, total, without, yielding
from gpuq.view import ClusterView, Placement, Policy, Preemption

_MOST_JOBS = 1_000  # looked at in one plan, and _MOST_SEARCHES of them closely: 10 ms each on 1,000 nodes
_MOST_SEARCHES = 10  # the next plan, a second later at most, goes on


def preemptions(
    view: ClusterView,
    now: Now,
    policy: Policy,
    order: Callable[[ClusterView, Now], Order],
    claims: Claims,
    placements: list[Placement],
) -> tuple[Preemption, ...]:
    """What to stop now for jobs that were not placed, each in its turn. placements: the plan's, without the claims'."""
    victims = stoppable(view, now)
    if not victims:
        return ()
    waiting = _waiting(view, now, order(view, now), claims, placements, min(victim.band for victim in victims))
    search: _Search | None = None
    found = []
    for job, index in waiting:
        search = search or _Search(view, now, policy, victims, claims, placements)
        if search.made == _MOST_SEARCHES:
            break
        made = search.make_room(job)
        if made is not None and made[1]:
            ranks, stopped = made
            found.append(Preemption(job.id, index, ranks, tuple(victim.attempt.uid for victim in stopped)))
    return tuple(found)


def nobody_ever(view: ClusterView) -> bool:
    """Whether nobody can be stopped for anybody who waits, at whatever time, until the view changes."""
    lowest = min((band for _, _, band in yielding(view)), default=None)
    if lowest is None:
        return True
    above = _above(view, lowest)
    return not any(lane.queue in above for lanes in view.fronts().values() for lane in lanes)


def _above(view: ClusterView, lowest: int) -> set[str]:
    return {queue.name for queue in view.settings.known_queues if queue.priority > lowest}


def _waiting(
    view: ClusterView, now: Now, key: Order, claims: Claims, placements: list[Placement], lowest: int
) -> Iterator[tuple[Job, int | None]]:
    """The first of those that wait in queues above this priority, in their order; of an array element by element."""
    above = _above(view, lowest)
    placed = {(placement.job, placement.index) for placement in placements}
    taken = [*claims.jobs.values(), *(job for id, _ in placed if (job := view.job(id)) is not None)]
    started = Counter(job.array_id for job in taken)
    quotas = Quotas(view, now, taken)
    lanes = (found for each in view.ready().values() for found in each if found[0].queue in above)
    lines = [_in_line(key, lane, members) for lane, members in lanes]
    for _, job in islice(heapq.merge(*lines, key=_first), _MOST_JOBS):
        indices = [None] if job.array is None else list(islice(arrays.expand(job.array.waiting), _MOST_JOBS))
        for index in indices:
            if (job.id, index) in placed or job.id in claims.jobs:
                continue
            if quotas.starts(job) == 0 or not startable(view, job, started[job.array_id]):
                break
            started[job.array_id] += 1
            quotas.took(job)
            yield job, index


def _in_line(key: Order, lane: Lane, members: Iterable[Job]) -> Iterator[tuple[Key, Job]]:
    return ((key(lane, job), job) for job in members)


def _first(head: tuple[Key, Job]) -> Key:
    return head[0]


class _Search:
    """What would be free once those that were told to end have, and whom else to stop."""

    def __init__(
        self,
        view: ClusterView,
        now: Now,
        policy: Policy,
        victims: list[Victim],
        claims: Claims,
        placements: list[Placement],
    ) -> None:
        self.made = 0  # searches
        self._view, self._now, self._policy = view, now, policy
        self._on: dict[NodeName, list[Victim]] = {}  # by node, the cheapest first
        for victim in victims:
            for rank in victim.attempt.ranks:
                self._on.setdefault(rank.node, []).append(victim)
        self._bands = {queue.name: queue.priority for queue in view.settings.known_queues}
        self._predicts = view.settings.cluster.predict_run_times
        self._rooms = {room.name: room for room in rooms(view, policy) if not room.closed}
        self._hopeless: set[tuple[int, Request]] = set()
        self._first: Job | None = None  # of those for whom nothing could be done
        self._reservation: Reservation | None = None  # what is kept for it; worked out when it first matters
        for attempt in view.attempts.values():
            if goes(view, attempt, now):
                self._each(attempt.ranks, Room.give)
        for job in claims.jobs.values():
            self._each(job.claim, Room.take)
        for placement in placements:
            self._each(placement.ranks, Room.take)

    def make_room(self, job: Job) -> tuple[tuple[Rank, ...], list[Victim]] | None:
        """Where the job starts once these are gone, nobody if it only has to wait for who was told to end before; None
        if nothing helps.

        What it takes and who is stopped is counted as gone from then on.
        """
        request, band = job.request, self._bands.get(job.queue, 0)
        if (band, request) in self._hopeless:
            return None
        self.made += 1
        kept = self._kept_from(job)
        found = self._cheapest_nodes(request, band, kept)
        if found is None:
            if not kept:
                self._hopeless.add((band, request))
            if self._first is None and self._could_ever(request):
                self._first = job
            return None
        names, gone = found
        for victim in gone:
            for rank in victim.attempt.ranks:
                self._on[rank.node].remove(victim)
            self._each(victim.attempt.ranks, Room.give)
        ranks = tuple(rank_on(self._rooms[name], request) for name in sorted(names))
        self._each(ranks, Room.take)
        if kept and self._reservation is not None:
            self._reservation.take(ranks)
        return ranks, gone

    def _cheapest_nodes(
        self, request: Request, band: int, kept: tuple[NodeName, ...]
    ) -> tuple[list[NodeName], list[Victim]] | None:
        """As many nodes as are asked for, each in turn where least more is lost, and who is stopped for them."""
        bounds = {
            name: bound
            for name, room in self._rooms.items()
            if name not in kept
            and allowed(name, request)
            and (bound := least(room, self._yielding(name, band), request)) is not None
        }
        exact: dict[NodeName, list[Victim] | None] = {}
        names: list[NodeName] = []
        gone: list[Victim] = []
        while len(names) < request.nodes:
            best: tuple[Cost, NodeName, list[Victim]] | None = None
            for name in sorted(bounds, key=lambda name: (bounds[name], name)):
                if best is not None and bounds[name] >= best[0]:
                    break  # nor is any that follows
                if name not in exact:
                    here = [victim for victim in self._yielding(name, band) if victim not in gone]
                    exact[name] = cheapest(without(self._rooms[name], gone), here, request)
                stopped = exact[name]
                if stopped is not None and (best is None or total(stopped) < best[0]):
                    best = total(stopped), name, stopped
            if best is None:
                return None
            names.append(best[1])
            del bounds[best[1]]
            gone += best[2]
            for node in {rank.node for victim in best[2] for rank in victim.attempt.ranks} & bounds.keys():
                exact.pop(node, None)
                bounds[node] = Cost(0, 0)  # a gang that goes leaves room there too
        return names, self._needed(names, gone, request)

    def _yielding(self, name: NodeName, band: int) -> list[Victim]:
        return [victim for victim in self._on.get(name, ()) if victim.band < band]

    def _could_ever(self, request: Request) -> bool:
        return sum(fits(empty(room, self._policy), request) for room in self._rooms.values()) >= request.nodes

    def _kept_from(self, job: Job) -> tuple[NodeName, ...]:
        """Nodes that it has to leave alone: it could delay the first for whom nothing could be done."""
        if self._first is None:
            return ()
        if self._reservation is None:
            self._reservation = reserve(self._first, self._now, self._rooms.values(), self._holds())
            if self._reservation is None:
                return ()
        until, bounded = until_when(self._view, job, None, self._now, self._predicts)
        outlasts = not bounded or until > self._reservation.at
        return self._reservation.keeps(job.request) if outlasts else ()

    def _holds(self) -> Iterator[Hold]:
        for attempt in self._view.attempts.values():
            job = self._view.job(attempt.job)
            if job is not None and attempt.stop is None:
                until, bounded = until_when(self._view, job, attempt, self._now, self._predicts)
                yield Hold(until, bounded, attempt.ranks)

    def _needed(self, chosen: list[NodeName], gone: list[Victim], request: Request) -> list[Victim]:
        """Without those that the others make unnecessary: a gang stopped for one node frees others too."""
        for victim in sorted(gone, key=lambda victim: victim.key, reverse=True):
            fewer = [other for other in gone if other is not victim]
            if all(fits(without(self._rooms[name], fewer), request) for name in chosen):
                gone = fewer
        return gone

    def _each(self, ranks: Iterable[Rank], do: Callable[[Room, Rank], None]) -> None:
        for rank in ranks:
            if rank.node in self._rooms:
                do(self._rooms[rank.node], rank)
