"""How many elements of an array may run at once: the %N of 0-99%N, for those made again as for those not made yet."""

from __future__ import annotations

from gpuq import arrays
from gpuq.model import Job
from gpuq.view import ClusterView


def max_running(view: ClusterView, job: Job) -> int | None:
    """The limit of the array that a job is, or is an element of; None where there is none."""
    row = job if job.index is None else view.job(job.array_id)
    return None if row is None or row.array is None else row.array.max_running


def startable(view: ClusterView, job: Job, started: int = 0) -> int:
    """How many starts of a queued job, or of an array's waiting elements, its limit allows after `started` more."""
    wanted = 1 if job.array is None else arrays.count(job.array.waiting)
    limit = max_running(view, job)
    if limit is None:
        return wanted
    return max(0, min(wanted, limit - view.running_elements(job.array_id) - started))
