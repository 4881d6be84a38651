"""What an attempt's end means for its job, told from the records alone. Pure.

What really happened counts first, what was asked for second.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuq.model import Attempt, Cause, CauseCode, EndReason, ExitRecord, Job, Rank, StopKind
from gpuq.states import JobEvent
from gpuq.units import format_size

# Nobody wanted an end for good: a failure that came first counts as if nobody had asked for anything.
_NOT_ASKED_FOR = (None, StopKind.VANISHED, StopKind.SIBLING, StopKind.DRAIN, StopKind.PREEMPT, StopKind.GPU_MEMORY)
_FINE = 3  # a severity, see below


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt's end means for its job. retries and losses are what it takes from the two budgets."""

    event: JobEvent
    cause: Cause | None
    retries: int = 0
    losses: int = 0


def _severity(rank: Rank) -> int:
    """How much a rank's end says of why its gang ended, least first: its node or its time was up, it failed by itself,
    it was stopped for another reason, it is _FINE.
    """
    exit = rank.exit
    if exit is None or (exit.reason is EndReason.EXITED and exit.exit_code == 0 and exit.stopped is None):
        return _FINE
    if exit.reason is EndReason.NODE_LOST or exit.stopped in (StopKind.TIME_LIMIT, StopKind.FENCE):
        return 0  # its siblings may have failed because of it, and before it was known
    return 1 if exit.stopped is None else 2


def is_failure(rank: Rank) -> bool:
    """Whether a rank has ended, and not well."""
    return _severity(rank) < _FINE


def telling_rank(attempt: Attempt) -> Rank:
    """The rank whose end is that of the attempt: of those that say most the one that ended first."""
    return min(attempt.ranks, key=lambda rank: (_severity(rank), rank.exit.ended_at if rank.exit else 0.0))


def judge(job: Job, attempt: Attempt, rank: Rank, exit: ExitRecord, no_account: bool = False) -> Verdict:
    """The verdict on an ended attempt.

    no_account: the telling rank's node does not run this user's jobs. To find that out costs the job nothing.
    """
    wish = None if attempt.stop is None else attempt.stop.kind
    if wish in (None, StopKind.SIBLING) and exit.stopped in (StopKind.CANCEL, StopKind.REQUEUE):
        wish = exit.stopped  # asked for by a controller that was restored since, and forgot
    canceled = Cause(CauseCode.CANCELED, f"by {attempt.stop.by}" if attempt.stop else "by request")
    succeeded = exit.reason is EndReason.EXITED and exit.stopped is None and exit.exit_code == 0
    if exit.gpu_fault and not succeeded and wish not in (StopKind.CANCEL, StopKind.REQUEUE):
        cause = Cause(CauseCode.GPU_FAULT, exit.gpu_fault)
        return _loss(job, cause) if job.requeue else Verdict(JobEvent.FAIL, cause)
    if exit.reason is EndReason.EXITED and exit.stopped is None:
        if exit.exit_code == 0 and wish is not StopKind.REQUEUE:
            return Verdict(JobEvent.SUCCEED, None)
        if wish is StopKind.REQUEUE:
            return Verdict(JobEvent.REQUEUE, Cause(CauseCode.REQUEUED, "requeued"))
        if exit.oom_kills:
            return _own_failure(job, wish, Cause(CauseCode.OOM, _oom_text(rank, exit.oom_kills)))
        if exit.gpu_oom:
            return _own_failure(job, wish, Cause(CauseCode.GPU_OOM, exit.gpu_oom))
        if exit.signal is not None:
            return _own_failure(job, wish, Cause(CauseCode.SIGNAL, exit.text or f"killed by signal {exit.signal}"))
        return _own_failure(job, wish, Cause(CauseCode.EXIT_CODE, exit.text or f"exit code {exit.exit_code}"))
    if wish is StopKind.CANCEL:
        return Verdict(JobEvent.CANCEL, canceled)
    if wish is StopKind.REQUEUE:
        return Verdict(JobEvent.REQUEUE, Cause(CauseCode.REQUEUED, "requeued"))
    told = exit.stopped is StopKind.REQUEUE or exit.reason is EndReason.NEVER_STARTED
    if attempt.stop is not None and wish is StopKind.DRAIN and told:
        return Verdict(JobEvent.REQUEUE, Cause(CauseCode.DRAINED, attempt.stop.text))
    if attempt.stop is not None and wish is StopKind.PREEMPT and told:
        cause = Cause(CauseCode.PREEMPTED, attempt.stop.text)
        return _loss(job, cause) if rank.started_at is not None else Verdict(JobEvent.REQUEUE, cause)
    if attempt.stop is not None and wish is StopKind.GPU_MEMORY and told:
        return _own_failure(job, wish, Cause(CauseCode.GPU_MEMORY, attempt.stop.text))
    if exit.reason is EndReason.NODE_LOST or exit.stopped is StopKind.FENCE:
        cause = Cause(CauseCode.NODE_LOST, exit.text or f"node {rank.node} was lost")
        return _loss(job, cause) if job.requeue else Verdict(JobEvent.FAIL, cause)
    if exit.stopped is StopKind.TIME_LIMIT:
        in_setup = f"reached its time limit: {exit.text}" if exit.reason is EndReason.SETUP_FAILED else ""
        text = in_setup or exit.text or "reached its time limit"
        return _own_failure(job, wish, Cause(CauseCode.TIME_LIMIT, text))
    if exit.reason is EndReason.NEVER_STARTED and rank.started_at is None and wish in (None, StopKind.SIBLING):
        cause = Cause(CauseCode.NEVER_STARTED, exit.text or "never started")
        return Verdict(JobEvent.REQUEUE, cause) if no_account else _loss(job, cause)
    if exit.reason is EndReason.SETUP_FAILED:
        return _own_failure(job, wish, Cause(CauseCode.SETUP_FAILED, exit.text or "set-up failed"))
    if exit.reason is EndReason.LAUNCH_FAILED:
        return _own_failure(job, wish, Cause(CauseCode.LAUNCH_FAILED, exit.text or "could not be launched"))
    # An agent that had forgotten the attempt can only say that it never started there: it had, so that is not why.
    text = attempt.stop.text if attempt.stop is not None and wish is StopKind.VANISHED else exit.text
    return _own_failure(job, wish, Cause(CauseCode.SUPERVISOR_LOST, text or "its supervisor was lost"))


def _oom_text(rank: Rank, kills: int) -> str:
    had = f"; its limit was {format_size(rank.memory_bytes)}" if rank.memory_bytes else ""
    return f"memory on {rank.node} was short: the kernel killed {kills} of its processes{had}"


def _own_failure(job: Job, wish: StopKind | None, cause: Cause) -> Verdict:
    """A failure of the job itself: again while --max-retries lasts, unless someone has asked it to end."""
    if wish in _NOT_ASKED_FOR and job.retries_used < job.max_retries:
        return Verdict(JobEvent.REQUEUE, cause, retries=1)
    return Verdict(JobEvent.FAIL, cause)


def _loss(job: Job, cause: Cause) -> Verdict:
    if job.losses_used < job.max_losses:
        return Verdict(JobEvent.REQUEUE, cause, losses=1)
    return Verdict(JobEvent.FAIL, cause)
