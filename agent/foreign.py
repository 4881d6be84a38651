"""Which GPUs somebody uses to whom gpuq did not give them, and when they are calm again. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuq.gpu_use import ForeignUse, GpuProcess

# How long a GPU must have been free of others before it gets work again: scripts that run in a loop leave gaps.
CALM_SECONDS = 60.0
UNEXPLAINED_BYTES = 1 << 30  # used by no process that can be seen; below it is what drivers keep and displays draw with
# Displays, monitors and the driver's own servers: on the GPU, and in nobody's way. Names as the kernel cuts them off.
_HARMLESS = frozenset(
    name[:15]
    for name in (
        "Xorg",
        "Xwayland",
        "gnome-shell",
        "kwin_x11",
        "kwin_wayland",
        "plasmashell",
        "mutter",
        "weston",
        "sway",
        "Hyprland",
        "nvidia-smi",
        "nvidia-persistenced",
        "nvidia-cuda-mps-server",
        "nv-hostengine",
        "dcgm-exporter",
        "dcgmi",
        "nvtop",
        "nvitop",
        "gpustat",
        "btop",
    )
)


def is_harmless(process: GpuProcess) -> bool:
    """Whether a process on a GPU is a display, a monitor, or of the driver itself."""
    return process.command in _HARMLESS


@dataclass(slots=True)
class _Watched:
    """One GPU: since when (wall) each intruder has been seen, what was told last, and until when that stands."""

    seen: dict[int, float] = field(default_factory=dict)
    memory_since: float | None = None
    told: ForeignUse | None = None
    present_at: float = 0.0  # monotonic


class ForeignUses:
    """Since when each GPU of a machine is used by others. GPUs go by uuid."""

    def __init__(self) -> None:
        self._gpus: dict[str, _Watched] = {}

    def observe(
        self, uuid: str, intruders: Sequence[GpuProcess], unexplained: int, now: float, wall: float
    ) -> ForeignUse | None:
        """Takes a reading; gives the use to speak of, None of a GPU that is calm. unexplained is in bytes.

        Of several intruders the one seen longest is named, so that what is said changes as rarely as it can. Memory
        counts from the second reading in a row: what a process leaves behind the driver takes a moment to clear.
        """
        watched = self._gpus.setdefault(uuid, _Watched())
        here = {process.pid: process for process in intruders}
        watched.seen = {pid: watched.seen.get(pid, wall) for pid in here}
        before, watched.memory_since = watched.memory_since, None
        if unexplained > UNEXPLAINED_BYTES:
            watched.memory_since = wall if before is None else before
        use = _oldest(here, watched.seen)
        if use is None and before is not None and watched.memory_since is not None:
            told = watched.told
            use = told if told is not None and told.pid is None else ForeignUse(before, memory_used_bytes=unexplained)
        if use is not None:
            watched.told, watched.present_at = use, now
        elif watched.told is not None and now - watched.present_at >= CALM_SECONDS:
            watched.told = None
        return watched.told


def _oldest(here: Mapping[int, GpuProcess], seen: Mapping[int, float]) -> ForeignUse | None:
    if not here:
        return None
    process = here[min(here, key=lambda pid: (seen[pid], pid))]
    return ForeignUse(seen[process.pid], process.pid, process.user, process.command, process.job)


def in_words(use: ForeignUse) -> str:
    """'in use by bob, pid 4242 (python)'; without times, which are for whoever shows it."""
    if use.pid is None:
        return f"{(use.memory_used_bytes or 0) / (1 << 30):.1f} GiB in use by no process that can be seen"
    who = f"job {use.job}, which was not given it" if use.job is not None else use.user or "somebody"
    return f"in use by {who}, pid {use.pid}" + (f" ({use.command})" if use.command else "")
