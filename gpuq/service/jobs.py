"""Decisions on what users ask of jobs: submit, cancel, hold, release, requeue, update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gpuq import arrays, constraint
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import Dependency, DependencyKind, EndReason, Job, JobId, JobSpec, OnLost, Request, StopKind
from gpuq.outfiles import check_pattern
from gpuq.protocol import MAX_DEPENDENCIES, Selection, Submission
from gpuq.service import execution, queues
from gpuq.service.commands import Actor, Cancel, Hold, Release, Requeue, Submit, Update
from gpuq.service.draft import Draft
from gpuq.states import FINAL, JobState

DEFAULT_GRACE_SECONDS = 30  # as Slurm's KillWait: time to write a checkpoint


# ---------------------------------------------------------------- submit


def submit(draft: Draft, command: Submit) -> dict[str, Any]:
    """A new job or array, QUEUED; its number is the next one."""
    asked, actor = command.submission, command.actor
    _check_role(actor)
    job = new_job(draft, asked, actor)
    waits = []
    for dependency in (*asked.dependencies, *(_namesakes(draft, job) if asked.singleton else ())):
        # An element someone waits for matters from now on: only a job of its own can tell them of its end.
        other = draft.job(dependency.job) or _make_waiting(draft, dependency.job)
        state = command.ended.get(dependency.job) if other is None else other.state
        if state is None:
            raise NotFound(f"the job depends on {dependency.job}, which does not exist")
        if state not in FINAL:
            waits.append(dependency)
        elif not dependency.met_by(state):
            wanted = dependency.kind.value
            raise Conflict(f"{wanted}:{dependency.job} can never come true: job {dependency.job} is {state.value}")
    job = draft.put_job(replace(job, waits_for=tuple(waits)))
    draft.put_spec(job.id, spec_of(asked))
    draft.event("job.submitted", job.name, job=job, user=job.user)
    return {"id": job.id, "elements": None if job.array is None else job.array.size}


def _namesakes(draft: Draft, job: Job) -> Iterator[Dependency]:
    """What `singleton` means at this moment. Later jobs never matter to it, so that is all it will ever mean."""
    live = (other for other in draft.view.live_jobs() if other.index is None)
    alike = [other.id for other in live if (other.user, other.name) == (job.user, job.name)]
    if len(alike) > MAX_DEPENDENCIES:
        raise Conflict(
            f"{len(alike):,} of your jobs named {job.name} have not ended, and a job can wait for {MAX_DEPENDENCIES:,}",
            "submit them as one array with %1",
        )
    return (Dependency(DependencyKind.AFTER_ANY, id) for id in alike)


def new_job(draft: Draft, asked: Submission, actor: Actor) -> Job:
    """The record of a submission before its dependencies are known; raises InvalidRequest on what contradicts."""
    number, wall, policy = draft.view.next_number, draft.now.wall, draft.policy
    request = replace(request_of(asked), account=actor.user)
    usual = draft.view.settings.cluster.default_priority
    priority = usual if asked.priority is None else asked.priority
    if priority > usual and not actor.admin:
        raise NotAuthorised(f"only an admin may raise a job's priority above {usual}", "owners may lower it")
    queue = queues.admit(draft.view.settings, asked.queue, actor, request, asked.requeue)
    grace = DEFAULT_GRACE_SECONDS if asked.grace_seconds is None else asked.grace_seconds
    if asked.on_lost is OnLost.FENCE and grace > policy.fence_grace:
        raise InvalidRequest(f"a job with --on-lost=fence may have a grace of at most {policy.fence_grace} s")
    limit = queues.time_limit(queue, asked.time_limit_seconds)
    if asked.warning is not None and limit is None:
        raise InvalidRequest("--signal comes before the time limit, and the job has none", "add for example -t 2h")
    eligible = asked.begin_at if asked.begin_at is not None and asked.begin_at > wall else None
    return Job(
        id=JobId(str(number)),
        number=number,
        index=None,
        name=asked.name or _name_from(asked),
        user=actor.user,
        queue=queue.name,
        priority=priority,
        request=request,
        state=JobState.QUEUED,
        submitted_at=wall,
        queued_at=wall,
        array=None if asked.array is None else arrays.parse_array(asked.array),
        held_by=actor.user if asked.hold else None,
        eligible_at=eligible,
        time_limit_seconds=limit,
        scheduling_timeout_seconds=asked.scheduling_timeout_seconds,
        grace_seconds=grace,
        max_retries=asked.max_retries,
        requeue=asked.requeue,
        on_lost=asked.on_lost,
        comment=asked.comment,
    )


def _name_from(asked: Submission) -> str:
    word = asked.command[0] if asked.command else "script"
    shown = "".join(c if c.isprintable() else " " for c in word.rsplit("/", 1)[-1])  # as a name that was given
    return shown.strip()[:64].rstrip() or "job"


def request_of(asked: Submission) -> Request:
    """The resources asked for, with -G (whole job) and --gpus-per-node brought together."""
    per_node = asked.gpus_per_node
    if asked.gpus is not None:
        if asked.gpus % asked.nodes:
            raise InvalidRequest(f"-G {asked.gpus} does not divide by -N {asked.nodes}", "or use --gpus-per-node")
        if per_node is not None and per_node * asked.nodes != asked.gpus:
            raise InvalidRequest(f"-G {asked.gpus} and --gpus-per-node {per_node} with -N {asked.nodes} disagree")
        per_node = asked.gpus // asked.nodes
    if not per_node and (asked.gpu_type is not None or asked.gpu_memory_bytes is not None):
        raise InvalidRequest("a GPU type or memory is asked for, but no GPU", "add for example -G 1")
    if asked.shared and asked.gpu_memory_bytes is None:
        raise InvalidRequest("a shared GPU is asked for, but not how much of its memory", "add --gpu-mem 20G")
    if asked.pty and (asked.nodes > 1 or asked.array is not None or asked.max_retries):
        raise InvalidRequest(
            "a job on a terminal runs once and on one node", "leave out -N, -a, --max-retries or --pty"
        )
    if len(asked.only_nodes) and len(set(asked.only_nodes) - set(asked.not_nodes)) < asked.nodes:
        raise InvalidRequest(f"-w names fewer nodes than the {asked.nodes} of -N", "name more, or leave -w out")
    return Request(
        nodes=asked.nodes,
        gpus_per_node=per_node or 0,
        gpu_type=asked.gpu_type.lower() if asked.gpu_type else None,
        gpu_memory_bytes=None if asked.shared else asked.gpu_memory_bytes,
        gpu_share_bytes=asked.gpu_memory_bytes if asked.shared else None,
        constraint=constraint.normal(asked.constraint) if asked.constraint.strip() else "",
        exclusive=asked.exclusive,
        cpus=asked.cpus,
        memory_bytes=asked.memory_bytes,
        only_nodes=tuple(sorted(set(asked.only_nodes))),
        not_nodes=tuple(sorted(set(asked.not_nodes))),
    )


def spec_of(asked: Submission) -> JobSpec:
    if not asked.command and asked.script is None:
        raise InvalidRequest("there is no command to run")
    for option, pattern in (("-o", asked.output), ("-e", asked.error)):
        if pattern is not None:
            check_pattern(option, pattern)
    return JobSpec(
        command=asked.command,
        script=asked.script,
        cwd=asked.cwd,
        environment=asked.environment,
        changes=asked.changes,
        setup=asked.setup,
        venv=asked.venv,
        conda_env=asked.conda_env,
        warning=asked.warning,
        pty=asked.pty,
        output=asked.output,
        error=asked.error,
        append=asked.append,
    )


def _check_role(actor: Actor) -> None:
    if actor.role not in ("user", "admin"):
        raise NotAuthorised(f"a token of role {actor.role} may not do this", "ask an admin for a user token")


# ---------------------------------------------------------------- verbs on many jobs

_Outcome = tuple[str, str]  # one of done, already, refused; and a line for people
_Act = Callable[[Draft, Job], _Outcome]


def _on_selection(
    draft: Draft, actor: Actor, selection: Selection, known: Mapping[JobId, Job], act: _Act, cannot: str | None = None
) -> dict[str, Any]:
    """Applies `act` to each selected job the actor may touch; one job's refusal never stops the others.

    cannot says what is impossible once a job has ended; None means that its end is what was wanted.
    """
    _check_role(actor)
    items = []
    for id in selection.ids or _filtered(draft, actor, selection):
        outcome, text = _on_one(draft, actor, id, known, act, cannot)
        items.append({"id": id, "outcome": outcome, "text": text})
    return {"items": items}


def _on_one(
    draft: Draft, actor: Actor, id: JobId, known: Mapping[JobId, Job], act: _Act, cannot: str | None
) -> _Outcome:
    job = draft.job(id)
    if job is None:
        row = draft.job(JobId(id.partition("_")[0]))
        if row is not None and not _may(actor, row):
            return "not_allowed", f"job {id} belongs to {row.user}"
        job = _make_waiting(draft, id)
    if job is None:
        ended = known.get(id)
        if ended is None:
            return "not_found", f"there is no job {id}"
        return _ended(id, ended.state, cannot)
    if not _may(actor, job):
        return "not_allowed", f"job {id} belongs to {job.user}"
    if job.state in FINAL:
        return _ended(id, job.state, cannot)
    return act(draft, job)


def _ended(id: JobId, state: JobState, cannot: str | None) -> _Outcome:
    if cannot is None:
        return "already", f"job {id} is {state.value} already"
    return "refused", f"job {id} is {state.value}: an ended job cannot be {cannot}"


def _make_waiting(draft: Draft, id: JobId) -> Job | None:
    """The element of this id, if it is one that waits to be made: now it is."""
    element = arrays.element(id)
    row = None if element is None else draft.job(element[0])
    if element is None or row is None or row.array is None or not arrays.contains(row.array.waiting, element[1]):
        return None
    return execution.make_element(draft, row, element[1])


def _may(actor: Actor, job: Job) -> bool:
    return actor.admin or actor.user == job.user


def _filtered(draft: Draft, actor: Actor, selection: Selection) -> list[JobId]:
    """Live jobs and arrays that meet every filter given; without any filter none. Others' jobs only for an admin."""
    filters = (selection.user, selection.queue, selection.state, selection.name)
    if not any(filters):
        return []
    return [
        job.id
        for job in draft.view.live_jobs()
        if _is_meant(job, selection)
        and (not selection.user or job.user == selection.user)
        and (not selection.queue or job.queue == selection.queue)
        and (not selection.state or job.state.value == selection.state.upper())
        and (not selection.name or job.name == selection.name)
        and _may(actor, job)
    ]


