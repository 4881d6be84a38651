"""Jobs: submit, look at one, act on many, change one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, fields
from typing import Annotated, Any

from fastapi import Path, Query
from starlette.responses import PlainTextResponse, Response

from gpuq import arrays
from gpuq.api.answers import answer
from gpuq.api.calls import By, Call
from gpuq.api.lookup import attempts_of, find, require, require_owner, shown_state, spec_of
from gpuq.api.schemas import JobChanges, Selected, parse, submission
from gpuq.api.show import JobLens, show_attempt, show_limits, show_overuse, show_reason, show_start
from gpuq.errors import InvalidRequest, NotAuthorised, NotFound
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec, Request
from gpuq.protocol import POLL_SECONDS, Selection
from gpuq.scheduler import NodeAnswer
from gpuq.service.commands import Cancel, Hold, Release, Requeue, Submit, Update
from gpuq.states import JobState
from gpuq.units import format_time

Id = Annotated[str, Path(description="'1042', or '1042_7' for an element of an array")]
Wait = Annotated[float, Query(ge=0, description=f"seconds to wait, at most {POLL_SECONDS:g} at a time")]


async def submit(call: By, dry_run: bool = False) -> Response:
    """Submit a job or an array. With dry_run, only say where it would start now, or why it would wait."""
    asked = submission(call.body)
    if not dry_run:
        return answer(await call.execute(Submit(call.actor, asked)), 201)
    await call.controller.settled()
    outcome = call.controller.dry_run(call.actor, asked)
    ranks = outcome.placement.ranks if outcome.placement else ()
    await call.controller.settled()
    return answer(
        {
            "starts_now": outcome.placement is not None,
            "nodes": [{"node": rank.node, "gpus": list(rank.gpus)} for rank in ranks],
            "reason": show_reason(outcome.reason),
            "expected_start": show_start(outcome.start),
            "instead": list(outcome.instead),
        }
    )


async def show_job(
    call: By,
    id: Id,
    wait: Wait = 0,
    seen: Annotated[str, Query(description="with wait: answer only once the state is none of these")] = "",
) -> Response:
    """One job, whatever its state, with its attempts."""
    job = require(call, id)
    if wait and seen:
        known = _states(seen)
        await call.site.follow.until(lambda: _state(call, job.id) not in known, min(wait, POLL_SECONDS))
    return await _detail(call, id)


def _states(text: str) -> frozenset[JobState]:
    try:
        return frozenset(JobState(word) for word in text.split(","))
    except ValueError:
        raise InvalidRequest(f"seen: '{text[:40]}' is not a state, or several with commas between") from None


def _state(call: Call, id: JobId) -> JobState | None:
    job = find(call.controller, id)
    return None if job is None else shown_state(call.controller, job)


async def _detail(call: Call, id: str) -> Response:
    controller = call.controller
    sizes = await _log_sizes(call, attempts_of(controller, require(call, id).id))
    job = require(call, id)
    owner = call.owns(job.user)
    lens = JobLens(call)
    lens.prepare([job])
    shown = lens.item(job)
    shown |= _more(job, lens, owner, spec_of(controller, job))
    attempts = attempts_of(controller, job.id)
    shown["attempts"] = [show_attempt(attempt, sizes.get(attempt.uid), owner, time.time()) for attempt in attempts]
    shown["limits"] = show_limits(call, attempts[-1]) if attempts else []
    shown["overuse"] = show_overuse(call, attempts[-1]) if attempts else []
    shown["log_bytes"] = sizes.get(attempts[-1].uid) if attempts else None
    await controller.settled()
    return answer(shown)


async def _log_sizes(call: Call, attempts: list[Attempt]) -> dict[AttemptUid, int]:
    """Bytes of the first rank's log of each attempt; asked in a thread, for it may have to sync an old file."""
    if not attempts:
        return {}
    return await asyncio.to_thread(lambda: {attempt.uid: call.site.logs.size((attempt.uid, 0)) for attempt in attempts})


