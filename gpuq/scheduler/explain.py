"""Why a queued job waits, in a typed reason with its numbers, from the same checks that place jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuq.model import Dependency, Job, JobId, Lane, NodeName, Now, Request
from gpuq.reasons import WaitCode, WaitReason
from gpuq.scheduler import fit
from gpuq.scheduler.backfill import Hold
from gpuq.scheduler.claim import Claims, awaited, settle
from gpuq.scheduler.forecast import NEVER_SECONDS, Start, held_until, starts
from gpuq.scheduler.limits import max_running, startable
from gpuq.scheduler.order import Key, Order, by_expectation
from gpuq.scheduler.plan import plan
from gpuq.scheduler.quota import Quotas
from gpuq.settings import span
from gpuq.states import JobState, NodeState
from gpuq.units import format_time, plural
from gpuq.view import ClusterView, Plan, Policy, Preemption, Reserved

_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class _Line:
    """Those who ask for the same: what they are short of, and who of them is first."""

    resources: WaitReason
    head: Key | None  # of the first that may start: it is offered what comes free
    behind: WaitReason | None  # what the others are told


class Explainer:
    """Reasons as of one instant, for as many jobs as are asked about.

    What jobs with equal requests share is worked out once. Not to be kept while the cluster changes.
    """

    def __init__(self, view: ClusterView, now: Now, policy: Policy) -> None:
        self._view, self._now, self._policy = view, now, policy
        self._claims: Claims | None = None
        self._lines: dict[Request, _Line] = {}
        self._heads: dict[Request, tuple[Key, Job]] | None = None
        self._order: Order | None = None
        self._quotas: Quotas | None = None
        self._planned: Plan | None = None
        self._starts: Mapping[JobId, Start] | None = None

    def reason(self, job: Job) -> WaitReason | None:
        """The first thing that stands between this job and a start; None for a job that is not QUEUED."""
        if job.state is not JobState.QUEUED:
            return None
        if job.array is not None and not job.array.waiting:
            queued = (element for element in self._view.elements(job.id) if element.state is JobState.QUEUED)
            first = next(queued, None)
            return None if first is None else self.reason(first)
        if not job.ready:
            return _not_ready(job, self._now)
        if job.id in self._settled.jobs:
            return _made_room(self._view, job)
        if not startable(self._view, job):
            return WaitReason(WaitCode.ARRAY_LIMIT, _array_limit(max_running(self._view, job)))
        if self._quotas is None:
            self._quotas = Quotas(self._view, self._now, self._settled.jobs.values())
        if over := self._quotas.reason(job):
            return over
        line = self._lines.get(job.request) or self._line(job.request)
        if line.head is not None and line.head < self._key(job.lane, job):
            return line.behind
        return line.resources

    @property
    def _settled(self) -> Claims:
        if self._claims is None:
            self._claims = settle(self._view, self._now, self._policy)
        return self._claims

    def _key(self, lane: Lane, job: Job) -> Key:
        if self._order is None:
            self._order = by_expectation(self._view, self._now)
        return self._order(lane, job)

    def start(self, job: Job) -> Start | None:
        """When a queued job is expected to start, if all goes on as it is; None where that cannot be said."""
        if self._starts is None:
            self._starts = starts(self._view, self._now, self._policy)
        return self._starts.get(job.id)

    def _held_back(self, request: Request) -> WaitReason | None:
        """Why what fits does not start: it could delay the one for whom room is kept. None if it does start."""
        if self._planned is None:
            self._planned = plan(self._view, self._now, self._policy, preempts=False)
        jobs = (self._view.job(placement.job) for placement in self._planned.placements)
        if not self._planned.reserved or any(job is not None and job.request == request for job in jobs):
            return None
        kept = self._planned.reserved[0]
        first = self._view.job(kept.job)
        start = None if kept.bounded or first is None else self.start(first)
        if start is None and kept.at - self._now.wall > NEVER_SECONDS:
            return WaitReason(WaitCode.RESERVED, f"fits, but room is kept for {kept.job}, and no time limit says when")
        when = expected(start or kept, self._now)
        return WaitReason(WaitCode.RESERVED, f"fits, but room is kept for {kept.job}, {when}")

    def _line(self, request: Request) -> _Line:
        resources = _resources(self._view, self._settled.rooms, request, self._policy)
        if resources.code is WaitCode.PLACING:
            resources = self._held_back(request) or resources
        if self._heads is None:
            self._heads = self._first_of_each()
        key, head = self._heads.get(request, (None, None))
        if head is None or resources.code in (WaitCode.NO_NODES, WaitCode.ACCOUNT, WaitCode.TOO_LARGE):
            line = _Line(resources, None, None)  # true of all who ask for this: nobody waits for who is ahead
        else:
            line = _Line(resources, key, WaitReason(WaitCode.BEHIND, f"behind {head.id}"))
        self._lines[request] = line
        return line

    def _first_of_each(self) -> dict[Request, tuple[Key, Job]]:
        """By request, the first in the plan's order that may start, with its key."""
        quotas = self._quotas or Quotas(self._view, self._now, self._settled.jobs.values())
        firsts: dict[Request, tuple[Key, Job]] = {}
        for request, lanes in self._view.ready().items():
            for lane, members in lanes:
                may = (job for job in members if job.id not in self._settled.jobs and startable(self._view, job))
                job = next(may, None)
                if job is None or quotas.starts(job) == 0:
                    continue
                key = self._key(lane, job)
                if request not in firsts or key < firsts[request][0]:
                    firsts[request] = key, job
        return firsts


