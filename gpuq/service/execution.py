"""The life of an attempt: granted, accepted, launched, stopped, lost, returned, ended, and what the job becomes.

Every function takes the draft of the decision it is part of. GPUs are held until an attempt has ended, and an attempt
ends only here, in `_conclude`, when the last of its ranks has: by the agent's word, by proof of death, or by force.
"""

from __future__ import annotations

from dataclasses import replace

from gpuq import arrays
from gpuq.model import (
    Attempt,
    AttemptUid,
    Cause,
    CauseCode,
    DependencyKind,
    EndReason,
    ExitRecord,
    Job,
    JobId,
    NodeName,
    OnLost,
    Rank,
    RankPhase,
    Stop,
    StopKind,
)
from gpuq.protocol import RankReport
from gpuq.service.draft import Draft
from gpuq.service.verdict import Verdict, is_failure, judge, telling_rank
from gpuq.states import FINAL, JobEvent, JobState, NodeState, after, fold
from gpuq.units import format_duration
from gpuq.view import Placement, Preemption

MAX_TEXT = 2_000  # characters an agent may say of an end: they go into the job, its events and every dashboard
_PHASES = list(RankPhase)
PORTS = range(29_500, 30_500)  # from torchrun's own; below what kernels hand out, and far more than gangs on a node


def move(draft: Draft, job: Job, event: JobEvent, **fields: object) -> Job:
    """The job one arrow further, with an event in the journal; raises InvalidTransition where there is no arrow."""
    moved = draft.put_job(replace(job, state=after(job.state, event), **fields))  # type: ignore[arg-type]
    text = moved.cause.text if moved.cause is not None else ""
    if moved.state is not job.state:
        draft.event(f"job.{moved.state.value.lower()}", text, job=moved, attempt=moved.attempt or None, user=moved.user)
    return moved


# ---------------------------------------------------------------- start


def grant(draft: Draft, placement: Placement, uid: AttemptUid) -> None:
    """QUEUED -> ALLOCATED with a new attempt; an array's element is made first."""
    job = draft.job(placement.job)
    if job is None:
        return
    if placement.index is not None:
        job = make_element(draft, job, placement.index)
    number = job.attempt + 1
    port = lease_port(draft, job, placement.ranks[0].node) if len(placement.ranks) > 1 else None
    draft.put_attempt(Attempt(uid, job.id, number, placement.ranks, draft.now.wall, job.on_lost, port))
    move(draft, job, JobEvent.GRANT, attempt=number, claim=(), started_at=None, exit_code=None, signal=None, cause=None)


def preempt(draft: Draft, preemption: Preemption) -> None:
    """Has others end so that a job can start, for which the room is kept from here on: it is on the job's record."""
    job = draft.job(preemption.job)
    if job is None:
        return
    if preemption.index is not None:
        job = make_element(draft, job, preemption.index)
    job = draft.put_job(replace(job, claim=preemption.ranks))
    for uid in preemption.victims:
        attempt = draft.attempt(uid)
        victim = None if attempt is None else draft.job(attempt.job)
        if attempt is not None and victim is not None and attempt.live:
            text = f"for job {job.id} of queue {job.queue}"
            draft.event("job.preempted", text, job=victim, attempt=attempt.number, user=victim.user)
            stop(draft, attempt, victim, StopKind.PREEMPT, "gpuq", f"preempted {text}")


def lease_port(draft: Draft, job: Job, node: NodeName) -> int:
    """A port of the node that no other live gang was given. The next attempt gets another: this one may be taken."""
    taken = {attempt.port for attempt in draft.attempts_on(node) if attempt.ranks[0].node == node}
    first = job.number * 31 + job.attempt
    ports = (PORTS[(first + offset) % len(PORTS)] for offset in range(len(PORTS)))
    return next(port for port in ports if port not in taken)


def make_element(draft: Draft, row: Job, index: int) -> Job:
    """The job of one waiting index: a copy of the array's record; the row keeps the rest."""
    assert row.array is not None
    draft.put_job(replace(row, array=replace(row.array, waiting=arrays.without(row.array.waiting, index))))
    element = replace(row, id=JobId(f"{row.id}_{index}"), index=index, array=None)
    return draft.put_job(element)


# ---------------------------------------------------------------- the agent's word