def _more(job: Job, lens: JobLens, owner: bool, spec: JobSpec | None) -> dict[str, Any]:
    """What the detail of a job has beyond an item of a list."""
    array = job.array
    return {
        "priority": job.priority,
        "request": _request(job.request),
        "time_limit_seconds": job.time_limit_seconds,
        "begin_at": format_time(job.eligible_at),
        "held_by": job.held_by,
        "dependencies": [{"kind": d.kind.value, "job": d.job} for d in job.waits_for],
        "max_retries": job.max_retries,
        "retries_used": job.retries_used,
        "losses_used": job.losses_used,
        "requeue": job.requeue,
        "on_lost": job.on_lost.value,
        "comment": job.comment if owner else None,
        "array": array
        and {
            "text": arrays.text(array.ranges),
            "size": array.size,
            "max_running": array.max_running,
            "counts": lens.counts(job),
        },
        "script": spec is not None and spec.script is not None,
        "setup": list(spec.setup) if owner and spec is not None else None,
        "venv": spec.venv if owner and spec is not None else None,
        "conda_env": spec.conda_env if owner and spec is not None else None,
        "output": spec.output if owner and spec is not None else None,
        "error": spec.error if owner and spec is not None else None,
        "append": spec.append if owner and spec is not None else None,
        "warning": None if spec is None or spec.warning is None else asdict(spec.warning),
    }


def _request(request: Request) -> dict[str, Any]:
    """Every field, unlike the wire's codec, which leaves out what has its default."""
    return {field.name: getattr(request, field.name) for field in fields(request)}


async def script(call: By, id: Id) -> Response:
    """The script a job runs, as it was submitted."""
    spec = await _spec(call, require(call, id), "script")
    if spec.script is None:
        raise NotFound(f"job {id} runs a command, not a script")
    return PlainTextResponse(spec.script.encode("utf-8", "replace"))


async def environment(call: By, id: Id) -> Response:
    """The environment a job was given. For its owner alone: not even an admin reads secrets of others."""
    job = require(call, id)
    if call.actor.user != job.user:
        raise NotAuthorised(f"the environment of job {job.id} is for its owner {job.user} only")
    spec = await _spec(call, job, "environment")
    whole = None if spec.environment is None else dict(spec.environment)
    return answer({"environment": whole, "changes": dict(spec.changes)})


async def _spec(call: Call, job: Job, what: str) -> JobSpec:
    require_owner(call, job, what)
    spec = spec_of(call.controller, job)
    await call.controller.settled()
    if spec is None:
        raise NotFound(f"the {what} of job {job.id} is not on record")
    return spec


async def why(call: By, id: Id) -> Response:
    """Why a job waits: its reason, and for each node whether it fits there now."""
    job = require(call, id)
    lens = JobLens(call)
    state = lens.state(job)
    queued = state is JobState.QUEUED
    body = {
        "id": job.id,
        "state": state.value,
        "reason": lens.reason(job),
        "expected_start": lens.expected_start(job),
        "instead": call.controller.instead(job) if queued and job.ready else [],
        "nodes": [_node_answer(answer) for answer in (call.controller.why(job) if queued else [])],
    }
    await call.controller.settled()
    return answer(body)


def _node_answer(said: NodeAnswer) -> dict[str, Any]:
    held_by = [
        {
            "job": holder.job,
            "gpus": holder.gpus,
            "until": None if holder.until is None else format_time(holder.until.until),
            "by_limit": None if holder.until is None else holder.until.bounded,
        }
        for holder in said.holders
    ]
    return {"node": said.node, "fits": not said.short, "text": said.short, "held_by": held_by}


async def cancel(call: By) -> Response:
    """Cancel jobs, waiting or running."""
    selected = parse(Selected, call.body)
    command = Cancel(call.actor, selected.selection(), force=selected.force)
    return answer(await call.execute(command))


async def hold(call: By) -> Response:
    """Keep waiting jobs from starting."""
    return answer(await call.execute(Hold(call.actor, _unforced(call, "hold"))))


async def release(call: By) -> Response:
    """Let held jobs start again."""
    return answer(await call.execute(Release(call.actor, _unforced(call, "release"))))


async def requeue(call: By) -> Response:
    """Stop running jobs and put them into the queue again. Only jobs that run: one that has ended stays ended."""
    selected = parse(Selected, call.body)
    command = Requeue(call.actor, selected.selection(), force=selected.force)
    return answer(await call.execute(command))


def _unforced(call: Call, verb: str) -> Selection:
    selected = parse(Selected, call.body)
    if selected.force:
        raise InvalidRequest(f"force: there is nothing to force about {verb}")
    return selected.selection()


async def update(call: By, id: Id) -> Response:
    """Change a job that waits; of one that runs, only its comment."""
    changes = parse(JobChanges, call.body).model_dump(exclude_none=True)
    if not changes:
        raise InvalidRequest("nothing to change is given", f"give one of {', '.join(JobChanges.model_fields)}")
    await call.execute(Update(call.actor, JobId(id), **changes))
    return await _detail(call, id)
