"""Who has more memory of a GPU than its share of it, and for how long. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.tenants import Tenancy
from gpuq.model import AttemptUid
from gpuq.node import GpuSample
from gpuq.protocol import Overuse

# Between two readings that are told as one stretch: they come every 5 s, and what was between two further apart than
# this nobody saw.
GAP_SECONDS = 30.0


class Shares:
    """Since when, in monotonic seconds, each attempt has been beyond its share of each of its GPUs."""

    def __init__(self) -> None:
        self._since: dict[tuple[AttemptUid, int], float] = {}
        self._read_at = 0.0

    def observe(
        self, now: float, held: Mapping[AttemptUid, Tenancy], samples: Iterable[GpuSample]
    ) -> tuple[Overuse, ...]:
        """Takes a reading; gives each attempt that is beyond its share once, with the GPU on which it is so longest.

        There is no tolerance: what the driver counts for a process is memory that nobody else can have, its CUDA
        context included. A process of which the driver does not say how much it has, counts as one that has none; a
        GPU that was not read has no processes, which ends the stretch.
        """
        known = self._since if now - self._read_at <= GAP_SECONDS else {}
        self._read_at, self._since = now, {}
        by_index = {sample.index: sample for sample in samples}
        longest: dict[AttemptUid, Overuse] = {}
        for uid, tenancy in held.items():
            for index in tenancy.gpus:
                used = _used(by_index.get(index), tenancy)
                if tenancy.share_bytes is None or used <= tenancy.share_bytes:
                    continue
                since = self._since[uid, index] = known.get((uid, index), now)
                other = longest.get(uid)
                if other is None or (now - since, used) > (other.seconds, other.used_bytes):
                    longest[uid] = Overuse(uid, index, used, now - since)
        return tuple(longest.values())


def _used(sample: GpuSample | None, tenancy: Tenancy) -> int:
    """Bytes that processes of the job have for certain."""
    if sample is None:
        return 0
    return sum(process.memory_used_bytes or 0 for process in sample.processes if process.job == tenancy.job)
