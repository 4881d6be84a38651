"""What is shown of GPUs: readings, processes, who uses one without gpuq, faults and pardons, and receipts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpuq.enforced import Enforced
from gpuq.gpu_use import ForeignUse, GpuProcess, GpuReceipt
from gpuq.model import EndReason, ExitRecord
from gpuq.node import GpuHealth, GpuSample, NodeSample
from gpuq.protocol import GpuPardon, Overuse
from tests.api.server import Agent, Running

XID = "Xid 79: the GPU has fallen off the bus"


@pytest.fixture(scope="module")
def agent(new_node: Callable[[], Agent]) -> Agent:
    return new_node()


def gpus(running: Running, agent: Agent) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = running.get(f"/nodes/{agent.name}")["gpus"]
    return shown


def test_all_that_was_read_is_shown_with_whose_the_processes_are(running: Running, agent: Agent) -> None:
    process = GpuProcess(42, 1 << 30, "bob", "python", "7")
    sample = GpuSample(
        0, 5, 90, 60, 300.5, 1_755, 2_619, ("heat",), 3, 1, 2, True, False, 31, (process,)
    )  # fmt: skip
    agent.sync(sample=NodeSample((sample, GpuSample(1))))
    first, second, *_ = gpus(running, agent)
    assert (first["clock_mhz"], first["memory_clock_mhz"], first["throttled"]) == (1_755, 2_619, ["heat"])
    assert (first["ecc_corrected"], first["ecc_uncorrected"], first["xid"]) == (3, 1, 31)
    assert (first["rows_remapped"], first["remap_pending"], first["remap_failed"]) == (2, True, False)
    assert first["processes"] == [
        {"pid": 42, "user": "bob", "command": "python", "job": "7", "memory_used_bytes": 1 << 30}
    ]
    assert (second["throttled"], second["ecc_corrected"], second["processes"]) == (None, None, [])


def test_whether_limits_are_enforced_is_the_nodes_own_word(running: Running, new_node: Callable[[], Agent]) -> None:
    agent = new_node()
    agent.inventory = replace(agent.inventory, enforced=Enforced("v1", memory=True, note="without the controller cpu"))
    agent.sync(inventory_hash="v1")
    node = running.get(f"/nodes/{agent.name}")
    assert node["enforced"] == {
        "cgroup": "v1",
        "memory": True,
        "cpus": False,
        "processes": False,
        "note": "without the controller cpu",
    }
    both = running.submit("ann", only_nodes=[agent.name], cpus=1, memory_bytes=1 << 20)
    neither = running.submit("ann", only_nodes=[agent.name])
    for id in (both, neither):
        agent.run(id)
    shown = [running.get(f"/jobs/{id}")["limits"] for id in (both, neither)]
    note = "without the controller cpu"
    assert shown == [
        [{"node": agent.name, "memory": True, "cpus": False, "note": note}],
        [{"node": agent.name, "memory": None, "cpus": None, "note": note}],
    ]


def test_who_has_more_of_a_gpu_than_its_share_is_shown_with_what_becomes_of_it(
    running: Running, new_node: Callable[[], Agent]
) -> None:
    agent = new_node()
    id = running.submit("ann", only_nodes=[agent.name], gpus=1, shared=True, gpu_memory_bytes=20 << 30)
    uid = agent.run(id)
    assert running.get(f"/jobs/{id}")["overuse"] == []
    agent.sync(overuse=(Overuse(uid, agent.orders[uid].ranks[0].gpus[0], 33 << 30, 7.5),))
    (over,) = running.get(f"/jobs/{id}")["overuse"]
    assert over == {
        "node": agent.name,
        "gpu": agent.orders[uid].ranks[0].gpus[0],
        "used_bytes": 33 << 30,
        "share_bytes": 20 << 30,
        "seconds": 7.5,
        "stopped_after_seconds": 60,
    }
    agent.sync()
    assert running.get(f"/jobs/{id}")["overuse"] == []


def test_foreign_use_and_faults_are_shown_to_everyone_and_an_admin_pardons(running: Running, agent: Agent) -> None:
    well = agent.inventory
    use = ForeignUse(1_700_000_000.0, 42, "bob", "python")
    cards = list(well.gpus)
    cards[1] = replace(cards[1], health=GpuHealth.FOREIGN, health_text="in use by bob", foreign=use)
    cards[2] = replace(cards[2], health=GpuHealth.QUARANTINED, health_text=XID, fault=9)
    agent.inventory = replace(well, gpus=tuple(cards), trouble="cannot write to /tmp: Read-only file system")
    agent.sync(inventory_hash="sick")
    node = running.ask("GET", f"/nodes/{agent.name}", "ann").json
    assert node["trouble"] == "cannot write to /tmp: Read-only file system"
    assert (node["gpus"][1]["health"], node["gpus"][1]["foreign"]) == (
        "foreign",
        {
            "since": "2023-11-14T22:13:20.000Z",
            "pid": 42,
            "user": "bob",
            "command": "python",
            "job": None,
            "memory_used_bytes": None,
        },
    )
    assert [gpu["fault"] for gpu in node["gpus"]] == [False, False, True, False]
    path = f"/nodes/{agent.name}/uncordon"
    assert running.ask("POST", path, "ann", {"gpu": 2}).status == 403
    assert running.ask("POST", path, "root", {"gpu": 1}).status == 409
    assert running.ask("POST", path, "root", {"gpu": -1}).status == 400
    assert agent.sync(inventory_hash="sick").pardon == ()
    assert running.ask("POST", path, "root", {"gpu": 2}).status == 200
    assert agent.sync(inventory_hash="sick").pardon == (GpuPardon(cards[2].uuid, 9),)
    agent.inventory = well
    assert agent.sync(inventory_hash="h").pardon == ()
    assert {gpu["health"] for gpu in gpus(running, agent)} == {"ok"}
    kinds = [event["kind"] for event in running.get(f"/events?node={agent.name}")["items"]]
    assert {"gpu.foreign", "gpu.quarantined", "gpu.pardoned", "gpu.ok", "node.trouble", "node.fit"} <= set(kinds)


def test_a_job_shows_how_it_used_its_gpus(running: Running, agent: Agent) -> None:
    id = running.submit("ann", gpus=2, only_nodes=[agent.name])
    uid = agent.run(id)
    (live,) = running.get(f"/jobs/{id}")["attempts"]
    assert (live["gpu_usage"]["gpus"], live["gpu_usage"]["utilization_percent"]) == (2, None)
    receipt = GpuReceipt(100.0, 10.0, 87.3, 61 << 30, 50_000.0, 5.0, (80, 95), (100, 200))
    agent.end(uid, ExitRecord(EndReason.EXITED, time.time(), exit_code=0, gpu_receipt=receipt))
    (attempt,) = running.get(f"/jobs/{id}")["attempts"]
    usage = attempt["gpu_usage"]
    assert 0 <= usage.pop("gpu_hours") < 0.1
    assert usage == {
        "gpus": 2,
        "observed_seconds": 100.0,
        "idle_seconds": 10.0,
        "utilization_percent": 87.3,
        "memory_peak_bytes": 61 << 30,
        "energy_joules": 50_000,
        "curves": [
            {"node": agent.name, "point_seconds": 5.0, "busy_percent": [80, 95], "memory_mib": [100, 200]},
        ],
    }
    without = running.submit("ann", only_nodes=[agent.name])
    agent.end(agent.run(without), ExitRecord(EndReason.EXITED, time.time(), exit_code=0))
    assert running.get(f"/jobs/{without}")["attempts"][0]["gpu_usage"] is None
