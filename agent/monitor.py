"""What the agent says of its machine: the inventory, which rarely changes, and a sample every few seconds.

Here readings of GPUs meet what is known of processes: which belong to an attempt, and which to somebody else.

sample() is the one call that works and may block, for agent.gpus.DEADLINE_SECONDS at most while the driver is sick:
give it to a thread, one call at a time. inventory() is what the last sample found and costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from agent.foreign import ForeignUses, in_words, is_harmless
from agent.gpus import GpuReading
from agent.selfcheck import TEMPORARY, trouble
from agent.tenants import Tenancy, Tenants, described
from gpuq.codec import encode
from gpuq.enforced import NOTHING, Enforced
from gpuq.gpu_use import ForeignUse, GpuProcess
from gpuq.model import AttemptUid, Now
from gpuq.node import Gpu, GpuHealth, GpuSample, Inventory, NodeSample
from gpuq.version import VERSION


class GpuSource(Protocol):
    """Real or simulated GPUs."""

    @property
    def simulated(self) -> bool: ...

    def read(self, now: float, held: Mapping[int, float]) -> GpuReading: ...

    def pardon(self, uuid: str, number: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while the machine is up.

    boot_id is the kernel's, so containers share it with their host and with each other. cpus are those this process
    may run on; a cgroup's quota and memory limit are not looked at.
    """

    hostname: str
    boot_id: str
    cpus: int
    memory_total_bytes: int


def read_host_facts(proc: Path = Path("/proc")) -> HostFacts:
    return HostFacts(
        hostname=socket.gethostname(),
        boot_id=(proc / "sys/kernel/random/boot_id").read_text().strip(),
        cpus=len(os.sched_getaffinity(0)),
        memory_total_bytes=_meminfo(proc)["MemTotal"],
    )


