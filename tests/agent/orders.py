"""Builders of orders and answers with defaults, for the tests of what the agent makes of them."""

from __future__ import annotations

from typing import Any

from gpuq.model import AttemptUid, EndReason, ExitRecord, Job, JobId, JobSpec, NodeName, OnLost, Rank, Request, StopKind
from gpuq.node import Gpu, Inventory
from gpuq.protocol import RunOrder, StopOrder, SyncReply, SyncRequest
from gpuq.states import JobState

NODE = NodeName("a1")


def uid(name: str) -> AttemptUid:
    return AttemptUid(name)


def run_order(
    name: str = "x",
    on_lost: OnLost = OnLost.KEEP,
    gpus: tuple[int, ...] = (),
    gpu_uuids: tuple[str, ...] = (),
    node: str = NODE,
    command: tuple[str, ...] = ("true",),
    **spec: Any,
) -> RunOrder:
    job = Job(
        id=JobId("1042"),
        number=1042,
        index=None,
        name="train",
        user="anna",
        queue="default",
        priority=0,
        request=Request(),
        state=JobState.ALLOCATED,
        submitted_at=1.0,
        queued_at=1.0,
        on_lost=on_lost,
    )
    return RunOrder(
        uid=uid(name),
        job=job,
        spec=JobSpec(command=command, script=None, cwd="/tmp", **spec),
        number=1,
        rank=0,
        ranks=(Rank(NodeName(node), gpus, 0, 0),),
        gpu_uuids=gpu_uuids,
    )


def stop_order(name: str = "x", kind: StopKind = StopKind.CANCEL, grace: int = 30) -> StopOrder:
    return StopOrder(uid(name), kind, grace)


def exited(code: int = 0, log_size: int = 0, **more: Any) -> ExitRecord:
    return ExitRecord(EndReason.EXITED, ended_at=5.0, exit_code=code, log_size=log_size, **more)


def inventory(*uuids: str, hostname: str = "a1") -> Inventory:
    gpus = tuple(Gpu(i, u, "NVIDIA H100 80GB HBM3", 80 << 30) for i, u in enumerate(uuids))
    return Inventory(hostname, gpus, cpus=8, memory_total_bytes=64 << 30, simulated=True, agent_version="0")


def reply_to(request: SyncRequest, generation: int = 1, epoch: int = 1, **orders: Any) -> SyncReply:
    return SyncReply(epoch, generation, request.incarnation, request.sequence, **orders)