def report(draft: Draft, attempt: Attempt, word: RankReport) -> None:
    """Takes what an agent says of one rank. Phases only advance, so repeated and late words change nothing."""
    job = draft.job(attempt.job)
    if (
        job is None
        or not 0 <= word.rank < len(attempt.ranks)
        or (word.phase is RankPhase.ENDED) != (word.exit is not None)
    ):
        return
    rank = attempt.ranks[word.rank]
    if _PHASES.index(word.phase) > _PHASES.index(rank.phase):
        exit = word.exit
        if exit is not None:
            exit = replace(exit, text=exit.text[:MAX_TEXT], gpu_oom=exit.gpu_oom[:MAX_TEXT])
        started = word.started_at if exit is None else exit.started_at
        if started and rank.started_at is None:
            rank = replace(rank, started_at=_on_our_clock(draft, attempt, started))
        rank = replace(rank, phase=word.phase, exit=exit)
        ranks = (*attempt.ranks[: word.rank], rank, *attempt.ranks[word.rank + 1 :])
        attempt = draft.put_attempt(replace(attempt, ranks=ranks))
    if job.state is JobState.LOST:
        job = found(draft, attempt, job, rank.node)
        attempt = draft.attempt(attempt.uid) or attempt
    if rank.phase is RankPhase.ENDED:
        job = _rank_ended(draft, attempt, job)
        attempt = draft.attempt(attempt.uid) or attempt
        if not attempt.live:
            return
    job = _advance(draft, attempt, job)
    if word.stopping and job.state in (JobState.STARTING, JobState.RUNNING):
        move(draft, job, JobEvent.STOP)


def _rank_ended(draft: Draft, attempt: Attempt, job: Job) -> Job:
    """At least one rank has ended: the attempt with the last of them; where one has failed, the others are stopped."""
    if all(rank.phase is RankPhase.ENDED for rank in attempt.ranks):
        return _conclude(draft, attempt, job)
    failed = next((number for number, rank in enumerate(attempt.ranks) if is_failure(rank)), None)
    if attempt.stop is None and failed is not None:
        return stop(draft, attempt, job, StopKind.SIBLING, "gpuq", f"rank {failed} failed")
    return job


def _advance(draft: Draft, attempt: Attempt, job: Job) -> Job:
    """Moves the job as far as its ranks have come: STARTING with the first accepted, RUNNING with the last running."""
    phases = {rank.phase for rank in attempt.ranks}
    if job.state is JobState.ALLOCATED and phases != {RankPhase.ORDERED}:
        job = move(draft, job, JobEvent.ACCEPT)
    running = all(rank.started_at is not None for rank in attempt.ranks)
    if job.state is JobState.STARTING and running:
        started = max(rank.started_at or 0.0 for rank in attempt.ranks)
        job = move(draft, job, JobEvent.LAUNCH, started_at=started)
    return job


def found(draft: Draft, attempt: Attempt, job: Job, heard: NodeName) -> Job:
    """LOST -> the state its nodes report, now that one is heard again; none of them may be silent still."""
    for rank in attempt.ranks:
        silent = rank.node != heard and draft.view.node_state(rank.node) is NodeState.LOST
        if silent and rank.phase is not RankPhase.ENDED:
            return job
    phases = [rank.phase for rank in attempt.ranks]
    if attempt.stop is not None:
        event = JobEvent.RETURN_STOPPING
    elif all(phase is RankPhase.ORDERED for phase in phases):
        event = JobEvent.RETURN_ALLOCATED
    elif all(rank.started_at is not None for rank in attempt.ranks):
        event = JobEvent.RETURN_RUNNING
    else:
        event = JobEvent.RETURN_STARTING
    draft.put_attempt(replace(attempt, lost_since=None))
    starts = [rank.started_at for rank in attempt.ranks if rank.started_at is not None]
    started_at = max(starts) if event is JobEvent.RETURN_RUNNING else job.started_at
    return move(draft, job, event, started_at=started_at)


# ---------------------------------------------------------------- stop, silence, proof


def stop(draft: Draft, attempt: Attempt, job: Job, kind: StopKind, by: str, text: str = "") -> Job:
    """Asks an attempt to end. GPUs stay held until its node confirms; a LOST job keeps the wish for its return.

    A cancel replaces another kind of stop; nothing replaces a cancel. If no order has left yet, the attempt ends here
    and now: nobody else knows of it.
    """
    if attempt.stop is None or (kind is StopKind.CANCEL and attempt.stop.kind is not StopKind.CANCEL):
        attempt = draft.put_attempt(replace(attempt, stop=Stop(kind, by, draft.now.wall, text)))
    if job.state in (JobState.ALLOCATED, JobState.STARTING, JobState.RUNNING):
        job = move(draft, job, JobEvent.STOP)
    if not draft.view.order_left(attempt.uid):
        job = end_all(draft, attempt, job, EndReason.NEVER_STARTED, "stopped before its order was sent")
    return job


