"""The machine's real GPUs: readings that never block for long, and what a silent driver means.

The driver is asked in a child process, with a deadline (agent/driver.py). Three ways to fail, told apart because they
mean different things to the scheduler:

- no driver library, and none before: a machine without GPUs;
- the driver as a whole fails or is silent, or no device answers: every GPU known so far is UNKNOWN, and what runs is
  left alone;
- one device fails among readable ones, or has had a fault (agent/faults.py): that one is QUARANTINED.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.driver import Driver, DriverSilent
from agent.faults import Faults, Kept
from agent.nvml import Device, DriverAbsent, DriverFailing, DriverReading
from agent.selection import GpuSelection
from gpuq.node import Gpu, GpuHealth, GpuSample

logger = logging.getLogger(__name__)

_LOST = "the driver lost it"
# Opening NVML without persistence mode takes seconds on a machine with eight GPUs; a longer silence is trouble.
DEADLINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What is offered now. samples has one entry per GPU, in the same order; note is for people, often ''.

    Texts do not change while their cause lasts, so that an inventory made of them does not either. other_memory is
    what processes that do not compute use, by index, in bytes. fatal says, by index, which fault ends who holds the
    GPU. renumbered: CUDA counts the GPUs otherwise than by these indices.
    """

    gpus: tuple[Gpu, ...]  # by index
    samples: tuple[GpuSample, ...]
    driver_version: str | None = None
    note: str = ""
    other_memory: Mapping[int, int] = field(default_factory=dict)
    fatal: Mapping[int, str] = field(default_factory=dict)
    renumbered: bool = False


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is written down of a machine's GPUs, for the next agent.

    known are GPUs seen since the machine booted: until the driver answers they are UNKNOWN, rather than not there.
    before are those of the boot before: one that does not come back is shown, and waits for somebody to look.
    """

    known: tuple[Gpu, ...] = ()
    faults: Kept = Kept()  # noqa: RUF009 - frozen
    before: tuple[Gpu, ...] = ()


class RealGpus:
    """The GPUs of this machine that `selection` offers.

    An index stays with its uuid for as long as this object lives, even if the driver drops a device and counts the
    others anew.
    """

    simulated = False

    def __init__(
        self,
        selection: GpuSelection,
        remembered: Remembered = Remembered(),
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._selection = selection
        self._known = remembered.known
        self._before = remembered.before
        self._faults = Faults(remembered.faults)
        self._deadline = deadline_seconds
        self._driver = Driver()
        self._driver_version: str | None = None
        self._trouble = ""
        self._xids: dict[str, int] = {}  # the last of each GPU
        self._listed: frozenset[str | None] = frozenset()  # by the driver, in the last reading
        self._renumbered = False

    @property
    def driver_pid(self) -> int | None:
        """Of the process that asks the driver, while there is one."""
        return self._driver.pid

    def remembered(self) -> Remembered:
        """What to write down now."""
        return Remembered(self._known, self._faults.kept(), self._before)

    def pardon(self, uuid: str, number: int) -> None:
        """An admin's word on a fault: the GPU may work again, or if the driver does not list it, is forgotten."""
        self._faults.pardon(uuid, number)
        self._known = tuple(
            gpu for gpu in self._known if (gpu.uuid, gpu.fault) != (uuid, number) or uuid in self._listed
        )

    def read(self, now: float, held: Mapping[int, float]) -> GpuReading:
        """A reading that takes at most the deadline; now is monotonic seconds. One caller at a time.

        held is for simulated GPUs; real ones show what they do by themselves.
        """
        del held
        fresh = self._faults.probe_due(now)
        try:
            reading = self._driver.read(now, self._deadline, fresh)
        except DriverAbsent as error:
            return self._unknown(str(error)) if self._known else GpuReading((), (), note=str(error))
        except DriverFailing as error:
            return self._unknown(str(error))
        except DriverSilent:
            return self._unknown(f"the NVIDIA driver did not answer within {self._deadline:g} s")
        return self._take(reading, now, fresh)

    def close(self) -> None:
        """End the child, unless the kernel keeps it from that: then it ends by itself when its call returns."""
        self._driver.close()

    def _take(self, reading: DriverReading, now: float, fresh: bool) -> GpuReading:
        devices = reading.devices
        self._listed = listed = frozenset(device.uuid for device in devices)
        # While a device fails without telling its uuid, nobody can say which of the others is missing.
        gone = [] if None in listed else [g.uuid for g in self._known if g.uuid and g.uuid not in listed]
        self._xids |= {device.uuid: device.xids[-1] for device in devices if device.uuid and device.xids}
        self._faults.observe(devices, gone, now, fresh)
        self._known = place(devices, self._known)
        failures = [device.failure for device in devices]
        if failures and all(failures):
            return self._unknown(failures[0])
        self._driver_version = reading.driver_version
        self._miss(now)
        self._renumbered = [(g.index, g.uuid) for g in self._known] != [
            (d.index, d.uuid) for d in devices if not d.failure
        ]
        apart = () if self._renumbered else reading.distances
        self._known = tuple(
            replace(gpu, distances=apart[gpu.index] if gpu.index < len(apart) else "") for gpu in self._known
        )
        self._report("")
        return self._offer(devices, "" if devices else "the NVIDIA driver lists no GPUs")

    def _miss(self, now: float) -> None:
        """Shows what was there before the machine restarted and is not now, after those that are."""
        before, self._before = self._before, ()
        for gpu in before:
            if gpu.uuid and gpu.uuid not in self._listed.union(known.uuid for known in self._known):
                text = f"it was here before the machine restarted, as GPU {gpu.index}"
                self._faults.miss(gpu.uuid, text, now)
                index = max((known.index for known in self._known), default=-1) + 1
                self._known += (Gpu(index, gpu.uuid, gpu.name, gpu.memory_total_bytes, GpuHealth.QUARANTINED, text),)

    def _unknown(self, text: str) -> GpuReading:
        self._known = tuple([replace(g, health=GpuHealth.UNKNOWN, health_text=text) for g in self._known])
        self._report(text)
        return self._offer((), text)

    def _offer(self, devices: Sequence[Device], note: str) -> GpuReading:
        self._known = tuple([self._with_fault(gpu) for gpu in self._known])
        gpus = tuple([g for g in self._known if self._selection.offers(g)])
        missing = self._selection.missing(self._known)
        if missing and not note:
            note = f"--gpus names {', '.join(missing)}, which this machine does not have"
        read = {d.uuid: d for d in devices if d.uuid and not d.failure}
        samples = [replace(read[g.uuid].sample, index=g.index) if g.uuid in read else GpuSample(g.index) for g in gpus]
        faults = {gpu.index: self._faults.of(gpu.uuid) for gpu in gpus}
        return GpuReading(
            gpus,
            tuple([replace(s, xid=self._xids.get(g.uuid)) for g, s in zip(gpus, samples, strict=True)]),
            self._driver_version,
            note,
            {g.index: read[g.uuid].other_memory_bytes for g in gpus if g.uuid in read},
            {index: fault.text for index, fault in faults.items() if fault is not None and fault.ends_job},
            self._renumbered,
        )

    def _with_fault(self, gpu: Gpu) -> Gpu:
        fault = self._faults.of(gpu.uuid)
        if fault is None:
            return replace(gpu, fault=0)
        return replace(gpu, health=GpuHealth.QUARANTINED, health_text=fault.text, fault=fault.number)

    def _report(self, trouble: str) -> None:
        """Log when the driver goes and when it comes back, not at every reading between."""
        if trouble and trouble != self._trouble:
            logger.warning("gpus.unknown text=%s", trouble)
        elif self._trouble and not trouble:
            logger.warning("gpus.readable")
        self._trouble = trouble


