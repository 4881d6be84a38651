"""Whether a request fits a node, and what is missing if not.

One check answers both "place it" and "why not": a node fits exactly when `shortfalls` finds none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gpuq import constraint
from gpuq.model import NodeName, Rank, Request
from gpuq.node import Gpu, GpuHealth, Inventory, Node
from gpuq.scheduler.near import closest
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
    shares: dict[int, int] = field(default_factory=dict)  # bytes left on the GPUs that are held by shares only
    busy: int = 0  # ranks that run here
    alone: bool = False  # one of them has the node for itself
    accepted: dict[tuple[str | None, int], frozenset[int]] = field(default_factory=dict)  # see `matching`
    meets: dict[str, bool] = field(default_factory=dict)  # by constraint

    def take(self, rank: Rank) -> None:
        """Takes a grant out."""
        self._hold(rank, 1)
        share = rank.gpu_share_bytes
        if share is not None:
            for gpu in self.inventory.gpus:
                if gpu.index in rank.gpus:
                    self.shares[gpu.index] = self.shares.get(gpu.index, gpu.memory_total_bytes or 0) - share
        self.gpus = tuple(i for i in self.gpus if i not in rank.gpus)

    def give(self, rank: Rank) -> None:
        """Puts a grant back, as if it had ended; of its GPUs those that are healthy."""
        self._hold(rank, -1)
        healthy = {gpu.index: gpu for gpu in self.inventory.gpus if gpu.health is GpuHealth.OK}
        freed = [i for i in rank.gpus if i in healthy]
        if rank.gpu_share_bytes is not None:
            for i in freed:
                self.shares[i] = self.shares.get(i, 0) + rank.gpu_share_bytes
            freed = [i for i in freed if self.shares[i] >= (healthy[i].memory_total_bytes or 0)]
            for i in freed:
                del self.shares[i]
        self.gpus = tuple(sorted({*self.gpus, *freed}))

    def grants(self, rank: Rank) -> bool:
        """Whether exactly this can be granted here now."""
        share = rank.gpu_share_bytes
        return (
            all(i in self.gpus or (share is not None and self.shares.get(i, 0) >= share) for i in rank.gpus)
            and self.ranks > 0
            and not self.alone
            and not (rank.exclusive and self.busy)
            and self.cpus >= rank.cpus
            and self.memory_bytes >= rank.memory_bytes
        )

    def keep(self, rank: Rank) -> None:
        """Takes out what is free of a grant to come; the rest is held by others still."""
        self.take(replace(rank, gpus=tuple(i for i in rank.gpus if i in self.gpus or i in self.shares)))
        if rank.gpu_share_bytes is None:
            for i in rank.gpus:
                self.shares.pop(i, None)

    def _hold(self, rank: Rank, sign: int) -> None:
        self.cpus -= sign * rank.cpus
        self.memory_bytes -= sign * rank.memory_bytes
        self.ranks -= sign
        self.busy += sign
        if rank.exclusive:
            self.alone = sign > 0


def rooms(view: ClusterView, policy: Policy) -> list[Room]:
    """Every node that has ever reported, by name; those that take no work are there too, closed."""
    return [
        Room(
            name,
            node.inventory,
            view.free_gpus(name),
            view.free_cpus(name),
            view.free_memory_bytes(name),
            policy.max_ranks_per_node - (busy := view.ranks_on(name)),
            _closed(view, node),
            dict(view.free_shares(name)),
            busy,
            view.taken_alone(name),
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
        meets=room.meets,
    )


def gpu_matches(gpu: Gpu, request: Request) -> bool:
    """Whether this GPU is of the type and size asked for; a GPU of unknown memory meets no memory demand."""
    if request.gpu_type is not None and request.gpu_type.lower() not in gpu.name.lower():
        return False
    return (gpu.memory_total_bytes or 0) >= _least_memory(request)


def _least_memory(request: Request) -> int:
    return max(request.gpu_memory_bytes or 0, request.gpu_share_bytes or 0)


def matching(room: Room, request: Request) -> list[int]:
    """GPUs of the room that have what the request asks of each: by index whole ones, or for shares first those that
    are shared already, the fullest first.
    """
    share = request.gpu_share_bytes
    free: list[int] = list(room.gpus)
    if share is not None:
        free = sorted((i for i, left in room.shares.items() if left >= share), key=lambda i: (room.shares[i], i)) + free
    least = _least_memory(request)
    if request.gpu_type is None and not least:
        return free
    kind = request.gpu_type, least
    accepted = room.accepted.get(kind)
    if accepted is None:  # kinds are few, requests many: comparing names is most of a plan's work otherwise
        accepted = frozenset(gpu.index for gpu in room.inventory.gpus if gpu_matches(gpu, request))
        room.accepted[kind] = accepted
    return [i for i in free if i in accepted]


def meets(room: Room, request: Request) -> bool:
    """Whether the node's attributes are as the request's constraint wants them."""
    if not request.constraint:
        return True
    met = room.meets.get(request.constraint)
    if met is None:
        met = room.meets[request.constraint] = constraint.holds(request.constraint, room.inventory)
    return met


def fits(room: Room, request: Request) -> bool:
    return (
        not room.closed
        and room.ranks > 0
        and not room.alone
        and not (request.exclusive and room.busy)
        and allowed(room.name, request)
        and meets(room, request)
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
    if not meets(room, request):
        short.append(f"does not meet {request.constraint}")
    if refusal := room.inventory.accounts.refusal(request.account):
        short.append(refusal)
    if room.closed:
        short.append(room.closed)
    if room.alone:
        short.append("is held by a job for itself")
    elif request.exclusive and room.busy:
        short.append(f"runs {room.busy} other {plural(room.busy, 'job')}")
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
    if request.gpu_share_bytes is not None:
        return f"{kind} with {format_size(request.gpu_share_bytes)} to share"
    return kind + (f" with {format_size(request.gpu_memory_bytes)}" if request.gpu_memory_bytes else "")


def allowed(name: NodeName, request: Request) -> bool:
    """Whether the request leaves it open to run on this node."""
    return name not in request.not_nodes and (not request.only_nodes or name in request.only_nodes)


def chosen(room: Room, request: Request) -> tuple[int, ...]:
    """GPUs for the request where it fits: whole ones as close to each other as there are, shares on the fullest."""
    fitting = matching(room, request)
    if request.gpu_share_bytes is not None:
        return tuple(sorted(fitting[: request.gpus_per_node]))
    return closest(room.inventory, fitting, request.gpus_per_node)


def rank_on(room: Room, request: Request) -> Rank:
    """The grant of one node, the same for equal views."""
    return Rank(
        room.name, chosen(room, request), request.cpus, request.memory_bytes, request.gpu_share_bytes, request.exclusive
    )
