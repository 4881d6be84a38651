"""Why a queued job waits, in a typed reason with its numbers, from the same checks that place jobs."""

from __future__ import annotations

from dataclasses import dataclass

from gpuq.model import Dependency, Job, NodeName, Now, Request, WaitCode, WaitReason
from gpuq.scheduler import fit
from gpuq.scheduler.limits import max_running, startable
from gpuq.states import JobState, NodeState
from gpuq.units import format_time
from gpuq.view import ClusterView, Policy


@dataclass(frozen=True, slots=True)
class _Line:
    """Those who ask for the same: what they are short of, and who of them is first."""

    resources: WaitReason
    head: tuple[int, int, int] | None  # the rank of the first that may start: it is offered what comes free
    behind: WaitReason | None  # what the others are told


class Explainer:
    """Reasons as of one instant, for as many jobs as are asked about.

    What jobs with equal requests share is worked out once. Not to be kept while the cluster changes.
    """

    def __init__(self, view: ClusterView, now: Now, policy: Policy) -> None:
        self._view, self._now, self._policy = view, now, policy
        self._rooms: list[fit.Room] | None = None
        self._lines: dict[Request, _Line] = {}

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
        if not startable(self._view, job):
            return WaitReason(WaitCode.ARRAY_LIMIT, _array_limit(max_running(self._view, job)))
        line = self._lines.get(job.request) or self._line(job.request)
        if line.head is not None and line.head < job.rank_in_queue:
            return line.behind
        return line.resources

    def _line(self, request: Request) -> _Line:
        if self._rooms is None:
            self._rooms = fit.rooms(self._view, self._policy)
        resources = _resources(self._view, self._rooms, request, self._policy)
        members = self._view.ready().get(request, ())
        head = next((job for job in members if startable(self._view, job)), None)
        if head is None or resources.code in (WaitCode.NO_NODES, WaitCode.ACCOUNT, WaitCode.TOO_LARGE):
            line = _Line(resources, None, None)  # true of all who ask for this: nobody waits for who is ahead
        else:
            line = _Line(resources, head.rank_in_queue, WaitReason(WaitCode.BEHIND, f"behind {head.id}"))
        self._lines[request] = line
        return line


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
    if not capable:
        return _never(known, request, policy)
    usable = [room for room in capable if not room.closed]
    if not usable:
        if not any(view.node_state(name) is NodeState.UP for name in view.nodes):
            return WaitReason(WaitCode.NO_NODES, "no node is up")
        which = _first_of([f"{room.name} {room.closed}" for room in capable])
        return WaitReason(WaitCode.NO_NODES, f"no node that could run it takes work: {which}")
    if any(fit.fits(room, request) for room in usable):
        return WaitReason(WaitCode.PLACING, "starts with the next plan")
    return WaitReason(WaitCode.RESOURCES, _short(usable, request))


def _first_of(nodes: list[str]) -> str:
    """What is said of each of some nodes, as far as a person wants to read it."""
    return ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")


def _never(known: list[fit.Room], request: Request, policy: Policy) -> WaitReason:
    """Why no node present could run it even if nothing else ran there."""
    allowed = [room for room in known if fit.allowed(room.name, request)]
    if not allowed:
        return WaitReason(WaitCode.TOO_LARGE, "none of the nodes it may run on has joined")
    willing = [room for room in allowed if not room.inventory.accounts.refusal(request.account)]
    if not willing:
        which = _first_of([f"{room.name} {room.inventory.accounts.refusal(request.account)}" for room in allowed])
        chosen = " it may run on" if len(allowed) < len(known) else ""
        return WaitReason(WaitCode.ACCOUNT, f"no node{chosen} runs jobs of {request.account}: {which}")
    return WaitReason(WaitCode.TOO_LARGE, _too_large(willing, request, policy))


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


def _short(usable: list[fit.Room], request: Request) -> str:
    """The shortfall of the nearest node: 'waits for 3 more h100 GPUs'."""
    if request.gpus_per_node:
        most = max(len(fit.matching(room, request)) for room in usable)
        if most < request.gpus_per_node:
            on_one = " on one node" if len(usable) > 1 and request.gpus_per_node > 1 else ""
            missing = request.gpus_per_node - most
            what = fit.describe_gpus(request, missing)
            return f"waits for {missing} more {what}{on_one}{fit.kept_back(usable, request)}"
    nearest = min(usable, key=lambda room: len(fit.shortfalls(room, request)))
    return f"{nearest.name} " + " and ".join(fit.shortfalls(nearest, request))


def shortfalls(view: ClusterView, job: Job, policy: Policy) -> list[tuple[NodeName, bool, str]]:
    """For each node by name: (node, whether the job fits there now, what is short or '')."""
    out = [(room.name, fit.shortfalls(room, job.request)) for room in fit.rooms(view, policy)]
    return [(name, not short, " and ".join(short)) for name, short in out]
