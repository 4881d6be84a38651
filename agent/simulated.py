"""Pretend GPUs for `--simulate-gpus 8xH100-80GB`: what they are, and readings that behave like a GPU at work.

A reading is a pure function of the GPU, since when it is held, and now. So it is the same each time it is asked for,
and a GPU given back shows idle at once, with no memory of what ran before.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping

from agent.gpus import GpuReading
from gpuq.errors import InvalidRequest
from gpuq.model import NodeName
from gpuq.node import Gpu, GpuSample

MAX_GPUS = 64  # what NVML counts to on one machine
_GIB = 1 << 30
_MAX_GIB = 1024
_PART = re.compile(r"(?:(\d{1,6})x)?([A-Za-z][A-Za-z0-9]*(?:[ ._-][A-Za-z0-9]+)*?)-(\d{1,6})G(?:i?B)?", re.IGNORECASE)

# Board power of the kinds people name most, in watts; the plausible middle for any other.
_BOARD_WATTS = {"H100": 700, "H200": 700, "B200": 1000, "A100": 400, "A40": 300, "L40S": 350, "L4": 72, "T4": 70}
_OTHER_WATTS = 300

_RAMP_SECONDS = 4.0  # a job loads its data before the GPU is busy
_WARM_SECONDS = 60.0  # a heat sink is slower


class SimulatedGpus:
    """The pretend GPUs of one node. Same interface as agent.gpus.RealGpus."""

    simulated = True

    def __init__(self, gpus: tuple[Gpu, ...]) -> None:
        self._gpus = gpus

    def read(self, now: float, held: Mapping[int, float]) -> GpuReading:
        """held: since when each busy GPU has been held, by index, on the same clock as now."""
        return GpuReading(self._gpus, tuple([sample(gpu, held.get(gpu.index), now) for gpu in self._gpus]))

    def pardon(self, uuid: str, number: int) -> None:
        """Pretend GPUs have no faults."""

    def close(self) -> None:
        """Nothing is open."""


def parse_simulated(spec: str, node: NodeName) -> tuple[Gpu, ...]:
    """The GPUs of a spec: parts `[COUNTx]NAME-MEMORYGB` between commas, in that order; raises InvalidRequest.

    '8xH100-80GB' gives 8 GPUs named 'H100-80GB' with 80 GiB each. uuids follow from node and index alone, so they are
    the same after a restart and differ between nodes.
    """
    gpus: list[Gpu] = []
    for part in spec.split(","):
        part = part.strip()
        match = _PART.fullmatch(part)
        if match is None:
            raise InvalidRequest(
                f"--simulate-gpus: '{part}' does not say what to pretend",
                "write for example 8xH100-80GB, or 4xH100-80GB,4xA100-40GB",
            )
        count, gib = int(match[1] or 1), int(match[3])
        if not 1 <= count <= MAX_GPUS - len(gpus):
            raise InvalidRequest(f"--simulate-gpus: '{spec.strip()}' is not between 1 and {MAX_GPUS} GPUs in all")
        if not 1 <= gib <= _MAX_GIB:
            raise InvalidRequest(f"--simulate-gpus: '{part}' does not have between 1 and {_MAX_GIB} GB of memory")
        name = f"{match[2]}-{gib}GB"
        gpus += [Gpu(i, f"GPU-sim-{node}-{i}", name, gib * _GIB) for i in range(len(gpus), len(gpus) + count)]
    return tuple(gpus)


def sample(gpu: Gpu, held_since: float | None, now: float) -> GpuSample:
    """What the GPU shows at `now`, held since `held_since` or not at all (None). Both in seconds, on any one clock."""
    own = _fraction(gpu.uuid)  # no two GPUs of a node quite the same
    total = gpu.memory_total_bytes or 0
    age = -1.0 if held_since is None else now - held_since
    busy = _ramp(age, _RAMP_SECONDS)
    warm = _ramp(age, _WARM_SECONDS)
    # One run uses as much memory to its end, and the next another amount.
    memory = 0.005 + busy * (0.45 + 0.4 * _fraction(f"{gpu.uuid} {held_since}"))
    utilization = busy * (90 + 8 * math.sin(now / 7 + own * math.tau))
    board = next((w for kind, w in _BOARD_WATTS.items() if gpu.name.upper().startswith(f"{kind}-")), _OTHER_WATTS)
    return GpuSample(
        gpu.index,
        memory_used_bytes=int(total * memory),
        utilization_percent=round(utilization),
        temperature_c=round(30 + 4 * own + warm * (32 + utilization / 10)),
        power_w=round(board * (0.1 + 0.02 * own + 0.0075 * utilization), 1),
    )


def _ramp(age: float, seconds: float) -> float:
    return 1 - math.exp(-age / seconds) if age > 0 else 0.0


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, in every process; hash() differs between them."""
    return zlib.crc32(text.encode()) / (1 << 32)
