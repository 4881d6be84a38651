"""Claims: room that others were stopped for, and that is kept for one job until it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuq.model import Attempt, Job, JobId, Now, Rank
from gpuq.scheduler.fit import Room, rooms
from gpuq.states import NodeState
from gpuq.view import ClusterView, Placement, Policy

# After SIGKILL: a process in the kernel, say on a GPU that hangs, may never go.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Claims:
    """All claims, as of one instant."""

    rooms: list[Room]  # every node that has ever reported, by name, with what is left to jobs without a claim
    jobs: dict[JobId, Job]  # those whose claim stands, in queue order
    placements: tuple[Placement, ...]  # of those whose room is all there
    vain: tuple[JobId, ...]  # those whose claim does not: it is to be forgotten

    @property
    def any(self) -> bool:
        return bool(self.jobs or self.vain)


def settle(view: ClusterView, now: Now, policy: Policy) -> Claims:
    """Which claims stand, and what they leave to others.

    A claim stands while its nodes take work, or are only suspect, and what is not free of it yet is held by somebody
    who was told to end and may be counted on to do so.
    """
    found = rooms(view, policy)
    by_name = {room.name: room for room in found}
    jobs: dict[JobId, Job] = {}
    placements, vain = [], []
    for job in view.claims():
        if not all(_stands(view, now, by_name.get(rank.node), rank) for rank in job.claim):
            vain.append(job.id)
            continue
        jobs[job.id] = job
        if all(not by_name[rank.node].closed and by_name[rank.node].grants(rank) for rank in job.claim):
            placements.append(Placement(job.id, None, job.claim))
        for rank in job.claim:
            by_name[rank.node].keep(rank)
    return Claims(found, jobs, tuple(placements), tuple(vain))


def _stands(view: ClusterView, now: Now, room: Room | None, rank: Rank) -> bool:
    if room is None or (room.closed and view.node_state(room.name) is not NodeState.SUSPECT):
        return False
    if room.grants(rank):
        return True
    leaving = _leaving(view, rank)
    holders = [attempt for attempt in view.attempts_on(rank.node) if _overlap(attempt, rank)]
    return bool(leaving) and all(goes(view, attempt, now) for attempt in [*leaving, *holders])


def _leaving(view: ClusterView, rank: Rank) -> list[Attempt]:
    """Who was told to end on the rank's node: those that hold GPUs of its, else all, as CPUs are anyone's."""
    told = [attempt for attempt in view.attempts_on(rank.node) if attempt.stop is not None]
    return [attempt for attempt in told if _overlap(attempt, rank)] or told


def _overlap(attempt: Attempt, rank: Rank) -> bool:
    """Whether one cannot have its GPUs while the other has them; of two that share nobody can say."""
    shared = rank.gpu_share_bytes is not None
    return any(
        other.node == rank.node
        and not (shared and other.gpu_share_bytes is not None)
        and not set(other.gpus).isdisjoint(rank.gpus)
        for other in attempt.ranks
    )


def awaited(view: ClusterView, job: Job) -> dict[JobId, float]:
    """Whose end a job with a claim waits for, and until when they have their grace, in wall seconds."""
    leaving = (attempt for rank in job.claim for attempt in _leaving(view, rank))
    return {attempt.job: _until(view, attempt) for attempt in leaving}


def _until(view: ClusterView, attempt: Attempt) -> float:
    """The end of the grace of one that was told to end."""
    job = view.job(attempt.job)
    return math.inf if job is None or attempt.stop is None else attempt.stop.at + job.grace_seconds


def goes(view: ClusterView, attempt: Attempt, now: Now) -> bool:
    """Whether an attempt was told to end, and may be counted on to do so."""
    return attempt.stop is not None and now.wall <= _until(view, attempt) + PATIENCE_SECONDS
