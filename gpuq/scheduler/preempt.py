"""Whom to stop so that a job of a queue that goes before can start.

Jobs of a queue that is `preemptible` yield to those of queues with a higher priority. Who yields never preempts back,
for that goes only one way; nothing is stopped in vain, and nobody who could not run again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from gpuq import arrays
from gpuq.model import Attempt, Job, NodeName, Now, Rank, Request
from gpuq.scheduler.backfill import Hold, Reservation, reserve, until_when
from gpuq.scheduler.claim import Claims, goes
from gpuq.scheduler.fit import Room, allowed, fits, matching, rank_on, rooms
from gpuq.scheduler.limits import startable
from gpuq.scheduler.order import Order
from gpuq.scheduler.quota import Quotas
from gpuq.states import JobState
from gpuq.view import ClusterView, Placement, Policy, Preemption

_MOST_JOBS = 50  # looked at in one plan: the next one, a second later at most, goes on
_MOST_SETS = 300  # of victims on one node; beyond them the cheapest that were found one by one
_STOPPABLE = (JobState.ALLOCATED, JobState.STARTING, JobState.RUNNING)


class _Cost(NamedTuple):
    """What is lost by stopping: less of the first is better, then of the second."""

    gpu_seconds: int  # worked off so far; of a job without GPUs as if it had one
    jobs: int

    def plus(self, other: _Cost) -> _Cost:
        return _Cost(self.gpu_seconds + other.gpu_seconds, self.jobs + other.jobs)


@dataclass(frozen=True, slots=True)
class _Victim:
    attempt: Attempt
    band: int  # the priority of its queue
    cost: _Cost
    number: int

    @property
    def key(self) -> tuple[_Cost, int, str]:
        """Cheapest first; of equal ones who came last."""
        return self.cost, -self.number, self.attempt.uid


def preemptions(
    view: ClusterView,
    now: Now,
    policy: Policy,
    order: Callable[[ClusterView, Now], Order],
    claims: Claims,
    placements: list[Placement],
) -> tuple[Preemption, ...]:
    """What to stop now for jobs that were not placed, each in its turn. placements: the plan's, without the claims'."""
    victims = _victims(view, now)
    if not victims:
        return ()
    waiting = _waiting(view, now, order(view, now), claims, placements, min(victim.band for victim in victims))
    search: _Search | None = None
    found = []
    for job, index in waiting:
        search = search or _Search(view, now, policy, victims, claims, placements)
        made = search.make_room(job)
        if made is not None and made[1]:
            ranks, stopped = made
            found.append(Preemption(job.id, index, ranks, tuple(victim.attempt.uid for victim in stopped)))
    return tuple(found)


def _victims(view: ClusterView, now: Now) -> list[_Victim]:
    """Whoever may be stopped, the cheapest first."""
    bands = {queue.name: queue.priority for queue in view.settings.known_queues if queue.preemptible}
    if not bands:
        return []
    again = view.settings.cluster.preempt_again_after
    found = []
    for attempt in view.attempts.values():
        job = view.job(attempt.job)
        if job is None or job.queue not in bands or attempt.stop is not None or job.state not in _STOPPABLE:
            continue
        ran = max(0.0, now.wall - attempt.granted_at)
        if not job.requeue or job.losses_used >= job.max_losses or (job.losses_used and ran < again):
            continue
        cost = _Cost(round(ran) * max(1, job.request.gpus), 1)
        found.append(_Victim(attempt, bands[job.queue], cost, job.number))
    return sorted(found, key=lambda victim: victim.key)


def _waiting(
    view: ClusterView, now: Now, key: Order, claims: Claims, placements: list[Placement], least: int
) -> Iterator[tuple[Job, int | None]]:
    """The first of those that wait in queues above this priority, in their order; of an array element by element."""
    above = {queue.name for queue in view.settings.known_queues if queue.priority > least}
    placed = {(placement.job, placement.index) for placement in placements}
    taken = [*claims.jobs.values(), *(job for id, _ in placed if (job := view.job(id)) is not None)]
    started = Counter(job.array_id for job in taken)
    quotas = Quotas(view, now, taken)
    heads = []
    for lanes in view.ready().values():
        for lane, members in lanes:
            if lane.queue in above:
                heads += [(key(lane, job), job.number, job) for job in islice(members, _MOST_JOBS)]
    for _, _, job in heapq.nsmallest(_MOST_JOBS, heads, key=lambda head: head[:2]):
        indices = [None] if job.array is None else list(islice(arrays.expand(job.array.waiting), _MOST_JOBS))
        for index in indices:
            if (job.id, index) in placed or job.id in claims.jobs:
                continue
            if quotas.starts(job) == 0 or not startable(view, job, started[job.array_id]):
                break
            started[job.array_id] += 1
            quotas.took(job)
            yield job, index


class _Search:
    """What would be free once those that were told to end have, and whom else to stop."""

    def __init__(
        self,
        view: ClusterView,
        now: Now,
        policy: Policy,
        victims: list[_Victim],
        claims: Claims,
        placements: list[Placement],
    ) -> None:
        self._view, self._now, self._victims = view, now, victims
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

    def make_room(self, job: Job) -> tuple[tuple[Rank, ...], list[_Victim]] | None:
        """Where the job starts once these are gone, nobody if it only has to wait for who was told to end before; None
        if nothing helps.

        What it takes and who is stopped is counted as gone from then on.
        """
        request, band = job.request, self._bands.get(job.queue, 0)
        if (band, request) in self._hopeless:
            return None
        kept = self._kept_from(job)
        yielding = [victim for victim in self._victims if victim.band < band]
        chosen: list[NodeName] = []
        gone: list[_Victim] = []
        while len(chosen) < request.nodes:
            best = self._best((*kept, *chosen), yielding, gone, request)
            if best is None:
                self._hopeless.add((band, request))
                self._first = self._first or job
                return None
            chosen.append(best[0])
            gone += best[1]
        gone = self._needed(chosen, gone, request)
        for victim in gone:
            self._victims.remove(victim)
            self._each(victim.attempt.ranks, Room.give)
        ranks = tuple(rank_on(self._rooms[name], request) for name in sorted(chosen))
        self._each(ranks, Room.take)
        if kept and self._reservation is not None:
            self._reservation.take(ranks)
        return ranks, gone

    def _kept_from(self, job: Job) -> tuple[NodeName, ...]:
        """Nodes that it has to leave alone: it could delay the first for whom nothing could be done."""
        if self._first is None:
            return ()
        if self._reservation is None:
            self._reservation = reserve(self._first, self._now, self._rooms.values(), self._holds())
            if self._reservation is None:
                self._first = None  # nothing delays what can not start anyway
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

    def _best(
        self, without: tuple[NodeName, ...], yielding: list[_Victim], gone: list[_Victim], request: Request
    ) -> tuple[NodeName, list[_Victim]] | None:
        """The node on which the fewest would be lost besides those that are gone."""
        best: tuple[_Cost, NodeName, list[_Victim]] | None = None
        by_node = _by_node(victim for victim in yielding if victim not in gone)
        for name, room in self._rooms.items():
            if name in without or not allowed(name, request):
                continue
            here = by_node.get(name, [])
            left = _with(room, gone) if gone else room
            if not here and not fits(left, request):
                continue
            found = cheapest(left, here, request, None if best is None else best[0])
            if found is not None:
                cost = _total(found)
                if best is None or (cost, name) < best[:2]:
                    best = cost, name, found
        return None if best is None else best[1:]

    def _needed(self, chosen: list[NodeName], gone: list[_Victim], request: Request) -> list[_Victim]:
        """Without those that the others make unnecessary: a gang stopped for one node frees others too."""
        for victim in sorted(gone, key=lambda victim: victim.key, reverse=True):
            fewer = [other for other in gone if other is not victim]
            if all(fits(_with(self._rooms[name], fewer), request) for name in chosen):
                gone = fewer
        return gone

    def _each(self, ranks: Iterable[Rank], do: Callable[[Room, Rank], None]) -> None:
        for rank in ranks:
            if rank.node in self._rooms:
                do(self._rooms[rank.node], rank)


def cheapest(room: Room, victims: list[_Victim], request: Request, most: _Cost | None) -> list[_Victim] | None:
    """Of the sets of victims after whose end the request fits the room, the one that loses least, if less than `most`.

    victims come cheapest first. Sets are looked at from the cheapest on; where there are too many of them, victims are
    added one by one instead, and those that turn out unnecessary are spared.
    """
    if fits(room, request):
        return []
    victims = [victim for victim in victims if _helps(room, victim, request)]
    if not fits(_with(room, victims), request):
        return None
    sets: list[tuple[_Cost, tuple[int, ...]]] = [(victims[0].cost, (0,))]
    for _ in range(_MOST_SETS):
        if not sets:
            break
        cost, chosen = heapq.heappop(sets)
        if most is not None and cost >= most:
            return None
        if fits(_with(room, picked := [victims[i] for i in chosen]), request):
            return picked
        following = chosen[-1] + 1
        if following < len(victims):
            more = victims[following].cost
            heapq.heappush(sets, (cost.plus(more), (*chosen, following)))
            heapq.heappush(sets, (_total([victims[i] for i in chosen[:-1]]).plus(more), (*chosen[:-1], following)))
    return _one_by_one(room, victims, request)


def _one_by_one(room: Room, victims: list[_Victim], request: Request) -> list[_Victim]:
    found: list[_Victim] = []
    for victim in victims:
        found.append(victim)
        if fits(_with(room, found), request):
            break
    for victim in reversed(found):
        fewer = [other for other in found if other is not victim]
        if fits(_with(room, fewer), request):
            found = fewer
    return found


def _helps(room: Room, victim: _Victim, request: Request) -> bool:
    """Whether it holds something that the request is short of in the room."""
    held = [rank for rank in victim.attempt.ranks if rank.node == room.name]
    short_of_gpus = len(matching(room, request)) < request.gpus_per_node
    return any(
        (rank.gpus and short_of_gpus)
        or (rank.cpus and room.cpus < request.cpus)
        or (rank.memory_bytes and room.memory_bytes < request.memory_bytes)
        or room.ranks <= 0
        or request.exclusive
        or rank.exclusive
        for rank in held
    )


def _with(room: Room, gone: Iterable[_Victim]) -> Room:
    """The room as it would be without these."""
    left = replace(room, shares=dict(room.shares))
    for victim in gone:
        for rank in victim.attempt.ranks:
            if rank.node == room.name:
                left.give(rank)
    return left


def _total(victims: Iterable[_Victim]) -> _Cost:
    total = _Cost(0, 0)
    for victim in victims:
        total = total.plus(victim.cost)
    return total


def _by_node(victims: Iterable[_Victim]) -> dict[NodeName, list[_Victim]]:
    found: dict[NodeName, list[_Victim]] = {}
    for victim in victims:
        for name in {rank.node for rank in victim.attempt.ranks}:
            found.setdefault(name, []).append(victim)
    return found