def _is_meant(job: Job, selection: Selection) -> bool:
    """Without a state an array stands for its elements. With one, each element has its own, and the array, QUEUED as
    long as any lives, stands for those not made yet.
    """
    if not selection.state:
        return job.index is None
    return job.array is None or bool(job.array.waiting)


def cancel(draft: Draft, command: Cancel) -> dict[str, Any]:
    actor = command.actor

    def act(draft: Draft, job: Job) -> _Outcome:
        if job.array is not None and command.selection.state:
            execution.cancel_queued(draft, job, actor.user)
            return "done", f"the waiting elements of job {job.id} are canceled"
        if job.array is not None:
            for element in draft.elements(job.id):
                _cancel_one(draft, actor, element, command.force)
            job = draft.job(job.id) or job
            if job.state not in FINAL:
                execution.cancel_queued(draft, job, actor.user)
            return "done", f"job {job.id} is canceled with all its elements"
        return _cancel_one(draft, actor, job, command.force)

    return _on_selection(draft, actor, command.selection, command.known, act)


def _cancel_one(draft: Draft, actor: Actor, job: Job, force: bool) -> _Outcome:
    attempt = draft.attempt_of(job.id)
    if attempt is None:
        execution.cancel_queued(draft, job, actor.user)
        return "done", f"job {job.id} is canceled"
    lost = job.state is JobState.LOST
    job = execution.stop(draft, attempt, job, StopKind.CANCEL, actor.user)
    if lost and force:
        execution.end_all(
            draft, draft.attempt(attempt.uid) or attempt, job, EndReason.NODE_LOST, f"forced by {actor.user}"
        )
        return "done", f"job {job.id} is canceled without proof that its processes are gone"
    if lost:
        return "done", f"job {job.id} is LOST: canceled as soon as its node returns or is known to be dead"
    done = "canceled" if job.state in FINAL else "being canceled"
    return "done", f"job {job.id} is {done}"


