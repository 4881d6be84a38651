"""A cluster with a queue whose jobs yield."""

from __future__ import annotations

from typing import Any

from gpuq.changes import PutSettings
from gpuq.document import read
from gpuq.model import JobId
from tests.service.builders import BOB, Desk, a_node

QUEUES = {
    "main": {"default": True, "priority": 10},
    "urgent": {"priority": 20},
    "spare": {"priority": 0, "preemptible": True},
}


def a_desk(*gpus: int, cluster: dict[str, Any] | None = None, queues: dict[str, Any] | None = None) -> Desk:
    """Nodes n0, n1 ... with so many GPUs, and a queue whose jobs yield to those of two others."""
    desk = Desk(*(a_node(f"n{i}", gpus=count) for i, count in enumerate(gpus)))
    settings, _ = read({"queues": queues or QUEUES, "cluster": cluster or {}})
    desk.cluster.apply([PutSettings(settings)])
    return desk


def spare(desk: Desk, node: int, gpus: int = 1, ran: float = 0.0, **fields: Any) -> JobId:
    """A job of the queue that yields, that has run so long by now."""
    id = desk.submit(BOB, queue="spare", gpus=gpus, only_nodes=(f"n{node}",), **fields)
    wall, desk.wall = desk.wall, desk.wall - ran
    desk.run(id)
    desk.wall = wall
    return id
