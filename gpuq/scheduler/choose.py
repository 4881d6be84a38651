"""Where a job goes: which nodes, and which of their GPUs.

Nodes that are alike, with the same left on them, are looked at once. So on a cluster that is empty, full or used in
whole GPUs a choice looks at a few places, however many nodes there are; and what was found of a place is kept until
it changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import nsmallest
from typing import NewType

from gpuq.model import NodeName, Rank, Request
from gpuq.scheduler.fit import Room, allowed, chosen, fits, matching
from gpuq.scheduler.free import Free, after, free_of, kind_of
from gpuq.scheduler.placing import PLACINGS, Score

_Place = tuple[Score, NodeName]
_Shape = NewType("_Shape", int)  # a number for all that is asked of any one node: a request takes long to compare


class _Alike:
    """Nodes with equal `Free`, and what was found of them."""

    __slots__ = ("names", "scores")

    def __init__(self) -> None:
        self.names: list[NodeName] = []  # in order
        self.scores: dict[_Shape, Score | None] = {}  # of the best way to place one rank there; None: it does not fit


class Chooser:
    """Chooses places in some rooms, and keeps track of what was taken from and given back to them.

    demand says how many jobs ask for what, waiting or not: what is kept free is kept for those.
    """

    def __init__(self, rooms: Iterable[Room], demand: Mapping[Request, int], placing: str = "ours") -> None:
        self._rooms = {room.name: room for room in rooms}
        self._placing = PLACINGS[placing]()
        self._free: dict[NodeName, Free] = {}
        self._alike: dict[Free, _Alike] = {}
        self._shapes: dict[Request, _Shape] = {}
        self._most_gpus: int | None = 0  # whole and free on one node; None: to be found out
        for name in sorted(self._rooms):
            self._enter(name)
        self.weigh(demand)

    def weigh(self, demand: Mapping[Request, int]) -> None:
        """Takes in what is asked for now."""
        others = set(self._placing.weigh(demand, self._free.values()))
        for free, alike in self._alike.items():
            if free.kind in others:  # what does not fit still does not
                alike.scores = {shape: None for shape, score in alike.scores.items() if score is None}

    def choose(self, request: Request) -> tuple[Rank, ...] | None:
        """A grant for each node the request asks for, or None if it cannot start whole. Takes nothing."""
        if request.gpu_share_bytes is None and request.gpus_per_node > self._most():
            return None
        if request.nodes == 1:
            place = min(self._places(request, 1), default=None)
            return None if place is None else (self._rank(place[1], request),)
        places = self._gang(request)
        return None if places is None else tuple(self._rank(name, request) for _, name in sorted(places, key=_name))

    def take(self, ranks: Iterable[Rank]) -> None:
        """Takes a grant out of its rooms."""
        for rank in ranks:
            self._leave(rank.node)
            self._rooms[rank.node].take(rank)
            self._enter(rank.node)

    def give(self, ranks: Iterable[Rank]) -> None:
        """Puts a grant back, as far as its nodes are among the rooms."""
        for rank in ranks:
            if rank.node in self._rooms:
                self._leave(rank.node)
                self._rooms[rank.node].give(rank)
                self._enter(rank.node)

    def _enter(self, name: NodeName) -> None:
        room = self._rooms[name]
        free = self._free[name] = free_of(kind_of(room.inventory), room)
        alike = self._alike.get(free)
        if alike is None:
            alike = self._alike[free] = _Alike()
        insort(alike.names, name)
        if self._most_gpus is not None:
            self._most_gpus = max(self._most_gpus, free.whole)

    def _leave(self, name: NodeName) -> None:
        free = self._free.pop(name)
        names = self._alike[free].names
        del names[bisect_left(names, name)]
        if not names:
            del self._alike[free]
            if free.whole == self._most_gpus:
                self._most_gpus = None

    def _most(self) -> int:
        if self._most_gpus is None:
            self._most_gpus = max((free.whole for free in self._alike), default=0)
        return self._most_gpus

    def _places(self, request: Request, nodes: int) -> Iterator[_Place]:
        """The best nodes of each place, as many as are asked for."""
        shape = self._shape(request)
        if request.only_nodes:
            for name in request.only_nodes:
                if name in self._free and name not in request.not_nodes:
                    free = self._free[name]
                    score = self._score(shape, request, free, self._alike[free])
                    if score is not None:
                        yield score, name
            return
        for free, alike in self._alike.items():
            score = alike.scores[shape] if shape in alike.scores else self._score(shape, request, free, alike)
            if score is None:
                continue
            names = alike.names
            if request.not_nodes:
                names = [name for name in names if allowed(name, request)]
            for name in names[:nodes]:
                yield score, name

    def _shape(self, request: Request) -> _Shape:
        """Equal for requests that ask the same of any one node."""
        shape = self._shapes.get(request)
        if shape is None:
            plain = request.nodes == 1 and not request.only_nodes and not request.not_nodes
            of_one = request if plain else replace(request, nodes=1, only_nodes=(), not_nodes=())
            shape = self._shapes[request] = self._shapes.setdefault(of_one, _Shape(len(self._shapes)))
        return shape

    def _score(self, shape: _Shape, request: Request, free: Free, alike: _Alike) -> Score | None:
        """Of the best way to place one rank on a node of these, whichever nodes the request names; None: none fits."""
        if shape in alike.scores:
            return alike.scores[shape]
        room = self._rooms[alike.names[0]]
        request = replace(request, only_nodes=(), not_nodes=()) if request.only_nodes or request.not_nodes else request
        few = request.cpus > free.cpus or request.memory_bytes > free.memory_bytes  # most of a full cluster, quickly
        score = min(self._ways(free, room, request))[0] if not few and fits(room, request) else None
        alike.scores[shape] = score
        return score

    def _gang(self, request: Request) -> list[_Place] | None:
        """The best nodes, all with the same GPUs where that is possible: a gang is as fast as its slowest rank."""
        by_gpu: defaultdict[str, list[_Place]] = defaultdict(list)
        for place in self._places(request, request.nodes):
            by_gpu[self._gpu_name(place[1])].append(place)
        alike = [nsmallest(request.nodes, by_gpu[gpu]) for gpu in sorted(by_gpu)]
        whole = [places for places in alike if len(places) == request.nodes]
        if whole:
            return min(whole, key=lambda places: [score for score, _ in places])
        places = nsmallest(request.nodes, (place for places in alike for place in places))
        return places if len(places) == request.nodes else None

    def _gpu_name(self, name: NodeName) -> str:
        gpus = self._rooms[name].inventory.gpus
        return gpus[0].name if gpus else ""

    def _rank(self, name: NodeName, request: Request) -> Rank:
        return min(self._ways(self._free[name], self._rooms[name], request))[2]

    def _ways(self, free: Free, room: Room, request: Request) -> Iterator[tuple[Score, int, Rank]]:
        """Every way worth a look to place one rank in a room where it fits, with its number."""
        for number, gpus in enumerate(_gpus(room, request)):
            rank = Rank(room.name, gpus, request.cpus, request.memory_bytes, request.gpu_share_bytes, request.exclusive)
            yield self._placing.score(free, after(free.kind, room, rank), request), number, rank


def _name(place: _Place) -> NodeName:
    return place[1]


def _gpus(room: Room, request: Request) -> Iterator[tuple[int, ...]]:
    """Sets of GPUs to choose from: of whole ones those closest to each other. One share may go on any GPU: one of each
    that have as much left is looked at.
    """
    if request.gpu_share_bytes is None or request.gpus_per_node != 1:
        yield chosen(room, request)
        return
    fitting = matching(room, request)
    seen = set()
    for gpu in fitting:
        left = room.shares.get(gpu)
        if left not in seen:
            seen.add(left)
            yield (gpu,)
