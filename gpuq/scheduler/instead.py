"""What would start now in place of a job that does not: less of one thing that it asks for."""

from __future__ import annotations

from dataclasses import replace

from gpuq.model import Job, Now
from gpuq.scheduler.claim import settle
from gpuq.scheduler.plan import OURS, SCHEMES, Pass
from gpuq.settings import span
from gpuq.units import plural
from gpuq.view import ClusterView, Policy

# Of a gap, what an advised time limit leaves: it takes a moment to read it and submit anew.
_MARGIN = 0.1
_MINUTE = 60
_LONGEST = 7 * 24 * 60  # minutes: where nobody knows when the gap ends, any limit will do


def instead(view: ClusterView, job: Job, now: Now, policy: Policy) -> list[str]:
    """In words, each to stand behind 'would start now'; empty for a job that starts itself, and where nothing helps.

    Each is tried behind all others that wait, so that it holds whoever is submitted first; the job itself is not there.
    """
    claims = settle(view, now, policy)
    open_rooms = [room for room in claims.rooms if not room.closed and room.ranks > 0]
    others = Pass(view, now, policy, SCHEMES[OURS], open_rooms, claims, but=job.id)
    others.run()
    request = job.request

    def starts(**asked: object) -> bool:
        return others.would_start(replace(job, request=replace(request, **asked)))  # type: ignore[arg-type]

    if others.would_start(job):
        return []
    found = []
    each, nodes = request.gpus_per_node, request.nodes
    fewer = next((n for n in range(each - 1, 0, -1) if starts(gpus_per_node=n)), None)
    if fewer is not None:
        found.append(f"with {fewer} {plural(fewer, 'GPU')}{' on each node' if nodes > 1 else ''}")
    part = next((n for n in range(nodes - 1, 0, -1) if starts(nodes=n)), None)
    if part is not None:
        found.append(f"on {part} {plural(part, 'node')}")
    if request.gpu_type is not None and starts(gpu_type=None):
        found.append(f"on GPUs other than {request.gpu_type}")
    if request.constraint and starts(constraint=""):
        found.append("without -C")
    if request.exclusive and starts(exclusive=False):
        found.append("without --exclusive")
    for kept in others.reserved:
        minutes = min(_LONGEST, int((kept.at - now.wall) * (1 - _MARGIN) / _MINUTE))
        if minutes and others.would_start(replace(job, time_limit_seconds=minutes * _MINUTE)):
            found.append(f"with -t {span(minutes * _MINUTE)}")
    return found