def lose(draft: Draft, attempt: Attempt, job: Job, name: NodeName) -> None:
    """The node has been silent for lost_after: LOST, or the end where the silence itself is proof."""
    if all(rank.phase is RankPhase.ENDED for rank in attempt.ranks if rank.node == name):
        return  # what it had of this is over and known
    if not draft.view.order_left(attempt.uid):
        end_all(draft, attempt, job, EndReason.NEVER_STARTED, "its node went silent before the order was sent")
        return
    if job.state is not JobState.LOST:
        attempt = draft.put_attempt(replace(attempt, lost_since=draft.now.wall))
        job = move(draft, job, JobEvent.SILENCE)
    if attempt.on_lost is OnLost.FENCE:
        # lost_after exceeds lease + grace + kill, counted from when the node was last heard: its supervisor, which
        # needs nobody's word for it, has ended the attempt by now.
        end_on(draft, attempt, job, name, EndReason.NODE_LOST, "its node was silent and the lease ended it there")


def end_on(draft: Draft, attempt: Attempt, job: Job, name: NodeName | None, reason: EndReason, text: str) -> Job:
    """Ends the rank on a node, for a reason the controller itself knows to be true; its siblings are stopped.

    Without a node every rank.
    """
    gone = ExitRecord(reason, draft.now.wall, text=text)
    ranks = tuple(
        replace(rank, phase=RankPhase.ENDED, exit=gone)
        if rank.phase is not RankPhase.ENDED and name in (None, rank.node)
        else rank
        for rank in attempt.ranks
    )
    return _rank_ended(draft, draft.put_attempt(replace(attempt, ranks=ranks)), job)


def end_all(draft: Draft, attempt: Attempt, job: Job, reason: EndReason, text: str) -> Job:
    """Ends every rank that has not ended yet, for a reason the controller itself knows to be true."""
    return end_on(draft, attempt, job, None, reason, text)


# ---------------------------------------------------------------- the end


def _conclude(draft: Draft, attempt: Attempt, job: Job) -> Job:
    """All ranks have ended: the attempt gives its GPUs back and the job moves on."""
    rank = telling_rank(attempt)
    exit = rank.exit
    assert exit is not None
    verdict = judge(job, attempt, rank, exit, _has_no_account(draft, job, rank))
    if job.state is JobState.ALLOCATED and verdict.event not in (JobEvent.REQUEUE, JobEvent.FAIL):
        job = move(draft, job, JobEvent.ACCEPT)  # it came and went between two reports
    if job.state is JobState.STARTING and verdict.event not in (JobEvent.REQUEUE, JobEvent.FAIL):
        job = move(draft, job, JobEvent.LAUNCH)
    draft.put_attempt(replace(attempt, ended_at=draft.now.wall, cause=verdict.cause))
    for name in {rank.node for rank in attempt.ranks}:
        note_drained(draft, name)
    started_at = rank.started_at or job.started_at
    if verdict.event is JobEvent.REQUEUE:
        return _queue_again(draft, job, verdict)
    job = move(
        draft,
        job,
        verdict.event,
        started_at=started_at,
        finished_at=max(_on_our_clock(draft, attempt, exit.ended_at), started_at or 0.0),
        exit_code=exit.exit_code,
        signal=exit.signal,
        cause=verdict.cause,
    )
    ended(draft, job)
    return job


def _on_our_clock(draft: Draft, attempt: Attempt, at: float) -> float:
    """A time by a node's clock, which may be wrong by anything: it was after the grant, and is over."""
    return max(attempt.granted_at, min(at, draft.now.wall))


def note_drained(draft: Draft, name: NodeName) -> None:
    """Says so when nothing is left on a draining node."""
    node = draft.node(name)
    if node is None or not node.draining:
        return
    held = (draft.attempt(attempt.uid) for attempt in draft.view.attempts_on(name))
    if not any(attempt is not None and attempt.live for attempt in held):
        draft.event("node.drained", "nothing runs there any more", node=name)


def _queue_again(draft: Draft, job: Job, verdict: Verdict) -> Job:
    retries = job.retries_used + verdict.retries
    policy = draft.policy
    losses = job.losses_used + verdict.losses
    wait = 0.0
    # A node that turns every order down at once (its disk is full, its GPUs were swapped) is often the best fit again:
    # without a pause it would use up the whole budget of every job within a second.
    tries = retries if verdict.retries else losses if verdict.losses and _turned_down(verdict) else 0
    if tries:
        wait = min(policy.retry_backoff * 2.0 ** min(tries - 1, 20), policy.retry_backoff_max)
    text = "" if verdict.cause is None else verdict.cause.text
    draft.event("attempt.ended", f"attempt {job.attempt}: {text}", job=job, attempt=job.attempt, user=job.user)
    return move(
        draft,
        job,
        JobEvent.REQUEUE,
        queued_at=draft.now.wall,
        eligible_at=draft.now.wall + wait if wait else None,
        retries_used=retries,
        losses_used=losses,
        started_at=None,
        cause=None,
    )


