"""The plan: first by priority, then by submit order, each job that fits starts where it fits best.

Jobs that ask for the same are interchangeable, so once one of a group does not fit, the rest of the group is not
looked at: a pass costs the number of different requests, not of jobs. What is passed over blocks nobody; backfill,
gangs and preemption are decisions of their own and will join this one here.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

from gpuq import arrays
from gpuq.model import Job, JobId, Now, Request
from gpuq.scheduler.bestfit import BestFit
from gpuq.scheduler.fit import rank_on, rooms
from gpuq.scheduler.limits import startable
from gpuq.view import ClusterView, Placement, Plan, Policy


def plan(view: ClusterView, now: Now, policy: Policy) -> Plan:
    """Starts for this instant, in queue order. The same view gives the same plan; `now` decides nothing yet."""
    groups = view.ready()
    if not groups:
        return Plan()
    open_rooms = [room for room in rooms(view, policy) if not room.closed and room.ranks > 0]
    if not open_rooms:
        return Plan()
    heads: list[tuple[tuple[int, int, int], int, Job, Request, Iterator[Job]]] = []
    for number, request in enumerate(groups):
        members = iter(groups[request])
        job = next(members)
        heads.append((job.rank_in_queue, number, job, request, members))
    heapq.heapify(heads)
    placing = _Placing(view, BestFit(open_rooms))
    while heads:
        _, number, job, request, members = heapq.heappop(heads)
        if not placing.place(job):
            continue  # the group's head does not fit, so none of it does
        following = next(members, None)
        if following is not None:
            heapq.heappush(heads, (following.rank_in_queue, number, following, request, members))
    return Plan(tuple(placing.placements))


class _Placing:
    """A plan in the making."""

    def __init__(self, view: ClusterView, open_rooms: BestFit) -> None:
        self.placements: list[Placement] = []
        self._view, self._open_rooms = view, open_rooms
        self._started: Counter[JobId] = Counter()  # elements placed, by array

    def place(self, job: Job) -> bool:
        """Places a job, or as many elements of an array as fit; False when something was left for want of room."""
        allowed = startable(self._view, job, self._started[job.array_id])
        if job.array is None:
            return allowed == 0 or self._place_one(job, None)
        for index, _ in zip(arrays.expand(job.array.waiting), range(allowed), strict=False):
            if not self._place_one(job, index):
                return False
        return True

    def _place_one(self, job: Job, index: int | None) -> bool:
        room = self._open_rooms.find(job.request)
        if room is None:
            return False
        rank = rank_on(room, job.request)
        self._open_rooms.take(room, rank)
        self._started[job.array_id] += 1
        self.placements.append(Placement(job.id, index, (rank,)))
        return True