def hold(draft: Draft, command: Hold) -> dict[str, Any]:
    def act(draft: Draft, job: Job) -> _Outcome:
        if job.state is not JobState.QUEUED:
            return "refused", f"job {job.id} is {job.state.value}: only a queued job can be held"
        if job.held_by:
            return "already", f"job {job.id} is held by {job.held_by} already"
        for member in _with_queued_elements(draft, job):
            draft.put_job(replace(member, held_by=command.actor.user, claim=()))
        draft.event("job.held", f"by {command.actor.user}", job=job, user=job.user)
        return "done", f"job {job.id} is held"

    return _on_selection(draft, command.actor, command.selection, command.known, act, "held")


def release(draft: Draft, command: Release) -> dict[str, Any]:
    def act(draft: Draft, job: Job) -> _Outcome:
        members = [member for member in _with_queued_elements(draft, job) if member.held_by]
        if not members:
            return "already", f"job {job.id} is not held"
        if not command.actor.admin and any(member.held_by != command.actor.user for member in members):
            return "refused", f"job {job.id} is held by {members[0].held_by}: only an admin may release it"
        for member in members:
            draft.put_job(replace(member, held_by=None, queued_at=draft.now.wall))
        draft.event("job.released", f"by {command.actor.user}", job=job, user=job.user)
        return "done", f"job {job.id} is released"

    return _on_selection(draft, command.actor, command.selection, command.known, act, "released")


