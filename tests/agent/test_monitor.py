from __future__ import annotations

import dataclasses
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.gpus import GpuReading
from agent.monitor import HostFacts, Monitor, inventory_hash, read_host_facts
from agent.simulated import SimulatedGpus, parse_simulated
from agent.tenants import Tenancy
from gpuq.model import AttemptUid, JobId, NodeName, Now
from gpuq.node import Gpu, GpuHealth, GpuSample, Inventory
from gpuq.version import VERSION

HOST = HostFacts("host1", "boot-1", 16, 64 << 30)
GPU = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 80 << 30)


class Driver:
    """A source whose next reading the test sets."""

    simulated = False

    def __init__(self, reading: GpuReading) -> None:
        self.reading = reading
        self.closed = False

    def read(self, now: float, held: Mapping[int, float]) -> GpuReading:
        del now, held
        return self.reading

    def pardon(self, uuid: str, number: int) -> None:
        raise AssertionError((uuid, number))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "sys/kernel/random/boot_id").write_text("0b5e-boot\n")
    (folder / "meminfo").write_text(
        "MemTotal:       67108864 kB\nMemFree:         1000000 kB\nMemAvailable:   50331648 kB\nBuffers: 1 kB\n"
    )
    ticks(folder, user=100, idle=900)
    return folder


def ticks(proc: Path, user: int, idle: int, iowait: int = 0) -> None:
    # guest time (the ninth number) is counted in user time already
    (proc / "stat").write_text(f"cpu  {user} 0 0 {idle} {iowait} 0 0 0 {user} 0\ncpu0 1 1 1 1\nintr 12345\n")


def monitor(proc: Path, reading: GpuReading | None = None) -> tuple[Monitor, Driver]:
    driver = Driver(reading or GpuReading((), ()))
    return Monitor(driver, HOST, proc, proc), driver


def test_host_facts_are_the_machines_own() -> None:
    facts = read_host_facts()
    assert facts.hostname == socket.gethostname()
    assert str(uuid.UUID(facts.boot_id)) == facts.boot_id
    assert facts.cpus == len(os.sched_getaffinity(0))
    assert facts.memory_total_bytes > 1 << 28


def test_cpus_are_those_this_process_may_run_on(proc: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert read_host_facts(proc) == HostFacts(socket.gethostname(), "0b5e-boot", 1, 64 << 30)
    finally:
        os.sched_setaffinity(0, before)


def test_cpu_percent_is_the_busy_share_since_the_sample_before(proc: Path) -> None:
    it, _ = monitor(proc)
    assert it.sample(Now(0, 0), {}).cpu_percent is None
    ticks(proc, user=125, idle=950, iowait=25)
    assert it.sample(Now(5, 5), {}).cpu_percent == 25.0
    assert it.sample(Now(5, 5), {}).cpu_percent is None  # no time went by
    ticks(proc, user=225, idle=949, iowait=25)  # a CPU that went offline takes its idle time with it
    assert it.sample(Now(10, 10), {}).cpu_percent == 100.0


def test_memory_and_disk_of_the_machine(proc: Path) -> None:
    it, _ = monitor(proc)
    sample = it.sample(Now(0, 0), {})
    assert sample.memory_used_bytes == 16 << 30
    assert sample.disk_total_bytes is not None
    assert sample.disk_used_bytes is not None
    assert 0 < sample.disk_used_bytes <= sample.disk_total_bytes


def test_disk_that_is_gone_is_unknown(proc: Path) -> None:
    sample = Monitor(Driver(GpuReading((), ())), HOST, proc / "gone", proc).sample(Now(0, 0), {})
    assert (sample.disk_total_bytes, sample.disk_used_bytes) == (None, None)


def test_inventory_follows_the_last_sample(proc: Path) -> None:
    it, driver = monitor(proc, GpuReading((GPU,), (GpuSample(0, 5),), "550.1", "a note"))
    assert it.inventory().gpus == ()
    assert it.inventory().gpu_note == "the GPUs have not been read yet"
    assert it.sample(Now(0, 0), {}).gpus == (GpuSample(0, 5),)
    assert it.inventory() == Inventory("host1", (GPU,), 16, 64 << 30, False, VERSION, "550.1", gpu_note="a note")
    sick = dataclasses.replace(GPU, health=GpuHealth.UNKNOWN, health_text="silent")
    driver.reading = GpuReading((sick,), (GpuSample(0),))
    assert it.inventory().gpus == (GPU,)
    it.sample(Now(5, 5), {})
    assert it.inventory().gpus == (sick,)
    it.close()
    assert driver.closed


def test_inventory_hash_changes_with_the_inventory_and_not_with_samples(proc: Path) -> None:
    it, driver = monitor(proc, GpuReading((GPU,), (GpuSample(0, 5),)))
    it.sample(Now(0, 0), {})
    first = inventory_hash(it.inventory())
    driver.reading = GpuReading((GPU,), (GpuSample(0, 6),))
    it.sample(Now(5, 5), {})
    assert inventory_hash(it.inventory()) == first
    sick = dataclasses.replace(GPU, health=GpuHealth.QUARANTINED)
    driver.reading = GpuReading((sick,), (GpuSample(0),))
    it.sample(Now(10, 10), {})
    assert inventory_hash(it.inventory()) != first
    assert len(first) == 16


def test_inventory_hash_is_the_same_in_every_process() -> None:
    inventory = Inventory("host1", (GPU,), 16, 64 << 30, False, "0.1.0")
    assert inventory_hash(inventory) == "ea05c8a0a184b831"


def test_simulated_gpus_are_marked_in_the_inventory(proc: Path) -> None:
    it = Monitor(SimulatedGpus(parse_simulated("2xH100-80GB", NodeName("a3"))), HOST, proc, proc)
    sample = it.sample(Now(100.0, 0), {AttemptUid("a"): Tenancy(JobId("1"), (1,), 0.0)})
    assert it.inventory().simulated
    assert [g.name for g in it.inventory().gpus] == ["H100-80GB", "H100-80GB"]
    assert (sample.gpus[0].utilization_percent, (sample.gpus[1].utilization_percent or 0) > 50) == (0, True)
    it.close()
