"""Jobs that only wait for room, by what makes them alike to the planner: an index of cluster.py's."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gpuq import arrays
from gpuq.model import Job, JobId, Lane, Request, Waiting


@dataclass(slots=True)
class Lanes:
    """fronts are the lanes of each request, their members ascending; waiting, how many jobs each lane stands for.

    Neither has an empty entry.
    """

    fronts: dict[Request, dict[Lane, list[Waiting]]] = field(default_factory=dict)
    waiting: dict[Lane, int] = field(default_factory=dict)

    def add(self, job: Job) -> None:
        lane = job.lane
        insort(self.fronts.setdefault(job.request, {}).setdefault(lane, []), _waiting(job))
        self.waiting[lane] = self.waiting.get(lane, 0) + size(job)

    def remove(self, job: Job) -> None:
        """The job is exactly as it was when it was added."""
        lane = job.lane
        lanes = self.fronts[job.request]
        members = lanes[lane]
        del members[bisect_left(members, _waiting(job))]
        self.waiting[lane] -= size(job)
        if not members:
            del lanes[lane], self.waiting[lane]
        if not lanes:
            del self.fronts[job.request]

    def with_jobs(self, jobs: Mapping[JobId, Job]) -> Mapping[Request, Iterable[tuple[Lane, Iterable[Job]]]]:
        return {request: _WithJobs(lanes, jobs) for request, lanes in self.fronts.items()}


def size(job: Job) -> int:
    """How many jobs a record stands for: an array, for its waiting elements."""
    return 1 if job.array is None else arrays.count(job.array.waiting)


def _waiting(job: Job) -> Waiting:
    return Waiting(job.rank_in_queue, job.id, job.submitted_at)


class _WithJobs:
    """Lanes with their jobs, looked up as they are asked for: a plan reads the front of each lane only."""

    def __init__(self, lanes: Mapping[Lane, list[Waiting]], jobs: Mapping[JobId, Job]) -> None:
        self._lanes, self._jobs = lanes, jobs

    def __iter__(self) -> Iterator[tuple[Lane, Iterable[Job]]]:
        return ((lane, (self._jobs[each.id] for each in members)) for lane, members in self._lanes.items())
