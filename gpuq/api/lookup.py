"""Finding what a request names, in memory first and in the store where memory holds it no longer."""

from __future__ import annotations

from dataclasses import replace

from gpuq import arrays
from gpuq.api.calls import Call
from gpuq.errors import NotAuthorised, NotFound
from gpuq.model import Attempt, AttemptUid, Job, JobId
from gpuq.service.live import LiveController
from gpuq.states import FINAL, JobState, fold
from gpuq.store import attempts as stored_attempts
from gpuq.store.columns import job_key


def find(controller: LiveController, id: JobId) -> Job | None:
    """A job in whatever state, elements of arrays that have no record yet included; None if there is none."""
    if job_key(id) is None:
        return None
    job = controller.view.job(id) or controller.ended_job(id)
    number, underscore, index = id.partition("_")
    if job is not None or not underscore:
        return job
    row = controller.view.job(JobId(number)) or controller.ended_job(JobId(number))
    if row is None or row.array is None or not arrays.contains(row.array.ranges, int(index)):
        return None
    if arrays.contains(row.array.waiting, int(index)):
        return element(row, int(index))
    # An element without a record that does not wait either was canceled before it was made.
    return replace(element(row, int(index)), state=fold({JobState.CANCELED: 1}), finished_at=row.finished_at)


def element(array: Job, index: int) -> Job:
    """One waiting index of an array, as the job it will be."""
    return replace(array, id=JobId(f"{array.id}_{index}"), index=index, array=None)


def shown_state(controller: LiveController, job: Job) -> JobState:
    """The state people are told: of an array, what its elements come to."""
    if job.array is None or job.state in FINAL:
        return job.state
    return fold(arrays.with_unmade(job, controller.view.element_counts(job.id)))


def require(call: Call, id: str) -> Job:
    """The job; raises NotFound."""
    job = find(call.controller, JobId(id))
    if job is None:
        raise NotFound(f"there is no job {id[:40]}")
    return job


def require_owner(call: Call, job: Job, what: str) -> None:
    if not call.owns(job.user):
        raise NotAuthorised(f"the {what} of job {job.id} is for its owner {job.user} and admins only")


def attempts_of(controller: LiveController, id: JobId) -> list[Attempt]:
    """All attempts of a job, first to latest, the live one as memory has it. Settle first, or it may miss one."""
    found = stored_attempts.of_job(controller.store.reader, id)
    live = controller.view.attempt_of(id)
    if live is None:
        return found
    return [attempt for attempt in found if attempt.uid != live.uid] + [live]


def attempt(controller: LiveController, uid: AttemptUid) -> Attempt | None:
    """An attempt, live or ended."""
    return controller.view.attempt(uid) or stored_attempts.attempt(controller.store.reader, uid)