def _turned_down(verdict: Verdict) -> bool:
    return verdict.cause is not None and verdict.cause.code is CauseCode.NEVER_STARTED


def _has_no_account(draft: Draft, job: Job, rank: Rank) -> bool:
    """Whether a rank's node says that it runs no jobs of this account: then it is not chosen again."""
    node = draft.node(rank.node)
    known = None if node is None else node.inventory
    return known is not None and bool(known.accounts.refusal(job.request.account))


# ---------------------------------------------------------------- what else an end brings


def ended(draft: Draft, job: Job) -> None:
    """A job has reached a final state: settles who waited for it, and its array if it was the last element.

    That may end others; they are settled one after the other, for a chain of dependencies can be any length.
    """
    draft.unsettled.append(job)
    if len(draft.unsettled) > 1:
        return  # by the loop below, further up
    while draft.unsettled:
        job = draft.unsettled[0]
        _settle_dependents(draft, job)
        row = None if job.index is None else draft.job(job.array_id)
        if row is not None:
            fold_array(draft, row)
        draft.unsettled.popleft()


def fold_array(draft: Draft, row: Job) -> None:
    """Ends an array's record once no element is left to end."""
    if row.array is None or row.state in FINAL or row.array.waiting:
        return
    counts = arrays.with_unmade(row, draft.element_counts(row.id))
    if any(state not in FINAL for state in counts):
        return
    state = fold(counts)
    cause = row.cause
    if state is JobState.SUCCEEDED or (
        cause is not None and (cause.code is CauseCode.CANCELED) != (state is JobState.CANCELED)
    ):
        cause = None  # the rest was canceled after some had failed: the elements say more than one cause could
    if state is JobState.CANCELED and cause is None:
        cause = Cause(CauseCode.CANCELED, "element by element")
    row = draft.put_job(replace(row, state=state, finished_at=draft.now.wall, cause=cause))
    draft.event(f"job.{row.state.value.lower()}", "all elements have ended", job=row, user=row.user)
    ended(draft, row)


def _settle_dependents(draft: Draft, job: Job) -> None:
    """Takes a met dependency from those who wait; fails those for whom it can never come true, and their waiters."""
    for waiting in draft.view.dependents(job.id):
        current = draft.job(waiting.id)
        if current is None or current.state is not JobState.QUEUED:
            continue
        mine = [d for d in current.waits_for if d.job == job.id]
        if all(d.met_by(job.state) for d in mine):
            rest = tuple(d for d in current.waits_for if d.job != job.id)
            draft.put_job(replace(current, waits_for=rest, queued_at=draft.now.wall))
        else:
            wanted = next(d.kind for d in mine if not d.met_by(job.state))
            fail_dependency(draft, current, wanted, job)


def fail_dependency(draft: Draft, job: Job, wanted: DependencyKind, other: Job) -> None:
    text = f"{wanted.value}:{other.id} can never come true: {other.id} is {other.state.value}"
    _end_queued(draft, job, JobEvent.FAIL, Cause(CauseCode.DEPENDENCY, text))


def fail_unscheduled(draft: Draft, job: Job) -> None:
    """The scheduling timeout of a queued job is over."""
    text = f"did not start within {format_duration(job.scheduling_timeout_seconds)}"
    _end_queued(draft, job, JobEvent.FAIL, Cause(CauseCode.SCHEDULING_TIMEOUT, text))


def cancel_queued(draft: Draft, job: Job, by: str) -> None:
    _end_queued(draft, job, JobEvent.CANCEL, Cause(CauseCode.CANCELED, f"by {by}"))


def _end_queued(draft: Draft, job: Job, event: JobEvent, cause: Cause) -> None:
    """The end of a job that is not running. Of an array, its waiting elements; those made come to their own ends."""
    if job.array is not None:
        dropped = job.array.dropped + arrays.count(job.array.waiting)
        job = draft.put_job(replace(job, array=replace(job.array, waiting=(), dropped=dropped), cause=cause))
        if draft.element_counts(job.id):
            fold_array(draft, job)
            return
    ended(draft, move(draft, job, event, finished_at=draft.now.wall, cause=cause))
