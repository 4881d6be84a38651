"""Which requests could ever be met: those that wait for what no node has count for nothing among others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gpuq.model import NodeName, Request
from gpuq.scheduler.fit import Room, allowed, fits
from gpuq.scheduler.free import Kind, kind_of
from gpuq.view import ClusterView


def impossible(view: ClusterView, requests: Iterable[Request]) -> set[Request]:
    """Those that all nodes together could not meet, up and empty; nodes that are alike are looked at once."""
    alike: dict[Kind, list[NodeName]] = {}
    for node in view.nodes.values():
        if node.inventory is not None:
            alike.setdefault(kind_of(node.inventory), []).append(node.name)
    nodes = [(_empty(kind, names[0]), names) for kind, names in alike.items()]
    return {request for request in requests if not _ever(nodes, request)}


def _ever(nodes: list[tuple[Room, list[NodeName]]], request: Request) -> bool:
    named = bool(request.only_nodes or request.not_nodes)
    anywhere = replace(request, only_nodes=(), not_nodes=()) if named else request
    found = 0
    for room, names in nodes:
        if found < request.nodes and fits(room, anywhere):
            found += sum(allowed(name, request) for name in names) if named else len(names)
    return found >= request.nodes


def _empty(kind: Kind, name: NodeName) -> Room:
    offer = kind.inventory
    return Room(name, offer, tuple(gpu.index for gpu in offer.gpus), offer.cpus, offer.memory_total_bytes, ranks=1)
