"""Which of a node's free GPUs belong together: those with the fastest way to each other."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from gpuq.node import Inventory

_Rows = tuple[tuple[int, str], ...]  # distances by index


def closest(inventory: Inventory, free: list[int], count: int) -> tuple[int, ...]:
    """So many of the free GPUs, ascending; of a node that says nothing of distances the first that are given."""
    if not 0 < count < len(free) or not inventory.gpus[0].distances:
        return tuple(sorted(free[:count]))
    return _closest(tuple((gpu.index, gpu.distances) for gpu in inventory.gpus), tuple(sorted(free)), count)


@lru_cache(maxsize=10_000)
def _closest(rows: _Rows, free: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Grown from each GPU in turn by the nearest; of sets equally close the one farthest from what is left over, so
    that small jobs end up together and large ones find neighbours.
    """
    known = dict(rows)

    def far(one: int, others: Iterable[int]) -> int:
        row = known.get(one, "")
        return sum(int(row[other]) if other < len(row) else 9 for other in others)

    def grown(seed: int) -> tuple[int, ...]:
        chosen = [seed]
        while len(chosen) < count:
            rest = [gpu for gpu in free if gpu not in chosen]
            chosen.append(min(rest, key=lambda gpu: (far(gpu, chosen), -far(gpu, rest), gpu)))
        return tuple(sorted(chosen))

    def cost(chosen: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        rest = [gpu for gpu in free if gpu not in chosen]
        return sum(far(gpu, chosen) for gpu in chosen), -sum(far(gpu, rest) for gpu in chosen), chosen

    return min(map(grown, free), key=cost)
