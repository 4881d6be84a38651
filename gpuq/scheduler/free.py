"""What is free on a node as far as a choice can tell: nodes of one kind with equal `Free` are interchangeable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gpuq.model import Rank
from gpuq.node import Inventory
from gpuq.scheduler.fit import Room


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Nodes that offer the same. One object for each kind, so that comparing two is comparing identities."""

    inventory: Inventory  # of one of them
    gpus: int
    gpu_memory_bytes: int  # of one GPU; 0 where it has none or it is unknown
    mixed: bool  # its GPUs differ: which of them are free matters, not only how many
    memory: Mapping[int, int] = field(repr=False)  # of each GPU by index


class Free(NamedTuple):
    """What a node has left. GPUs stand as (count,) and what is left on shared ones as bytes in order; where the GPUs
    of a node differ, as their indices and as pairs of index and bytes.
    """

    kind: Kind
    gpus: tuple[int, ...]
    shares: tuple[int, ...]
    cpus: int
    memory_bytes: int
    ranks: int  # how many more may start
    busy: bool
    alone: bool

    @property
    def whole(self) -> int:
        return len(self.gpus) if self.kind.mixed else self.gpus[0]

    @property
    def left(self) -> tuple[int, ...]:
        """Bytes left on GPUs that are shared."""
        return self.shares[1::2] if self.kind.mixed else self.shares

    @property
    def gpu_equivalents(self) -> float:
        """Free GPUs, with shared ones as far as they are free."""
        return self.whole + (sum(self.left) / self.kind.gpu_memory_bytes if self.shares else 0)


_seen: dict[int, tuple[Inventory, Kind]] = {}  # by id: an inventory cannot be hashed, and is kept so that its id is its
_kinds: dict[object, Kind] = {}
_MOST_SEEN = 5_000  # inventories; then those of nodes that left or changed are let go


def kind_of(inventory: Inventory) -> Kind:
    """The kind of nodes with this inventory: which machine it is, and its agent's version, make no difference."""
    known = _seen.get(id(inventory))
    if known is not None:
        return known[1]
    gpus = tuple((gpu.index, gpu.name, gpu.memory_total_bytes, gpu.distances) for gpu in inventory.gpus)
    labels = tuple(sorted(inventory.labels.items()))
    room = inventory.cpus, inventory.memory_total_bytes
    offer = gpus, room, inventory.driver_version, labels, inventory.accounts
    kind = _kinds.get(offer)
    if kind is None:
        memory = {gpu.index: gpu.memory_total_bytes or 0 for gpu in inventory.gpus}
        mixed = len({offered[1:3] for offered in gpus}) > 1
        kind = _kinds[offer] = Kind(inventory, len(gpus), max(memory.values(), default=0), mixed, memory)
    if len(_seen) >= _MOST_SEEN:
        _seen.clear()
    _seen[id(inventory)] = inventory, kind
    return kind


def free_of(kind: Kind, room: Room) -> Free:
    return _free(kind, room.gpus, room.shares, room, room.cpus, room.memory_bytes, room.ranks, room.busy, room.alone)


def after(kind: Kind, room: Room, rank: Rank) -> Free:
    """What would be left of the room if this were granted; the room stays as it is."""
    shares = room.shares
    if rank.gpu_share_bytes is not None:
        shares = dict(shares)
        for i in rank.gpus:
            shares[i] = shares.get(i, kind.memory[i]) - rank.gpu_share_bytes
    gpus = tuple(i for i in room.gpus if i not in rank.gpus) if rank.gpus else room.gpus
    cpus, memory = room.cpus - rank.cpus, room.memory_bytes - rank.memory_bytes
    alone = room.alone or rank.exclusive
    return _free(kind, gpus, shares, room, cpus, memory, room.ranks - 1, room.busy + 1, alone)


def _free(
    kind: Kind,
    gpus: tuple[int, ...],
    shares: Mapping[int, int],
    room: Room,
    cpus: int,
    memory_bytes: int,
    ranks: int,
    busy: int,
    alone: bool,
) -> Free:
    if kind.mixed:
        left = tuple(part for pair in sorted(shares.items()) if pair[1] > 0 for part in pair)
    else:
        left = tuple(sorted(bytes for bytes in shares.values() if bytes > 0)) if shares else ()
        gpus = (len(gpus),)
    return Free(kind, gpus, left, cpus, memory_bytes, 0 if room.closed else ranks, busy > 0, alone)