def _with_queued_elements(draft: Draft, job: Job) -> list[Job]:
    elements = draft.elements(job.id) if job.array is not None else []
    return [job] + [element for element in elements if element.state is JobState.QUEUED]


def requeue(draft: Draft, command: Requeue) -> dict[str, Any]:
    actor = command.actor

    def act(draft: Draft, job: Job) -> _Outcome:
        if job.array is not None and command.selection.state:
            return "already", f"the waiting elements of job {job.id} are queued already"
        if job.array is not None:
            running = [e for e in draft.elements(job.id) if draft.attempt_of(e.id) is not None]
            if not running:
                return "refused", f"no element of job {job.id} is running"
            for element in running:
                _requeue_one(draft, actor, element, command.force)
            what = "1 element" if len(running) == 1 else f"{len(running)} elements"
            return "done", f"requeueing {what} of job {job.id}"
        return _requeue_one(draft, actor, job, command.force)

    return _on_selection(draft, actor, command.selection, command.known, act, "requeued; submit it again")


def _requeue_one(draft: Draft, actor: Actor, job: Job, force: bool) -> _Outcome:
    attempt = draft.attempt_of(job.id)
    if attempt is None:
        return "already", f"job {job.id} is queued already"
    if attempt.stop is not None and attempt.stop.kind is StopKind.CANCEL:
        return "refused", f"job {job.id} is being canceled"
    lost = job.state is JobState.LOST
    job = execution.stop(draft, attempt, job, StopKind.REQUEUE, actor.user)
    if lost and force:
        execution.end_all(
            draft, draft.attempt(attempt.uid) or attempt, job, EndReason.NODE_LOST, f"forced by {actor.user}"
        )
        return "done", f"job {job.id} is queued again without proof that its processes are gone"
    if lost:
        return "done", f"job {job.id} is LOST: queued again as soon as its node returns or is known to be dead"
    return "done", f"job {job.id} is being requeued"


# ---------------------------------------------------------------- update


def update(draft: Draft, command: Update) -> dict[str, Any]:
    """New values for one job, with its queued elements if it is an array."""
    actor = command.actor
    _check_role(actor)
    job = draft.job(command.id) or _make_waiting(draft, command.id)
    if job is None:
        ended = command.known.get(command.id)
        if ended is None:
            raise NotFound(f"there is no job {command.id}")
        raise Conflict(f"job {command.id} is {ended.state.value}: an ended job cannot be changed")
    if not _may(actor, job):
        raise NotAuthorised(f"job {command.id} belongs to {job.user}")
    values: dict[str, Any] = {
        "priority": command.priority,
        "time_limit_seconds": command.time_limit_seconds,
        "name": command.name,
        "comment": command.comment,
        "eligible_at": command.begin_at,
        "max_retries": command.max_retries,
    }
    values = {name: value for name, value in values.items() if value is not None}
    if not values:
        raise InvalidRequest("nothing to update was given", "for example --priority -5")
    if command.priority is not None and command.priority > job.priority and not actor.admin:
        raise NotAuthorised("only an admin may raise a job's priority", "owners may lower it")
    if job.state is not JobState.QUEUED and set(values) - {"comment"}:
        raise Conflict(f"job {job.id} is {job.state.value}: only its comment can be changed now")
    if command.time_limit_seconds is not None and (queue := draft.view.settings.queue(job.queue)) is not None:
        queues.time_limit(queue, command.time_limit_seconds)
    for member in _with_queued_elements(draft, job):
        draft.put_job(replace(member, **values))
    draft.event("job.updated", ", ".join(sorted(values)), job=job, user=job.user)
    return {"id": job.id}
