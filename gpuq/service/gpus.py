"""What the GPUs of a node become: events on how they stand, and the admin's word on one with a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpuq.errors import Conflict, NotFound
from gpuq.model import JobId, NodeName
from gpuq.node import Gpu, GpuHealth, Inventory, Node
from gpuq.protocol import GpuPardon
from gpuq.service.commands import Uncordon
from gpuq.service.draft import Draft


def taken(draft: Draft, name: NodeName, old: Inventory | None, new: Inventory) -> Inventory:
    """The inventory as it goes on record, with events on what has changed for the worse, or back."""
    before = {} if old is None else {gpu.uuid: gpu for gpu in old.gpus}
    _tell_health(draft, name, before, new.gpus)
    for gpu in new.gpus:
        known = before.get(gpu.uuid)
        use = gpu.foreign
        if use is not None and use.job is not None and (known is None or known.foreign != use):
            text = f"job {use.job} computes on GPU {gpu.index}, which it was not given (pid {use.pid})"
            job = draft.job(JobId(use.job))
            draft.event("gpu.strayed", text, job=job, node=name, user=job.user if job else None)
    if new.trouble != ("" if old is None else old.trouble):
        kind, text = ("node.trouble", new.trouble) if new.trouble else ("node.fit", "its self-checks pass again")
        draft.event(kind, text, node=name)
    return replace(new, gpus=tuple(_still_pardoned(gpu, before.get(gpu.uuid)) for gpu in new.gpus))


def _tell_health(draft: Draft, name: NodeName, before: dict[str, Gpu], gpus: Sequence[Gpu]) -> None:
    """One event for all GPUs of which the same is to be said: a driver that goes silent takes all with it."""
    said: dict[tuple[GpuHealth, str], list[int]] = {}
    for gpu in gpus:
        known = before.get(gpu.uuid)
        was = (GpuHealth.OK, "") if known is None else (known.health, known.health_text)
        if (gpu.health, gpu.health_text) != was:
            said.setdefault((gpu.health, gpu.health_text), []).append(gpu.index)
    for (health, text), indices in said.items():
        which = ",".join(map(str, indices))
        draft.event(f"gpu.{health.value}", f"GPU {which}" + (f": {text}" if text else ""), node=name)


def _still_pardoned(gpu: Gpu, known: Gpu | None) -> Gpu:
    """A pardon stands until the agent has heard of it, which is when it no longer names the fault."""
    meant = known is not None and gpu.fault and known.pardoned == gpu.fault
    return replace(gpu, pardoned=gpu.fault if meant else 0)


def pardons(inventory: Inventory | None) -> tuple[GpuPardon, ...]:
    """What an agent is still to be told."""
    gpus = () if inventory is None else inventory.gpus
    return tuple(GpuPardon(gpu.uuid, gpu.fault) for gpu in gpus if gpu.fault and gpu.pardoned == gpu.fault)


def pardon(draft: Draft, node: Node, command: Uncordon) -> dict[str, Any]:
    """Gives a quarantined GPU work again; its agent is told with its next answer."""
    inventory = node.inventory
    gpu = None if inventory is None else next((gpu for gpu in inventory.gpus if gpu.index == command.gpu), None)
    if inventory is None or gpu is None:
        raise NotFound(f"node {node.name} has no GPU {command.gpu}")
    if not gpu.fault:
        state = gpu.health.value + (f": {gpu.health_text}" if gpu.health_text else "")
        raise Conflict(
            f"GPU {gpu.index} of {node.name} is not quarantined for a fault; it is {state}",
            "what is not a fault goes away by itself, when its reason does",
        )
    changed = tuple(replace(g, pardoned=g.fault) if g.index == gpu.index else g for g in inventory.gpus)
    draft.put_node(replace(node, inventory=replace(inventory, gpus=changed)))
    text = f"GPU {gpu.index} by {command.actor.user}, in spite of: {gpu.health_text}"
    draft.event("gpu.pardoned", text, node=node.name, user=command.actor.user, address=command.actor.address)
    return {"name": node.name}
