"""Decisions on streams to running jobs: who may have one, and what goes on record. The bytes are in pipes.py."""

from __future__ import annotations

from typing import Any

from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import Job
from gpuq.protocol import StreamKind
from gpuq.service.commands import Actor, OpenStream
from gpuq.service.draft import Draft
from gpuq.states import JobState


def allow(draft: Draft, command: OpenStream) -> dict[str, Any]:
    """Lets a stream to one rank of a running job be opened; the answer says where that is."""
    job = draft.job(command.id) or command.known.get(command.id)
    if job is None:
        raise NotFound(f"there is no running job {command.id}")
    check_may(command.actor, job, command.aim.kind)
    if job.array is not None:
        raise InvalidRequest(f"job {job.id} is an array", f"name one element, such as {job.id}_0")
    attempt = draft.attempt_of(job.id)
    if attempt is None or job.state is not JobState.RUNNING:
        raise Conflict(f"job {job.id} is {job.state.value}: there is nothing to connect to", "a job must be RUNNING")
    if not 0 <= command.rank < len(attempt.ranks):
        raise InvalidRequest(f"job {job.id} has no rank {command.rank}", f"the last is {len(attempt.ranks) - 1}")
    node = attempt.ranks[command.rank].node
    if not command.told:
        port = command.aim.kind is StreamKind.PORT
        kind, what = ("job.forwarded", f"port {command.aim.port}, ") if port else ("job.attached", "")
        text = f"{what}by {command.actor.user}"
        draft.event(
            kind, text, job=job, attempt=attempt.number, node=node, user=job.user, address=command.actor.address
        )
    return {"job": job.id, "attempt": attempt.number, "uid": attempt.uid, "rank": command.rank, "node": node}


def check_may(actor: Actor, job: Job, kind: StreamKind) -> None:
    """Raises NotAuthorised. A shell shows the job's environment, which not even an admin reads; a port its output."""
    if actor.user == job.user or (actor.admin and kind is StreamKind.PORT):
        return
    whom = f"its owner {job.user} and admins" if kind is StreamKind.PORT else f"its owner {job.user}"
    raise NotAuthorised(f"{'a port' if kind is StreamKind.PORT else 'a terminal'} of job {job.id} is for {whom} only")
