"""The things gpuq knows of machines: what a node offers, and what was last measured there.

Frozen, and None is "not known", as in model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gpuq.accounts import EVERYONES, Accounts
from gpuq.enforced import NOTHING, Enforced
from gpuq.gpu_use import ForeignUse, GpuProcess
from gpuq.model import NodeName


class GpuHealth(str, Enum):
    OK = "ok"
    UNKNOWN = "unknown"  # the driver cannot be asked: no new work, running jobs left alone
    QUARANTINED = "quarantined"  # this device fails while others answer, or has had a fault
    FOREIGN = "foreign"  # used by somebody gpuq did not give it to: no new work until it is calm


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as offered by its agent. index is NVML's, in PCI bus order.

    fault numbers the fault for which it is quarantined, for as long as it is; 0 without one. pardoned is the
    controller's own mark: the number of the fault that an admin has forgiven, until the agent has heard of that.
    """

    index: int
    uuid: str
    name: str  # as the driver says it: 'NVIDIA H100 80GB HBM3'
    memory_total_bytes: int | None
    health: GpuHealth = GpuHealth.OK
    health_text: str = ""
    foreign: ForeignUse | None = None
    fault: int = 0
    pardoned: int = 0
    distances: str = ""  # a digit for each GPU of the machine, see agent/topology.py; empty: nothing to choose by


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a node offers. Changes rarely; sent by the agent when it does."""

    hostname: str
    gpus: tuple[Gpu, ...]  # by index
    cpus: int
    memory_total_bytes: int
    simulated: bool
    agent_version: str
    driver_version: str | None = None
    address: str = ""  # where the node's jobs can be reached by those of other nodes; empty: by its host name
    labels: Mapping[str, str] = field(default_factory=dict)  # of `agent --label`; without a value the empty text
    gpu_note: str = ""  # why there are no GPUs, or why they are unknown, for people
    trouble: str = ""  # what a self-check of the node found: no new work while it lasts
    accounts: Accounts = EVERYONES
    enforced: Enforced = NOTHING


@dataclass(frozen=True, slots=True)
class Node:
    name: NodeName
    cordoned: bool = False
    draining: bool = False
    cordon_text: str = ""  # who and why
    boot_id: str | None = None  # None: has never reported
    inventory: Inventory | None = None
    enrolled_at: float = 0.0


MAX_GPU_PROCESSES = 64  # told of one GPU


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of one GPU. None is 'not known', never zero."""

    index: int
    memory_used_bytes: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    clock_mhz: int | None = None  # of the multiprocessors
    memory_clock_mhz: int | None = None
    throttled: tuple[str, ...] | None = None  # what holds its clocks back now, in words; empty: nothing does
    ecc_corrected: int | None = None  # since the driver was loaded or the GPU reset, as the next
    ecc_uncorrected: int | None = None
    rows_remapped: int | None = None  # of memory, for good
    remap_pending: bool | None = None  # a row is remapped with the next reset
    remap_failed: bool | None = None
    xid: int | None = None  # number of the last error of its driver in the agent's life
    processes: tuple[GpuProcess, ...] = ()  # those that compute on it, at most MAX_GPU_PROCESSES


@dataclass(frozen=True, slots=True)
class NodeSample:
    """One reading of a node: volatile, shown to people, never decided on."""

    gpus: tuple[GpuSample, ...] = ()
    cpu_percent: float | None = None
    memory_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_used_bytes: int | None = None
