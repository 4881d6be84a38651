"""Decisions that only time and free room bring: begin times, back-offs, scheduling timeouts, and the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpuq.model import AttemptUid
from gpuq.scheduler import plan, promised
from gpuq.service import execution
from gpuq.service.commands import Schedule
from gpuq.service.draft import Draft
from gpuq.states import JobState


def tick(draft: Draft) -> None:
    """Frees jobs whose begin time or back-off is over; fails those whose scheduling timeout is."""
    wall = draft.now.wall
    for job in draft.view.timed():
        current = draft.job(job.id)
        if current is None or current.state is not JobState.QUEUED:
            continue
        limit = current.scheduling_timeout_seconds
        if limit is not None and current.ready and wall >= current.queued_at + limit:
            execution.fail_unscheduled(draft, current)
        elif current.eligible_at is not None and wall >= current.eligible_at:
            draft.put_job(replace(current, eligible_at=None, queued_at=wall))


def schedule(draft: Draft, command: Schedule) -> dict[str, Any]:
    """Grants what the planner places, in its order, and stops whom it preempts; whether the same view needs no other
    plan.
    """
    planned = plan(draft.view, draft.now, draft.policy, preempts=command.preempts)
    for id in planned.vain:
        job = draft.job(id)
        if job is not None:
            draft.put_job(replace(job, claim=()))
    for number, placement in enumerate(planned.placements):
        execution.grant(draft, placement, AttemptUid(f"{command.seed}{number:04x}"))
    for preemption in planned.preemptions:
        execution.preempt(draft, preemption)
    first = promised(draft.view, planned)
    if first != draft.view.promised:
        draft.put_promise(first)
    return {"lasts": planned.lasts}
