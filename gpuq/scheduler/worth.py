"""What free room is worth: how much work of the kinds people ask for could still be placed in it.

A placement costs what it takes from that: on a node whose CPUs it uses up, the GPUs nobody can use then; on one of
eight free GPUs, the last place for a job of eight; on a GPU of the only model that others ask for by name, a job of
theirs. So whole GPUs, whole nodes, CPUs beside free GPUs and asked-for models are all kept by the one rule that the
cheapest place is taken. The measure is this project's own; it grew from measuring fragmentation over the mix of
requests (Weng et al., 'Beware of Fragmentation', USENIX ATC 2023), which counts a GPU as usable as soon as one job of
a kind could start on its node, not how many could.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from gpuq import constraint
from gpuq.model import Request
from gpuq.scheduler.fit import gpu_matches
from gpuq.scheduler.free import Free, Kind

# How much dearer what is asked for gets as less of it is free. On the published workload with models asked for, 1
# leaves too many of the scarce to who could go elsewhere (0.7 points less is placed), 2 a little more in pieces.
_SCARCITY = 1.5
_NOTHING_LEFT = 0.001  # of all free GPUs: what cannot be had at all is dear, not beyond all measure
# Whoever comes next may ask for what nobody asks for now: 1, 2, 4 ... GPUs of a node, each as much as this part of all
# that is asked for. With models asked for, 0 places up to 4 points less of the published workload, 0.03 half a point.
_UNHEARD_OF = 0.01
_MOST_ASKS = 32  # of a kind of node; 16 place up to a point less with models asked for, 48 hardly more


class Ask(NamedTuple):
    """What many jobs ask of a node, roughly."""

    gpus: int
    share_bytes: int  # of each; 0 for whole GPUs
    cpus: int


Asks = tuple[tuple[Ask, float], ...]  # with their weights, by share


class _Which(NamedTuple):
    """Which GPUs a request accepts."""

    gpu_type: str | None
    memory_bytes: int | None
    constraint: str


def asks(demand: Mapping[Request, int], free: Mapping[Kind, float]) -> dict[Kind, Asks]:
    """What is asked of each kind of node and how dear it is, given how many GPUs of each kind are free.

    Coarse on purpose, weights in steps of 41 % and CPUs of 26 %: what a place is worth should not change with every
    job that comes.
    """
    wanted: defaultdict[_Which, defaultdict[Ask, int]] = defaultdict(lambda: defaultdict(int))
    for request, jobs in demand.items():
        if request.gpus_per_node:
            which = _Which(request.gpu_type, request.gpu_memory_bytes, request.constraint)
            ask = Ask(request.gpus_per_node, request.gpu_share_bytes or 0, round(_step(request.cpus, 3)))
            wanted[which][ask] += jobs
    jobs_in_all = sum(map(sum, (mix.values() for mix in wanted.values())))
    total = sum(free.values())
    weights: dict[Kind, defaultdict[Ask, float]] = {kind: defaultdict(float) for kind in free if kind.gpus}
    for which, mix in sorted(wanted.items(), key=lambda item: repr(item[0])):
        kinds = [kind for kind in weights if _accepts(kind, which)]
        scarcity = _scarcity(sum(free[kind] for kind in kinds), total)
        for kind in kinds:
            for ask, jobs in mix.items():
                if ask.gpus <= kind.gpus and ask.share_bytes <= kind.gpu_memory_bytes:
                    weights[kind][ask] += jobs / jobs_in_all * scarcity
    return {kind: _few(kind, mix) for kind, mix in weights.items()}


@lru_cache(maxsize=4096)  # kinds of nodes and of GPUs asked for are few, and both stay as they are
def _accepts(kind: Kind, which: _Which) -> bool:
    if which.constraint and not constraint.holds(which.constraint, kind.inventory):
        return False
    request = Request(gpu_type=which.gpu_type, gpu_memory_bytes=which.memory_bytes)
    return any(gpu_matches(gpu, request) for gpu in kind.inventory.gpus)


def _scarcity(free: float, total: float) -> float:
    return (total / (free + total * _NOTHING_LEFT)) ** _SCARCITY if total else 1.0


def _few(kind: Kind, mix: Mapping[Ask, float]) -> Asks:
    """The weightiest of them, and what nobody has asked for yet."""
    weights = dict(mix)
    all_of_it = sum(sorted(weights.values())) or 1.0
    for gpus in _sizes(kind.gpus):
        ask = Ask(gpus, 0, 0)
        weights[ask] = weights.get(ask, 0.0) + all_of_it * _UNHEARD_OF
    first = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:_MOST_ASKS]
    return tuple(
        sorted(((ask, _step(weight, 2)) for ask, weight in first), key=lambda item: (item[0].share_bytes, item))
    )


@lru_cache(maxsize=64)
def _sizes(gpus: int) -> tuple[int, ...]:
    """1, 2, 4 ... and all of a node's."""
    return tuple(sorted({1 << bit for bit in range(gpus.bit_length())} | {gpus}))


def _step(value: float, to_double: int) -> float:
    """The nearest of so many steps to each doubling."""
    return float(2 ** (round(to_double * math.log2(value)) / to_double)) if value > 0 else 0.0


def worth(free: Free, asks: Asks) -> float:
    """GPUs' worth of work that the node could still take if all of it were of one kind, weighted by what is asked."""
    if free.ranks <= 0 or free.alone:
        return 0.0
    whole, left, cpus, size = free.whole, free.left, max(0, free.cpus), free.kind.gpu_memory_bytes
    if not whole and not left:
        return 0.0
    in_all, share, places, part, most_left = 0.0, 0, whole, 1.0, max(left, default=0)
    for (gpus, share_bytes, of_cpus), weight in asks:
        if share_bytes != share:
            share = share_bytes
            places, part = whole * (size // share), share / size
            if share <= most_left:
                places += sum([bytes // share for bytes in left])
        jobs: float = places // gpus
        if of_cpus and cpus < jobs * of_cpus:
            # Not rounded down: what people ask for is known roughly, and a job more or less on a node would hang on it.
            jobs = cpus / of_cpus if cpus >= of_cpus else 0
        in_all += weight * jobs * gpus * part
    return in_all
