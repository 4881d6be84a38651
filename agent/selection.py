"""What `agent --gpus` limits the offer to: 'all', 'none', indices and ranges '0,2-3', or uuids 'GPU-1a2b...'."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpuq.errors import InvalidRequest
from gpuq.node import Gpu

_MAX_INDEX = 63  # NVML counts to 64 devices
_HINT = "write for example all, none, 0,2-3 or uuids as `nvidia-smi -L` shows them"


@dataclass(frozen=True, slots=True)
class GpuSelection:
    """Which GPUs are offered. With everything False and empty: none. uuids may be unique beginnings, as in CUDA."""

    everything: bool = False
    indices: tuple[int, ...] = ()  # ascending
    uuids: tuple[str, ...] = ()

    def offers(self, gpu: Gpu) -> bool:
        return self.everything or gpu.index in self.indices or any(_is(uuid, gpu) for uuid in self.uuids)

    def missing(self, gpus: Sequence[Gpu]) -> tuple[str, ...]:
        """What was asked for by index or uuid and is not among these GPUs, as written."""
        have = {g.index for g in gpus}
        indices = [str(i) for i in self.indices if i not in have]
        return (*indices, *[uuid for uuid in self.uuids if not any(_is(uuid, g) for g in gpus)])


ALL = GpuSelection(everything=True)


def parse_selection(text: str) -> GpuSelection:
    """The selection `text` writes down; raises InvalidRequest."""
    plain = text.strip()
    if plain.lower() == "all":
        return ALL
    if plain.lower() == "none":
        return GpuSelection()
    indices: set[int] = set()
    uuids: list[str] = []
    for part in plain.split(","):
        part = part.strip()
        if match := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part):
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last <= _MAX_INDEX:
                raise InvalidRequest(f"--gpus: '{part}' is no range within 0-{_MAX_INDEX}", _HINT)
            indices.update(range(first, last + 1))
        elif re.fullmatch(r"GPU-[0-9a-fA-F-]{4,36}", part):
            uuids.append(part)
        else:
            raise InvalidRequest(f"--gpus: '{part}' is neither an index, a range nor a uuid", _HINT)
    return GpuSelection(indices=tuple(sorted(indices)), uuids=tuple(uuids))


def _is(uuid: str, gpu: Gpu) -> bool:
    return gpu.uuid.lower().startswith(uuid.lower())
