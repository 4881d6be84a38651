"""Finding what a request names, in memory first and in the store where memory holds it no longer.

What is found may not be durable yet: an answer that shows it waits until it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuq import arrays
from gpuq.api.calls import Call
from gpuq.errors import NotAuthorised, NotFound
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec, NodeName
from gpuq.service.live import LiveController
from gpuq.states import FINAL, JobState, fold
from gpuq.store import attempts as stored_attempts
from gpuq.store import specs as stored_specs
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
    """All attempts of a job as memory has them, first to latest."""
    found = {attempt.uid: attempt for attempt in stored_attempts.of_job(controller.store.reader, id)}
    found |= controller.unwritten.attempts(id)
    live = controller.view.attempt_of(id)
    return list(found.values() if live is None else (found | {live.uid: live}).values())


def latest_attempts(controller: LiveController, ids: Sequence[JobId]) -> dict[JobId, Attempt]:
    """The latest attempt of each of these jobs that have ended and had one."""
    late = {id: list(ended.values())[-1] for id in ids if (ended := controller.unwritten.attempts(id))}
    return late | stored_attempts.latest(controller.store.reader, (id for id in ids if id not in late))


def is_rank_on(controller: LiveController, uid: AttemptUid, rank: int, node: NodeName) -> bool:
    """Whether a rank of an attempt, live or ended, was granted this node. Who asks was told of it: it is durable."""
    found = controller.view.attempt(uid) or stored_attempts.attempt(controller.store.reader, uid)
    return found is not None and 0 <= rank < len(found.ranks) and found.ranks[rank].node == node


def spec_of(controller: LiveController, job: Job) -> JobSpec | None:
    """What a job executes; an element what its array does."""
    late = controller.unwritten.specs
    return late.get(job.id) or late.get(job.array_id) or stored_specs.spec(controller.store.reader, job.id)


def commands_of(controller: LiveController, jobs: Sequence[Job]) -> dict[JobId, tuple[tuple[str, ...], str | None]]:
    """Command and cwd of each job."""
    specs = controller.unwritten.specs
    late = {job.id: spec for job in jobs if (spec := specs.get(job.id) or specs.get(job.array_id))} if specs else {}
    found = stored_specs.commands(controller.store.reader, (job.id for job in jobs if job.id not in late))
    return found | {id: (spec.command, spec.cwd) for id, spec in late.items()}
