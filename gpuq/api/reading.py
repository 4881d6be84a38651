"""Which log a request means, whether its caller may read it, and how far it has come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gpuq import arrays
from gpuq.api.calls import Call
from gpuq.api.lookup import attempts_of, require, require_owner
from gpuq.errors import InvalidRequest, NotFound
from gpuq.model import Attempt, Job
from gpuq.store.logfiles import Log


@dataclass(frozen=True, slots=True)
class Reading:
    """One rank's log at one moment. end is its final size, once that is known; 0 for one that was deleted since."""

    job: Job
    record: Job | None  # as memory has it: None for one that has ended or is not made yet
    attempt: Attempt | None
    log: Log | None
    size: int = 0
    end: int | None = None
    deleted: bool = False


def readable(call: Call, id: str) -> Job:
    """A job whose log the caller may read; raises NotFound, NotAuthorised, or InvalidRequest for an array."""
    job = require(call, id)
    require_owner(call, job, "log")
    if job.array is not None:
        first = arrays.first(job.array.ranges)
        raise InvalidRequest(f"job {job.id} is an array", f"name one element, such as {job.id}_{first}")
    return job


async def reading_of(call: Call, job: Job, number: int | None, rank: int) -> Reading:
    """The log as it is now, of the latest attempt if number is None; raises NotFound for one the job has not had."""
    record = call.controller.view.job(job.id)
    job = record or require(call, job.id)
    wanted = job.attempt if number is None else number
    if not wanted:
        await call.controller.settled()
        return Reading(job, record, None, None)
    found = _attempt(call, job, wanted)
    if found is None or rank >= len(found.ranks):
        missing = f"attempt {wanted}" if found is None else f"rank {rank} in attempt {wanted}"
        raise NotFound(f"job {job.id} has had no {missing}")
    await call.controller.settled()  # before the first wait: what is undone under one is not there to be waited for
    key = found.uid, rank
    size = await asyncio.to_thread(call.site.logs.size, key)
    told = found.ranks[rank].exit
    end = told.log_size if told is not None else None
    if end is None and not found.live:
        end = size  # its node is gone: what is here is all there will ever be
    deleted = size == 0 and end != 0 and await asyncio.to_thread(call.site.logs.was_deleted, key)
    return Reading(job, record, found, key, size, 0 if deleted else end, deleted)


def _attempt(call: Call, job: Job, number: int) -> Attempt | None:
    live = call.controller.view.attempt_of(job.id)
    if live is not None and live.number == number:
        return live
    return next((a for a in reversed(attempts_of(call.controller, job.id)) if a.number == number), None)
