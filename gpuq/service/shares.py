"""What becomes of jobs that take more memory of a GPU than their share: it is said, and by the settings they are ended.

Neighbours on that GPU are left alone. Nothing is kept of it: for how long it has gone on is the agent's word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gpuq.model import Attempt, AttemptUid, NodeName, Rank, StopKind
from gpuq.protocol import Overuse
from gpuq.service import execution
from gpuq.service.draft import Draft
from gpuq.settings import ClusterSettings, SharedGpuMemory, span
from gpuq.states import JobState
from gpuq.units import format_size


def police(draft: Draft, name: NodeName, told: Iterable[Overuse], warned: Collection[AttemptUid]) -> None:
    """Takes a node's word on who is beyond its share there; warned are those of whom that was said before."""
    after = stopped_after(draft.view.settings.cluster)
    for over in told:
        attempt = draft.attempt(over.uid)
        job = None if attempt is None else draft.job(attempt.job)
        rank = None if attempt is None else beyond(attempt, name, over)
        if attempt is None or job is None or rank is None or job.state is JobState.STOPPING:
            continue  # it is on its way out, or the records do not bear the word out
        used = f"{format_size(over.used_bytes)} of GPU {over.gpu} of {name}"
        more = f"{format_size(over.used_bytes - (rank.gpu_share_bytes or 0))} more than it asked for"
        if over.uid not in warned:
            text = f"uses {used}, {more}" + ("" if after is None else f": stopped after {span(after)} of that")
            draft.event("gpu.overused", text, job=job, attempt=attempt.number, node=name, user=job.user)
        if after is not None and over.seconds >= after:
            text = f"used {used} for {span(int(over.seconds))}, {more}: raise --gpu-mem"
            execution.stop(draft, attempt, job, StopKind.GPU_MEMORY, "gpuq", text)


def stopped_after(settings: ClusterSettings) -> int | None:
    """Seconds of overuse after which a job is stopped; None if it never is."""
    return settings.shared_gpu_memory_grace if settings.shared_gpu_memory is SharedGpuMemory.STOP else None


def beyond(attempt: Attempt, name: NodeName, over: Overuse) -> Rank | None:
    """The rank whose overuse this is; None if by the records it is none's, or the attempt is told to end already."""
    if not attempt.live or attempt.stop is not None:
        return None
    rank = next((rank for rank in attempt.ranks if rank.node == name), None)
    if rank is None or rank.gpu_share_bytes is None or over.gpu not in rank.gpus:
        return None
    return rank if over.used_bytes > rank.gpu_share_bytes else None
