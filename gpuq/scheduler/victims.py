"""Who may be stopped for another, and whom of them it is best to stop on one node.

What counts is the GPU-time that is thrown away, and of equal losses how many are stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from gpuq.model import Attempt, Job, NodeName, Now, Rank, Request
from gpuq.scheduler.fit import Room, fits, matching
from gpuq.states import JobState
from gpuq.view import ClusterView

_MOST_SETS = 300  # of victims on one node; beyond them the cheapest that were found one by one
_STOPPABLE = (JobState.ALLOCATED, JobState.STARTING, JobState.RUNNING)


class Cost(NamedTuple):
    """What is lost by stopping: less of the first is better, then of the second."""

    gpu_seconds: int  # worked off so far; of a job without GPUs as if it had one
    jobs: int

    def plus(self, other: Cost) -> Cost:
        return Cost(self.gpu_seconds + other.gpu_seconds, self.jobs + other.jobs)


@dataclass(frozen=True, slots=True)
class Victim:
    attempt: Attempt
    band: int  # the priority of its queue
    cost: Cost
    number: int

    @property
    def key(self) -> tuple[Cost, int, str]:
        """Cheapest first; of equal ones who came last."""
        return self.cost, -self.number, self.attempt.uid


def yielding(view: ClusterView) -> Iterator[tuple[Attempt, Job, int]]:
    """Whoever may be stopped, now or later, with the priority of its queue."""
    bands = {queue.name: queue.priority for queue in view.settings.known_queues if queue.preemptible}
    if not bands:
        return
    for attempt in view.attempts.values():
        job = view.job(attempt.job)
        if job is None or job.queue not in bands or attempt.stop is not None or job.state not in _STOPPABLE:
            continue
        if job.requeue and job.losses_used < job.max_losses:
            yield attempt, job, bands[job.queue]


def stoppable(view: ClusterView, now: Now) -> list[Victim]:
    """Whoever may be stopped now, the cheapest first."""
    again = view.settings.cluster.preempt_again_after
    found = []
    for attempt, job, band in yielding(view):
        ran = max(0.0, now.wall - attempt.granted_at)
        if not job.losses_used or ran >= again:
            found.append(Victim(attempt, band, Cost(round(ran) * max(1, job.request.gpus), 1), job.number))
    return sorted(found, key=lambda victim: victim.key)


def least(room: Room, victims: list[Victim], request: Request) -> Cost | None:
    """What is lost at least before the request fits the room; None if it cannot come to fit.

    Of each thing that is short as much goes as is needed, from whom it costs least, as if they could go in parts.
    """
    if fits(room, request):
        return Cost(0, 0)
    if not victims:
        return None
    shares = request.gpu_share_bytes is not None
    bound = Cost(0, 1)
    for short, held in (
        (0 if shares else request.gpus_per_node - len(matching(room, request)), _gpus),
        (request.cpus and request.cpus - room.cpus, _cpus),
        (request.memory_bytes and request.memory_bytes - room.memory_bytes, _memory),
    ):
        if short > 0:
            parts = [(v.cost.gpu_seconds, n) for v in victims for n in (held(v, room.name),) if n]
            if sum(n for _, n in parts) < short:
                return None
            bound = max(bound, _bound(parts, short))
    return bound


def _bound(parts: list[tuple[int, int]], short: int) -> Cost:
    """Of (cost, amount) the least that gives so much, and by how many at the least."""
    seconds, left = 0.0, short
    for cost, amount in sorted(parts, key=lambda part: part[0] / part[1]):
        seconds += cost * min(1.0, left / amount)
        left -= amount
        if left <= 0:
            break
    jobs, left = 0, short
    for amount in sorted((amount for _, amount in parts), reverse=True):
        jobs, left = jobs + 1, left - amount
        if left <= 0:
            break
    return Cost(int(seconds), jobs)


def _on_node(victim: Victim, name: NodeName) -> Rank:
    return next(rank for rank in victim.attempt.ranks if rank.node == name)


def _gpus(victim: Victim, name: NodeName) -> int:
    return len(_on_node(victim, name).gpus)


def _cpus(victim: Victim, name: NodeName) -> int:
    return _on_node(victim, name).cpus


def _memory(victim: Victim, name: NodeName) -> int:
    return _on_node(victim, name).memory_bytes


def cheapest(room: Room, victims: list[Victim], request: Request) -> list[Victim] | None:
    """Of the sets of victims after whose end the request fits the room, the one that loses least; None without any.

    victims come cheapest first. Who is in every such set is in this one; of the others sets are looked at from the
    cheapest on. Where there are too many of them, victims are added one by one, and those not needed then spared.
    """
    if fits(room, request):
        return []
    victims = [victim for victim in victims if _helps(room, victim, request)]
    if not fits(without(room, victims), request):
        return None
    needed: list[Victim] = []
    others: list[Victim] = []
    for victim in victims:
        spared = without(room, (other for other in victims if other is not victim))
        (others if fits(spared, request) else needed).append(victim)
    room = without(room, needed)
    if fits(room, request):
        return needed
    short = 0 if request.gpu_share_bytes is not None else request.gpus_per_node - len(matching(room, request))
    sets: list[tuple[Cost, tuple[int, ...]]] = [(others[0].cost, (0,))]
    for _ in range(_MOST_SETS):
        if not sets:
            break
        cost, chosen = heapq.heappop(sets)
        picked = [others[i] for i in chosen]
        if sum(_gpus(victim, room.name) for victim in picked) >= short and fits(without(room, picked), request):
            return needed + picked
        following = chosen[-1] + 1
        if following < len(others):
            more = others[following].cost
            heapq.heappush(sets, (cost.plus(more), (*chosen, following)))
            heapq.heappush(sets, (total(picked[:-1]).plus(more), (*chosen[:-1], following)))
    return needed + _one_by_one(room, others, request)


def _one_by_one(room: Room, victims: list[Victim], request: Request) -> list[Victim]:
    found: list[Victim] = []
    for victim in victims:
        found.append(victim)
        if fits(without(room, found), request):
            break
    for victim in reversed(found):
        fewer = [other for other in found if other is not victim]
        if fits(without(room, fewer), request):
            found = fewer
    return found


def _helps(room: Room, victim: Victim, request: Request) -> bool:
    """Whether it holds something that the request is short of in the room."""
    rank = _on_node(victim, room.name)
    return bool(
        (rank.gpus and len(matching(room, request)) < request.gpus_per_node)
        or (rank.cpus and room.cpus < request.cpus)
        or (rank.memory_bytes and room.memory_bytes < request.memory_bytes)
        or room.ranks <= 0
        or request.exclusive
        or rank.exclusive
    )


def without(room: Room, gone: Iterable[Victim]) -> Room:
    """The room as it would be without these."""
    left = replace(room, shares=dict(room.shares))
    for victim in gone:
        for rank in victim.attempt.ranks:
            if rank.node == room.name:
                left.give(rank)
    return left


def total(victims: Iterable[Victim]) -> Cost:
    lost = Cost(0, 0)
    for victim in victims:
        lost = lost.plus(victim.cost)
    return lost
