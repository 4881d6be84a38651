"""The promise: whom room is kept for by time limits alone stays first of its priority until it starts.

Whose turn it is changes with what is expected of run times and with who has used how much. Were the first to change
while its room comes free, the room would go to the new one, and no time would hold that anybody was told.
"""

from __future__ import annotations

from gpuq.model import Job, JobId
from gpuq.states import JobState
from gpuq.view import ClusterView, Plan


def stays_first(view: ClusterView) -> Job | None:
    """The job that was promised room, as long as it waits for that only."""
    job = None if view.promised is None else view.job(view.promised)
    return job if job is not None and job.state is JobState.QUEUED and job.ready else None


def promised(view: ClusterView, plan: Plan) -> JobId | None:
    """Who is to stay first once the plan was carried out.

    Whoever room was kept for last: if by time limits alone. A plan that keeps room for nobody leaves it at that, unless
    it starts the job, or the next element of the array.
    """
    if plan.reserved:
        kept = plan.reserved[0]
        return kept.job if kept.bounded else None
    job = stays_first(view)
    return None if job is None or any(placement.job == job.id for placement in plan.placements) else job.id
