"""Whether a request fits a node, and what is missing if not.

One check answers both "place it" and "why not": a node fits exactly when `shortfalls` finds none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuq.model import Gpu, GpuHealth, Inventory, Node, NodeName, Rank, Request
from gpuq.states import NodeState
from gpuq.units import format_size, plural
from gpuq.view import ClusterView, Policy


@dataclass(slots=True)
class Room:
    """What is free on one node while a plan is made. Mutable: the plan takes from it as it places."""

    name: NodeName
    inventory: Inventory
    gpus: tuple[int, ...]  # free and healthy, ascending
    cpus: int
    memory_bytes: int
    ranks: int  # how many more may start here
    closed: str = ""  # why the node takes no new work at all; empty if it does
    accepted: dict[tuple[str | None, int | None], frozenset[int]] = field(default_factory=dict)  # see `matching`

    def take(self, rank: Rank) -> None:
        self.gpus = tuple(i for i in self.gpus if i not in rank.gpus)
        self.cpus -= rank.cpus
        self.memory_bytes -= rank.memory_bytes
        self.ranks -= 1


def rooms(view: ClusterView, policy: Policy) -> list[Room]:
    """Every node that has ever reported, by name; those that take no work are there too, closed."""
    return [
        Room(
            name,
            node.inventory,
            view.free_gpus(name),
            view.free_cpus(name),
            view.free_memory_bytes(name),
            policy.max_ranks_per_node - view.ranks_on(name),
            _closed(view, node),
        )
        for name, node in sorted(view.nodes.items())
        if node.inventory is not None
    ]


def _closed(view: ClusterView, node: Node) -> str:
    state = view.node_state(node.name)
    if state is not NodeState.UP:
        return f"is {state.value}"
    if node.draining:
        return "is draining"
    if node.cordoned:
        return "is cordoned"
    return "fails its self-checks: " + node.inventory.trouble if node.inventory and node.inventory.trouble else ""


def empty(room: Room, policy: Policy) -> Room:
    """The same node as if it were up and nothing ran there: what could ever fit."""
    return Room(
        room.name,
        room.inventory,
        tuple(gpu.index for gpu in room.inventory.gpus),
        room.inventory.cpus,
        room.inventory.memory_total_bytes,
        policy.max_ranks_per_node,
        accepted=room.accepted,
    )


def gpu_matches(gpu: Gpu, request: Request) -> bool:
    """Whether this GPU is of the type and size asked for; a GPU of unknown memory meets no memory demand."""
    if request.gpu_type is not None and request.gpu_type.lower() not in gpu.name.lower():
        return False
    return request.gpu_memory_bytes is None or (gpu.memory_total_bytes or 0) >= request.gpu_memory_bytes


def matching(room: Room, request: Request) -> list[int]:
    """Free GPUs of the room that the request accepts, by index."""
    if request.gpu_type is None and request.gpu_memory_bytes is None:
        return list(room.gpus)
    kind = request.gpu_type, request.gpu_memory_bytes
    accepted = room.accepted.get(kind)
    if accepted is None:  # kinds are few, requests many: comparing names is most of a plan's work otherwise
        accepted = frozenset(gpu.index for gpu in room.inventory.gpus if gpu_matches(gpu, request))
        room.accepted[kind] = accepted
    return [i for i in room.gpus if i in accepted]


def fits(room: Room, request: Request) -> bool:
    return (
        not room.closed
        and room.ranks > 0
        and allowed(room.name, request)
        and not room.inventory.accounts.refusal(request.account)
        and (not request.gpus_per_node or len(matching(room, request)) >= request.gpus_per_node)
        and (not request.cpus or room.cpus >= request.cpus)
        and (not request.memory_bytes or room.memory_bytes >= request.memory_bytes)
    )


def shortfalls(room: Room, request: Request) -> list[str]:
    """What keeps the request off this node, in words with numbers; empty exactly when `fits`."""
    short = []
    if not allowed(room.name, request):
        short.append("is not among the nodes asked for")
    if refusal := room.inventory.accounts.refusal(request.account):
        short.append(refusal)
    if room.closed:
        short.append(room.closed)
    have = len(matching(room, request))
    if request.gpus_per_node and have < request.gpus_per_node:
        short.append(
            f"has {have} of {request.gpus_per_node} {describe_gpus(request, request.gpus_per_node)} free"
            + kept_back((room,), request)
        )
    if request.cpus and room.cpus < request.cpus:
        short.append(f"has {max(0, room.cpus)} of {request.cpus} {plural(request.cpus, 'CPU')} free")
    if request.memory_bytes and room.memory_bytes < request.memory_bytes:
        free, asked = format_size(max(0, room.memory_bytes)), format_size(request.memory_bytes)
        short.append(f"has {free} of {asked} memory free")
    if room.ranks <= 0:
        short.append("runs as many jobs as one node may")
    return short


_KEPT_BACK = {
    GpuHealth.FOREIGN: "in use outside of gpuq",
    GpuHealth.QUARANTINED: "quarantined",
    GpuHealth.UNKNOWN: "unknown",
}


def kept_back(rooms: Iterable[Room], request: Request) -> str:
    """GPUs the request would accept that take no work, to stand behind a shortfall; '' if there are none.

    '; 2 in use outside of gpuq (n1 GPU 3: in use by bob, pid 42 (python))'
    """
    found: dict[GpuHealth, list[str]] = {}
    for room in rooms:
        for gpu in room.inventory.gpus:
            if gpu.health is not GpuHealth.OK and gpu_matches(gpu, request):
                found.setdefault(gpu.health, []).append(f"{room.name} GPU {gpu.index}: {gpu.health_text}")
    parts = [f"{len(gpus)} {_KEPT_BACK[health]} ({gpus[0]})" for health, gpus in found.items()]
    return f"; {', '.join(parts)}" if parts else ""


def describe_gpus(request: Request, count: int) -> str:
    """'h100 GPUs with 24G' as far as the request says, to stand behind the count."""
    kind = plural(count, f"{request.gpu_type} GPU" if request.gpu_type else "GPU")
    return kind + (f" with {format_size(request.gpu_memory_bytes)}" if request.gpu_memory_bytes else "")


def allowed(name: NodeName, request: Request) -> bool:
    """Whether the request leaves it open to run on this node."""
    return name not in request.not_nodes and (not request.only_nodes or name in request.only_nodes)


def rank_on(room: Room, request: Request) -> Rank:
    """The grant of one node: the lowest free indices that match, so that equal views give equal plans."""
    chosen = tuple(matching(room, request)[: request.gpus_per_node])
    return Rank(room.name, chosen, request.cpus, request.memory_bytes)
