"""Who uses a GPU, and what a job made of those it had. None means 'not known', never zero."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU. user and command are None where the machine does not tell.

    job is the id of the job it belongs to, None for one of nobody's that gpuq started.
    """

    pid: int
    memory_used_bytes: int | None = None
    user: str | None = None
    command: str | None = None  # its name, as the kernel has it: at most 15 characters
    job: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignUse:
    """Use of a GPU that gpuq did not grant: the longest there is, and it stands until the GPU was calm for a while.

    pid is None for memory that no process accounts for. job is set for one of gpuq's own jobs, on a GPU it was not
    given. since is when this agent first saw it.
    """

    since: float
    pid: int | None = None
    user: str | None = None
    command: str | None = None
    job: str | None = None
    memory_used_bytes: int | None = None  # of memory without a process only


CURVE_POINTS = 40  # enough for a line of a terminal, few enough to be kept with every attempt


@dataclass(frozen=True, slots=True)
class GpuReceipt:
    """What one rank made of its GPUs between its launch and its end, as its agent read them every few seconds.

    Seconds are those of the rank, not of each GPU. observed_seconds is less than it ran where nobody looked: while the
    agent was not there, or the driver did not answer. The curves have at most CURVE_POINTS points, each of
    point_seconds of the observed time: how busy its GPUs were in the mean, and the most memory on one of them.
    """

    observed_seconds: float
    idle_seconds: float = 0.0  # of the observed: none of its GPUs did anything
    utilization_percent: float | None = None  # the mean over time and GPUs
    memory_peak_bytes: int | None = None  # the most on one GPU
    energy_joules: float | None = None
    point_seconds: float = 0.0
    busy_percent: tuple[int, ...] = ()
    memory_mib: tuple[int, ...] = ()
