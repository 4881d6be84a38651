"""What the GPUs of a node become by the word of its agent and of admins, and what becomes of jobs whose GPU failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.errors import Conflict, NotAuthorised, NotFound
from gpuq.gpu_use import ForeignUse
from gpuq.model import EndReason, ExitRecord, NodeName, StopKind
from gpuq.node import Gpu, GpuHealth, Inventory
from gpuq.protocol import GpuPardon, SyncRequest
from gpuq.reasons import WaitCode
from gpuq.service.commands import Uncordon
from gpuq.service.nodes import orders
from tests.service.builders import ADA, ROOT, WALL, Desk, an_inventory, exited

N1 = NodeName("n1")
XID = "Xid 79: the GPU has fallen off the bus"


def with_gpu(index: int, inventory: Inventory | None = None, **changes: Any) -> Inventory:
    """Four GPUs, one of which is as told."""
    known = inventory or an_inventory()
    return replace(known, gpus=tuple(replace(g, **changes) if g.index == index else g for g in known.gpus))


FAULTY = with_gpu(2, health=GpuHealth.QUARANTINED, health_text=XID, fault=1)


def gpu(desk: Desk, index: int) -> Gpu:
    inventory = desk.cluster.nodes[N1].inventory
    assert inventory is not None
    return inventory.gpus[index]


def told(desk: Desk) -> tuple[GpuPardon, ...]:
    return orders(desk.cluster, N1, SyncRequest(1, N1, "boot-1", 1, 1), frozenset()).pardon


def said(desk: Desk, prefix: str = "gpu.") -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in desk.events if event.kind.startswith(prefix)]


def test_a_quarantined_gpu_gets_no_work_and_the_others_do() -> None:
    desk = Desk()
    desk.sync(inventory=FAULTY)
    assert desk.cluster.free_gpus(N1) == (0, 1, 3)
    assert said(desk) == [("gpu.quarantined", f"GPU 2: {XID}")]
    desk.sync(inventory=an_inventory())
    assert desk.cluster.free_gpus(N1) == (0, 1, 2, 3)
    assert said(desk)[1:] == [("gpu.ok", "GPU 2")]


def test_a_driver_that_goes_silent_is_one_event_for_all_its_gpus() -> None:
    desk = Desk()
    silent = replace(
        an_inventory(),
        gpus=tuple(replace(g, health=GpuHealth.UNKNOWN, health_text="silent") for g in an_inventory().gpus),
    )
    desk.sync(inventory=silent)
    desk.sync(inventory=silent)
    assert said(desk) == [("gpu.unknown", "GPU 0,1,2,3: silent")]


def test_an_admins_pardon_is_told_until_the_agent_no_longer_names_the_fault() -> None:
    desk = Desk()
    desk.sync(inventory=FAULTY)
    assert told(desk) == ()
    desk.do(Uncordon(ROOT, N1, 2))
    pardon = (GpuPardon(gpu(desk, 2).uuid, 1),)
    assert told(desk) == pardon
    assert desk.cluster.free_gpus(N1) == (0, 1, 3)  # until the agent says so
    desk.sync(inventory=with_gpu(0, FAULTY, health=GpuHealth.FOREIGN))  # sent before it heard
    assert told(desk) == pardon
    desk.sync(inventory=an_inventory())
    assert (told(desk), desk.cluster.free_gpus(N1)) == ((), (0, 1, 2, 3))
    desk.sync(inventory=with_gpu(2, FAULTY, fault=2))  # another fault is not forgiven with it
    assert told(desk) == ()
    assert ("gpu.pardoned", f"GPU 2 by root, in spite of: {XID}") in said(desk)


def test_only_an_admin_pardons_and_only_a_fault_there_is() -> None:
    desk = Desk()
    desk.sync(inventory=FAULTY)
    with pytest.raises(NotAuthorised):
        desk.do(Uncordon(ADA, N1, 2))
    with pytest.raises(NotFound, match="node n1 has no GPU 9"):
        desk.do(Uncordon(ROOT, N1, 9))
    with pytest.raises(Conflict, match="GPU 1 of n1 is not quarantined for a fault; it is ok"):
        desk.do(Uncordon(ROOT, N1, 1))
    assert told(desk) == ()


def test_a_job_that_strays_is_reported_and_the_reason_of_who_waits_names_it() -> None:
    desk = Desk()
    use = ForeignUse(WALL, 42, "ada", "python", job="7")
    strayed = with_gpu(3, health=GpuHealth.FOREIGN, health_text="in use by job 7", foreign=use)
    desk.sync(inventory=strayed)
    desk.sync(inventory=with_gpu(0, strayed, health=GpuHealth.UNKNOWN))
    assert [kind for kind, _ in said(desk)].count("gpu.strayed") == 1
    assert ("gpu.strayed", "job 7 computes on GPU 3, which it was not given (pid 42)") in said(desk)
    job = desk.submit(gpus=4)
    reason = desk.reason(job)
    assert reason is not None
    assert reason.text.startswith("waits for 2 more GPUs; 1 unknown (n1 GPU 0: ")
    assert "1 in use outside of gpuq (n1 GPU 3: in use by job 7)" in reason.text


def test_a_node_that_fails_its_self_checks_gets_no_new_work_until_they_pass() -> None:
    desk = Desk()
    running = desk.submit(gpus=1)
    desk.run(running)
    desk.sync(inventory=replace(an_inventory(), trouble="cannot write to /tmp: No space left on device"))
    job = desk.submit()
    desk.plan()
    reason = desk.reason(job)
    assert reason is not None
    assert reason.code is WaitCode.NO_NODES
    assert "n1 fails its self-checks: cannot write to /tmp" in reason.text
    assert desk.state(running).value == "RUNNING"
    desk.sync(inventory=an_inventory())
    desk.plan()
    assert desk.state(job).value == "ALLOCATED"
    assert [kind for kind, _ in said(desk, "node.")] == ["node.trouble", "node.fit"]


FAULT = f"GPU 2 of n1: {XID}"


@pytest.mark.parametrize(
    "end",
    [
        exited(None, signal=15, stopped=StopKind.GPU_FAULT, gpu_fault=FAULT),
        exited(1, gpu_fault=FAULT),
        exited(None, signal=6, gpu_fault=FAULT),
        ExitRecord(EndReason.SUPERVISOR_LOST, WALL, gpu_fault=FAULT),
    ],
)
def test_a_job_whose_gpu_failed_runs_again_at_no_cost_to_its_own_budget(end: Any) -> None:
    desk = Desk()
    job = desk.submit(gpus=1, max_retries=1)
    desk.run(job)
    desk.end(job, end)
    assert desk.state(job).value == "QUEUED"
    assert (desk.job(job).retries_used, desk.job(job).losses_used) == (0, 1)
    assert desk.job(job).eligible_at is None
    cause = desk.attempt(job).cause
    assert cause is not None
    assert (cause.code.value, cause.text) == ("gpu_fault", FAULT)


def test_a_job_whose_gpu_failed_fails_for_it_where_it_must_not_run_again_or_has_lost_too_many() -> None:
    desk = Desk()
    once = desk.submit(gpus=1, requeue=False)
    desk.run(once)
    desk.end(once, exited(1, gpu_fault=FAULT))
    assert (desk.state(once).value, desk.cause(once)) == ("FAILED", ("gpu_fault", FAULT))
    often = desk.submit(gpus=1)
    for _ in range(11):
        desk.run(often)
        desk.end(often, exited(1, gpu_fault=FAULT))
    assert (desk.state(often).value, desk.job(often).losses_used) == ("FAILED", 10)


def test_what_succeeded_or_was_cancelled_stays_so_though_its_gpu_failed() -> None:
    desk = Desk()
    well, cancelled = desk.submit(gpus=1), desk.submit(gpus=1)
    desk.run(well)
    desk.run(cancelled)
    desk.end(well, exited(0, gpu_fault=FAULT))
    desk.cancel(cancelled)
    desk.end(cancelled, exited(None, signal=15, stopped=StopKind.CANCEL, gpu_fault=FAULT))
    assert desk.states_of(well, cancelled) == ["SUCCEEDED", "CANCELED"]