class Monitor:
    """Reads one machine. state_dir is the folder whose file system is reported as the node's disk.

    labels are the node's own attributes; address says how others reach it, which may change while it runs; enforced,
    what jobs are held to.
    """

    def __init__(
        self,
        source: GpuSource,
        host: HostFacts,
        state_dir: Path,
        proc: Path = Path("/proc"),
        labels: Mapping[str, str] | None = None,
        address: Callable[[], str] = str,
        enforced: Enforced = NOTHING,
    ) -> None:
        self._labels, self._address, self._enforced = labels or {}, address, enforced
        self._source = source
        self._foreign = ForeignUses()
        self.reading = GpuReading((), (), note="the GPUs have not been read yet")
        self._host = host
        self._state_dir = state_dir
        self._proc = proc
        self._cpu_before: tuple[int, int] | None = None
        self._inventory = self._take_stock(self.reading, "")

    def inventory(self) -> Inventory:
        """What the node offers, as of the last sample; before the first it has no GPUs."""
        return self._inventory

    def sample(self, now: Now, held: Mapping[AttemptUid, Tenancy]) -> NodeSample:
        """A reading of everything, one GpuSample per GPU of the inventory, which is brought up to date with it.

        held is what the attempts here hold. It must not change during the call: from an event loop, pass a copy.
        cpu_percent is of all CPUs of the machine since the sample before, None in the first. The disk is None if it
        cannot be asked. The reading of the GPUs stays in `reading`.
        """
        busy = {index: tenancy.since for tenancy in held.values() for index in tenancy.gpus}
        reading = self._source.read(now.monotonic, busy)
        if not self._source.simulated and reading.gpus:
            reading = self._with_users(reading, held, now)
        self.reading = reading
        self._inventory = self._take_stock(reading, trouble((self._state_dir, TEMPORARY)))
        memory = _meminfo(self._proc)
        try:
            disk = shutil.disk_usage(self._state_dir)
        except OSError:
            disk = None
        return NodeSample(
            gpus=reading.samples,
            cpu_percent=self._cpu_percent(),
            memory_used_bytes=memory["MemTotal"] - memory["MemAvailable"],
            disk_total_bytes=disk and disk.total,
            disk_used_bytes=disk and disk.used,
        )

    def _with_users(self, reading: GpuReading, held: Mapping[AttemptUid, Tenancy], now: Now) -> GpuReading:
        """The reading with the processes' owners, and who uses a GPU without having been given it."""
        # Looked at after the GPUs: whatever computes there and is ours has its run's directory by now.
        tenants = Tenants(self._state_dir / "runs") if any(sample.processes for sample in reading.samples) else None
        gpus, samples = [], []
        for gpu, sample in zip(reading.gpus, reading.samples, strict=True):
            processes: list[GpuProcess] = []
            intruders: list[GpuProcess] = []
            for found in sample.processes:
                process = described(found)
                if process is None or tenants is None:
                    continue  # it has ended, or is of another pid namespace
                uid = tenants.owner(process.pid)
                tenancy = None if uid is None else held.get(uid)
                process = process if tenancy is None else replace(process, job=tenancy.job)
                processes.append(process)
                if not is_harmless(process) if uid is None else tenancy and gpu.index not in tenancy.gpus:
                    intruders.append(process)
            is_held = any(gpu.index in tenancy.gpus for tenancy in held.values())
            unexplained = 0 if is_held else _unexplained(sample, processes, reading.other_memory.get(gpu.index, 0))
            use = self._foreign.observe(gpu.uuid, intruders, unexplained, now.monotonic, now.wall)
            samples.append(replace(sample, processes=tuple(processes)))
            gpus.append(_used(gpu, use))
        return replace(reading, gpus=tuple(gpus), samples=tuple(samples))

    def pardon(self, uuid: str, number: int) -> None:
        """An admin's word on a GPU's fault; shows in the next sample. Not while one is taken."""
        self._source.pardon(uuid, number)

    def close(self) -> None:
        """Let go of the driver."""
        self._source.close()

    def _take_stock(self, reading: GpuReading, trouble: str) -> Inventory:
        return Inventory(
            hostname=self._host.hostname,
            gpus=reading.gpus,
            cpus=self._host.cpus,
            memory_total_bytes=self._host.memory_total_bytes,
            simulated=self._source.simulated,
            agent_version=VERSION,
            driver_version=reading.driver_version,
            address=self._address(),
            labels=self._labels,
            gpu_note=reading.note,
            trouble=trouble,
            enforced=self._enforced,
        )

    def _cpu_percent(self) -> float | None:
        with open(self._proc / "stat") as file:
            ticks = [int(n) for n in file.readline().split()[1:9]]  # guest time, which follows, is part of user time
        total, idle = sum(ticks), ticks[3] + ticks[4]  # waiting for a disk is idle
        before, self._cpu_before = self._cpu_before, (total, idle)
        if before is None or total <= before[0]:
            return None
        # idle may run backwards by a tick when a CPU goes offline
        busy = 1 - max(0, idle - before[1]) / (total - before[0])
        return round(100 * max(0.0, busy), 1)


def _used(gpu: Gpu, use: ForeignUse | None) -> Gpu:
    if use is None:
        return gpu
    if gpu.health is not GpuHealth.OK:
        return replace(gpu, foreign=use)
    return replace(gpu, foreign=use, health=GpuHealth.FOREIGN, health_text=in_words(use))


def _unexplained(sample: GpuSample, processes: list[GpuProcess], other: int) -> int:
    """Bytes in use that no process which can be seen accounts for; 0 if one of them does not say how much it has."""
    if sample.memory_used_bytes is None or any(process.memory_used_bytes is None for process in processes):
        return 0
    return sample.memory_used_bytes - other - sum(process.memory_used_bytes or 0 for process in processes)


def inventory_hash(inventory: Inventory) -> str:
    """16 hexadecimal digits that change when anything in the inventory does."""
    text = json.dumps(encode(inventory), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _meminfo(proc: Path) -> dict[str, int]:
    """Bytes by name; only what is needed is parsed, since this runs every few seconds."""
    found: dict[str, int] = {}
    with open(proc / "meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                found[name] = int(rest.split()[0]) << 10
                if len(found) == 2:
                    break
    return found