def place(devices: Sequence[Device], known: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs of a machine after a reading, by index, given those known before.

    A uuid seen before keeps its index and, while it fails, the facts it had; a known GPU the driver no longer lists
    is QUARANTINED. A device without a known uuid gets the driver's index, or if that is another's the next free one.
    """
    before = {g.uuid: g for g in known if g.uuid}
    told = {d.uuid for d in devices if d.uuid}
    placed: dict[int, Gpu] = {}
    strangers = []
    for device in devices:
        gpu = before.get(device.uuid) if device.uuid else _silent_at(device.index, before, told)
        if gpu is None:
            strangers.append(device)
        else:
            placed[gpu.index] = _as_read(gpu, device)
    for gpu in before.values():
        placed.setdefault(gpu.index, replace(gpu, health=GpuHealth.QUARANTINED, health_text=_LOST))
    for device in strangers:
        index = device.index if device.index not in placed else max(placed) + 1
        blank = Gpu(index, device.uuid or "", device.name, device.memory_total_bytes)
        placed[index] = _as_read(blank, device)
    return tuple([placed[i] for i in sorted(placed)])


def _silent_at(index: int, before: Mapping[str, Gpu], told: set[str]) -> Gpu | None:
    """The GPU known at the index of a device that failed before it told its uuid, unless that one answered."""
    return next((g for g in before.values() if g.index == index and g.uuid not in told), None)


def _as_read(gpu: Gpu, device: Device) -> Gpu:
    if device.failure:
        return replace(gpu, health=GpuHealth.QUARANTINED, health_text=device.failure)
    return Gpu(gpu.index, gpu.uuid, device.name, device.memory_total_bytes)
