"""The nodes that take work while a plan is made, kept in the order in which they are the best fit."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable

from gpuq.model import NodeName, Rank, Request
from gpuq.scheduler.fit import Room, fits

_CpuOrder = tuple[bool, int, int, NodeName]


class BestFit:
    """Finds the node where a request leaves the least behind, so that large jobs still find whole nodes.

    With GPUs: fewest free GPUs. Without: nodes without GPUs first, then most free CPUs, so that CPU work spreads. Ties
    go by name. On a cluster that is nearly full, or empty, a search looks at a few nodes, not at all.
    """

    def __init__(self, rooms: Iterable[Room]) -> None:
        self._rooms = {room.name: room for room in rooms}
        self._by_gpus: defaultdict[int, list[NodeName]] = defaultdict(list)  # names in order, by free GPUs
        self._by_cpus = sorted(_cpu_order(room) for room in self._rooms.values())
        self._too_small: defaultdict[Request, set[NodeName]] = defaultdict(set)  # for good: rooms only shrink
        for name in sorted(self._rooms):
            self._by_gpus[len(self._rooms[name].gpus)].append(name)

    def find(self, request: Request) -> Room | None:
        too_small = self._too_small[request]
        for name in self._in_order(request):
            if name not in too_small:
                if fits(self._rooms[name], request):
                    return self._rooms[name]
                too_small.add(name)
        return None

    def _in_order(self, request: Request) -> Iterable[NodeName]:
        if request.only_nodes:
            rooms = [self._rooms[name] for name in request.only_nodes if name in self._rooms]
            if request.gpus_per_node:
                return [room.name for room in sorted(rooms, key=lambda room: (len(room.gpus), room.name))]
            return [name for *_, name in sorted(map(_cpu_order, rooms))]
        if not request.gpus_per_node:
            return (name for *_, name in self._by_cpus)
        counts = sorted(count for count in self._by_gpus if count >= request.gpus_per_node)
        return (name for count in counts for name in self._by_gpus[count])

    def take(self, room: Room, rank: Rank) -> None:
        """Takes a grant out of its room."""
        _remove(self._by_gpus[len(room.gpus)], room.name)
        _remove(self._by_cpus, _cpu_order(room))
        room.take(rank)
        insort(self._by_gpus[len(room.gpus)], room.name)
        insort(self._by_cpus, _cpu_order(room))


def _cpu_order(room: Room) -> _CpuOrder:
    return bool(room.inventory.gpus), -room.cpus, -room.ranks, room.name


def _remove(ordered: list[NodeName] | list[_CpuOrder], item: NodeName | _CpuOrder) -> None:
    del ordered[bisect_left(ordered, item)]