def expected(start: Start | Reserved, now: Now) -> str:
    """'expected in 20m', or 'in 20m at the latest' where time limits say so."""
    seconds = max(0, round(start.at - now.wall))
    if seconds > _HOUR:
        seconds = round(seconds / 60) * 60  # of an estimate nobody reads the seconds
    when = f"in {span(seconds)}" if seconds else "now"
    return f"{when} at the latest" if start.bounded else f"expected {when}"


def explain(view: ClusterView, job: Job, now: Now, policy: Policy) -> WaitReason | None:
    """The reason of one job; see Explainer."""
    return Explainer(view, now, policy).reason(job)


def _not_ready(job: Job, now: Now) -> WaitReason | None:
    if job.held_by:
        return WaitReason(WaitCode.HELD, f"held by {job.held_by}")
    if job.waits_for:
        return WaitReason(WaitCode.DEPENDENCY, "waits for " + ", ".join(map(_dependency, job.waits_for)))
    if job.eligible_at is not None:
        if job.retries_used or job.losses_used:
            seconds = max(0, round(job.eligible_at - now.wall))
            return WaitReason(WaitCode.BACKOFF, f"tries again in {seconds} s")
        return WaitReason(WaitCode.BEGIN, f"begins {format_time(job.eligible_at)}")
    return None


def _made_room(view: ClusterView, job: Job) -> WaitReason:
    leaving = awaited(view, job)
    if not leaving:
        return WaitReason(WaitCode.PLACING, "starts with the next plan")
    where = ", ".join(rank.node for rank in job.claim)
    return WaitReason(
        WaitCode.PREEMPTING, f"room is made for it on {where}: waits for the end of {_first_of(list(leaving))}"
    )


def would_stop(view: ClusterView, preemption: Preemption) -> WaitReason:
    """What is said of a job for which others would be stopped."""
    attempts = (view.attempt(uid) for uid in preemption.victims)
    which = _first_of([attempt.job for attempt in attempts if attempt is not None])
    where = ", ".join(rank.node for rank in preemption.ranks)
    return WaitReason(WaitCode.PREEMPTING, f"room would be made for it on {where} by stopping {which}")


def _array_limit(limit: int | None) -> str:
    elements = "1 element of the array runs" if limit == 1 else f"{limit} elements of the array run"
    return f"{elements} at once, as its %{limit} allows"


def _dependency(dependency: Dependency) -> str:
    what = {"afterok": "success", "afterany": "end", "afternotok": "failure"}[dependency.kind.value]
    return f"the {what} of {dependency.job}"


def _resources(view: ClusterView, known: list[fit.Room], request: Request, policy: Policy) -> WaitReason:
    if not known:
        return WaitReason(WaitCode.NO_NODES, "no node has joined yet")
    capable = [room for room in known if fit.fits(fit.empty(room, policy), request)]
    if len(capable) < request.nodes:
        return _never(known, capable, request, policy)
    usable = [room for room in capable if not room.closed]
    if len(usable) < request.nodes:
        if not any(view.node_state(name) is NodeState.UP for name in view.nodes):
            return WaitReason(WaitCode.NO_NODES, "no node is up")
        which = _first_of([f"{room.name} {room.closed}" for room in capable if room.closed])
        of = f"{len(usable)} of the {request.nodes} nodes it needs take work" if usable else ""
        return WaitReason(WaitCode.NO_NODES, f"{of or 'no node that could run it takes work'}: {which}")
    fitting = sum(fit.fits(room, request) for room in usable)
    if fitting >= request.nodes:
        return WaitReason(WaitCode.PLACING, "starts with the next plan")
    return WaitReason(WaitCode.RESOURCES, _short(usable, fitting, request))


