"""The ways to choose a place, by name: which of the places that fit is the best. `ours` is what the controller uses."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple, Protocol

from gpuq import constraint
from gpuq.model import Request
from gpuq.scheduler.fit import gpu_matches
from gpuq.scheduler.free import Free, Kind
from gpuq.scheduler.worth import Asks, asks, worth

Score = tuple[float, ...]  # of a place: the least is taken, of equal ones the first node by name


class Placing(Protocol):
    """One way. What it learns, it learns from `weigh`, so that equal views give equal choices."""

    def weigh(self, demand: Mapping[Request, int], nodes: Iterable[Free]) -> Collection[Kind]:
        """Takes in what is asked for and what is free; the kinds of nodes whose places may score otherwise now."""

    def score(self, free: Free, after: Free, request: Request) -> Score:
        """Of placing one rank where `free` becomes `after`."""


class FirstFit:
    """The first node by name."""

    def weigh(self, demand: Mapping[Request, int], nodes: Iterable[Free]) -> Collection[Kind]:
        return ()

    def score(self, free: Free, after: Free, request: Request) -> Score:
        return ()


class BestFit:
    """Where the least is left of CPUs and GPUs together, each as a part of the largest node's; then the fullest GPU."""

    def __init__(self) -> None:
        self._most_cpus, self._most_gpus = 1, 1

    def weigh(self, demand: Mapping[Request, int], nodes: Iterable[Free]) -> Collection[Kind]:
        kinds = {free.kind: None for free in nodes}
        most = max((kind.inventory.cpus for kind in kinds), default=0), max((kind.gpus for kind in kinds), default=0)
        before = self._most_cpus, self._most_gpus
        self._most_cpus, self._most_gpus = max(1, most[0]), max(1, most[1])
        return kinds if before != (self._most_cpus, self._most_gpus) else ()

    def score(self, free: Free, after: Free, request: Request) -> Score:
        left = after.cpus / self._most_cpus + after.gpu_equivalents / self._most_gpus
        return round(left, 9), free.whole - after.whole


class FgdLike:
    """Where expected fragmentation grows least: the GPUs that a job drawn from the mix of requests could not use.

    After Weng et al., 'Beware of Fragmentation' (USENIX ATC 2023), from the paper's method. Its published figures come
    out only with scores as coarse as a Kubernetes scheduler's, whole numbers to 100, and the first node among equals.
    """

    def __init__(self) -> None:
        self._mix: dict[Kind, list[_Shape]] = {}
        self._jobs = 0

    def weigh(self, demand: Mapping[Request, int], nodes: Iterable[Free]) -> Collection[Kind]:
        jobs = sum(demand.values())
        if jobs < self._jobs * 1.02:  # what one more job changes is not worth measuring all nodes again
            return ()
        self._jobs = jobs
        self._mix = {kind: _shapes(demand, kind) for kind in {free.kind: None for free in nodes}}
        return self._mix

    def score(self, free: Free, after: Free, request: Request) -> Score:
        grows = round(self._fragmented(after) - self._fragmented(free), 9)
        return (-math.floor(100 / (1 + math.exp(max(-50.0, min(50.0, grows))))),)

    def _fragmented(self, free: Free) -> float:
        """Free GPUs that a job of the mix cannot use, on average over the mix."""
        every, size, left = free.gpu_equivalents, free.kind.gpu_memory_bytes, free.left
        in_all = 0.0
        for shape in self._mix.get(free.kind, ()):
            few_cpus = shape.up_to[bisect_right(shape.cpus, free.cpus)]
            fitting = sum([bytes for bytes in left if bytes >= shape.share_bytes]) if shape.share_bytes else 0
            places = free.whole + (sum([bytes >= shape.share_bytes for bytes in left]) if shape.share_bytes else 0)
            usable = free.whole + (fitting / size if fitting else 0.0) if shape.gpus and places >= shape.gpus else 0.0
            in_all += every * shape.up_to[-1] - usable * few_cpus
        return in_all


class _Shape(NamedTuple):
    """Jobs of a mix that ask for the same GPUs, by how many CPUs they ask for."""

    gpus: int
    share_bytes: int
    cpus: list[int]  # ascending
    up_to: list[float]  # [i]: the part of the mix that asks for no more than the first i of `cpus`


def _shapes(demand: Mapping[Request, int], kind: Kind) -> list[_Shape]:
    jobs_in_all = sum(demand.values())
    mix: defaultdict[tuple[int, int], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for request, jobs in demand.items():
        gpus = request.gpus_per_node if _runs_on(kind, request) else 0  # elsewhere: none of these GPUs are of use
        mix[gpus, (request.gpu_share_bytes or 0) if gpus else 0][request.cpus] += jobs
    shapes = []
    for (gpus, share_bytes), by_cpus in sorted(mix.items()):
        cpus = sorted(by_cpus)
        up_to = list(accumulate((by_cpus[n] / jobs_in_all for n in cpus), initial=0.0))
        shapes.append(_Shape(gpus, share_bytes, cpus, up_to))
    return shapes


def _runs_on(kind: Kind, request: Request) -> bool:
    if request.constraint and not constraint.holds(request.constraint, kind.inventory):
        return False
    return any(gpu_matches(gpu, request) for gpu in kind.inventory.gpus)


class Ours:
    """Where a placement takes least from what the rest is worth to those who ask: see worth.py.

    Where that is the same: GPUs of less memory, then the node with the fewest free GPUs, so that whole nodes stay
    whole. Work without GPUs goes to nodes without GPUs, then, so that it spreads, to where most CPUs are free and
    fewest jobs run.
    """

    def __init__(self) -> None:
        self._asks: dict[Kind, Asks] = {}
        self._worth: dict[Free, float] = {}  # of what is free now: each is compared with many that could follow

    def weigh(self, demand: Mapping[Request, int], nodes: Iterable[Free]) -> Collection[Kind]:
        gpus: dict[Kind, float] = {}
        for free in nodes:
            gpus[free.kind] = gpus.get(free.kind, 0.0) + free.gpu_equivalents
        before, self._asks = self._asks, asks(demand, gpus)
        self._worth.clear()
        return [kind for kind, mix in self._asks.items() if mix != before.get(kind)]

    def score(self, free: Free, after: Free, request: Request) -> Score:
        mix = self._asks.get(free.kind, ())
        now = self._worth.get(free)
        if now is None:
            now = self._worth[free] = worth(free, mix)
        loss = round(now - worth(after, mix), 9)
        if request.gpus_per_node:
            return loss, free.kind.gpu_memory_bytes, free.gpu_equivalents
        return loss, bool(free.kind.gpus), -free.cpus, -free.ranks


PLACINGS: dict[str, type[Placing]] = {
    "first-fit": FirstFit,
    "best-fit": BestFit,
    "fgd-like": FgdLike,
    "ours": Ours,
}