def _first_of(nodes: Sequence[str]) -> str:
    """What is said of each of some nodes, or some jobs, as far as a person wants to read it."""
    return ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")


def _never(known: list[fit.Room], capable: list[fit.Room], request: Request, policy: Policy) -> WaitReason:
    """Why the nodes present could not run it even if nothing else ran there; capable are those that could, too few."""
    if capable:
        which = _first_of([room.name for room in capable])
        can = f"only {len(capable)} could run a part of it: {which}"
        return WaitReason(WaitCode.TOO_LARGE, f"needs {request.nodes} nodes{_each(request)}, {can}")
    allowed = [room for room in known if fit.allowed(room.name, request)]
    if not allowed:
        return WaitReason(WaitCode.TOO_LARGE, "none of the nodes it may run on has joined")
    willing = [room for room in allowed if not room.inventory.accounts.refusal(request.account)]
    if not willing:
        which = _first_of([f"{room.name} {room.inventory.accounts.refusal(request.account)}" for room in allowed])
        chosen = " it may run on" if len(allowed) < len(known) else ""
        return WaitReason(WaitCode.ACCOUNT, f"no node{chosen} runs jobs of {request.account}: {which}")
    suited = [room for room in willing if fit.meets(room, request)]
    if not suited:
        return WaitReason(WaitCode.TOO_LARGE, f"no node that it may run on meets {request.constraint}")
    return WaitReason(WaitCode.TOO_LARGE, _too_large(suited, request, policy))


def _too_large(allowed: list[fit.Room], request: Request, policy: Policy) -> str:
    if request.gpus_per_node:
        most = max(len(fit.matching(fit.empty(room, policy), request)) for room in allowed)
        if most < request.gpus_per_node:
            what = fit.describe_gpus(request, request.gpus_per_node)
            on_one = " on one node" if request.gpus_per_node > 1 else ""
            have = f"the largest has {most}" if most else "no node has any"
            return f"needs {request.gpus_per_node} {what}{on_one}, {have}"
    largest = max(allowed, key=lambda room: (room.inventory.cpus, room.inventory.memory_total_bytes))
    short = fit.shortfalls(fit.empty(largest, policy), request)
    return f"no node could ever run it: the largest, {largest.name}, " + " and ".join(short)


def _each(request: Request) -> str:
    """' with 8 h100 GPUs', for what has to be on each of a job's nodes."""
    count = request.gpus_per_node
    return f" with {count} {fit.describe_gpus(request, count)}" if count else ""


def _short(usable: list[fit.Room], fitting: int, request: Request) -> str:
    """The shortfall of the nearest node: 'waits for 3 more h100 GPUs'."""
    if request.nodes > 1:
        missing = request.nodes - fitting
        have = f"{fitting} of {request.nodes} have room" if fitting else "none has room"
        return f"waits for {missing} more {plural(missing, 'node')}{_each(request)}: {have}"
    if request.gpus_per_node:
        most = max(len(fit.matching(room, request)) for room in usable)
        if most < request.gpus_per_node:
            on_one = " on one node" if len(usable) > 1 and request.gpus_per_node > 1 else ""
            missing = request.gpus_per_node - most
            what = fit.describe_gpus(request, missing)
            return f"waits for {missing} more {what}{on_one}{fit.kept_back(usable, request)}"
    nearest = min(usable, key=lambda room: len(fit.shortfalls(room, request)))
    return f"{nearest.name} " + " and ".join(fit.shortfalls(nearest, request))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has something of a node. until is None where neither a time limit nor a prediction says."""

    job: JobId
    gpus: int
    until: Hold | None


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What one node says to a request: short is empty exactly when it fits there now."""

    node: NodeName
    short: str
    holders: tuple[Holder, ...]


def by_node(view: ClusterView, job: Job, now: Now, policy: Policy) -> list[NodeAnswer]:
    """For each node by name what the job is short of there and, if it could ever run there, who holds that."""
    answers = []
    for room in settle(view, now, policy).rooms:
        short = " and ".join(fit.shortfalls(room, job.request))
        could = fit.fits(fit.empty(room, policy), job.request)
        answers.append(NodeAnswer(room.name, short, _holders(view, room.name, now) if short and could else ()))
    return answers


def _holders(view: ClusterView, name: NodeName, now: Now) -> tuple[Holder, ...]:
    return tuple(
        Holder(attempt.job, len(rank.gpus), held_until(view, now, attempt))
        for attempt in view.attempts_on(name)
        for rank in attempt.ranks
        if rank.node == name
    )
