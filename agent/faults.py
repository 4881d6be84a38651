"""Which GPUs are quarantined for a fault, since when, and when one may work again. Pure.

A fault is an Xid after which a GPU needs a reset, an uncorrectable memory error, or the loss of the device while
others answer. It stands until a probe in a new session of the driver finds the GPU clean, which is tried later each
time, or until an admin pardons it, or the machine restarts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.nvml import Device

# The driver's error numbers after which NVIDIA's catalog (docs.nvidia.com/deploy/xid-errors) has a GPU reset, a node
# restarted or the hardware looked at. Those that only end the application (13, 31, 43, 45, 94 ...) are its own matter.
FATAL_XIDS: Mapping[int, str] = {
    46: "the GPU stopped processing",
    48: "uncorrectable memory error",
    62: "the GPU's microcontroller halted",
    64: "memory could not be remapped",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    95: "uncontained memory error",
    109: "context switch timeout",
    110: "security fault",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
    136: "link training failed",
    140: "unrecovered memory error",
    143: "the GPU could not be initialised",
}
PROBE_SECONDS, PROBE_MAX_SECONDS = 300.0, 6 * 3600.0  # doubled with each fault that a GPU has in one boot
_REMAP = "a row of its memory could not be remapped"


@dataclass(frozen=True, slots=True)
class Fault:
    """number is unique in this boot. since is monotonic seconds. ends_job: it befell whoever had the GPU then."""

    number: int
    text: str
    since: float
    ends_job: bool
    probes: int = 0  # made since, all in vain


@dataclass(frozen=True, slots=True)
class GpuHistory:
    """What is remembered of one GPU while the machine is up."""

    uuid: str
    fault: Fault | None = None
    faults: int = 0  # it had
    uncorrected: int | None = None  # memory errors that are known already
    pardoned: tuple[str, ...] = ()  # lasting conditions that an admin has put up with


@dataclass(frozen=True, slots=True)
class Kept:
    """All of it, as it is written down for the next agent of this boot."""

    last_number: int = 0
    gpus: tuple[GpuHistory, ...] = ()


class Faults:
    """See the module's docstring; kept is what the last agent of this boot wrote down."""

    def __init__(self, kept: Kept = Kept()) -> None:
        self._last = kept.last_number
        self._gpus = {history.uuid: history for history in kept.gpus}

    def of(self, uuid: str) -> Fault | None:
        history = self._gpus.get(uuid)
        return None if history is None else history.fault

    def kept(self) -> Kept:
        return Kept(self._last, tuple(self._gpus.values()))

    def probe_due(self, now: float) -> bool:
        """Whether the next reading is to be in a new session, since a quarantined GPU may be well again."""
        return any(h.fault is not None and now >= _probe_at(h, h.fault) for h in self._gpus.values())

    def observe(self, devices: Sequence[Device], gone: Iterable[str], now: float, fresh: bool) -> None:
        """Takes a reading: new faults begin, and those end whose GPU was found clean in a fresh session.

        gone are uuids that are known and no longer listed. Losses count only beside a device that answers: where none
        does, it is the driver.
        """
        some_answer = any(not device.failure for device in devices)
        for device in devices:
            if device.uuid is not None:
                self._observe(device, device.uuid, now, fresh, some_answer)
        for uuid in gone if some_answer else ():
            self._lose(uuid, "the driver lost it", now)

    def pardon(self, uuid: str, number: int) -> None:
        """An admin's word that the fault of this number is none, or not any more."""
        history = self._gpus.get(uuid)
        if history is not None and history.fault is not None and history.fault.number == number:
            lasting = tuple(dict.fromkeys((*history.pardoned, history.fault.text)))
            self._gpus[uuid] = replace(history, fault=None, pardoned=lasting)

    def miss(self, uuid: str, text: str, now: float) -> None:
        """A GPU that is to be there is not."""
        self._begin(uuid, text, now, ends_job=False)

    def _observe(self, device: Device, uuid: str, now: float, fresh: bool, some_answer: bool) -> None:
        history = self._gpus.get(uuid, GpuHistory(uuid))
        fatal = next((xid for xid in device.xids if xid in FATAL_XIDS), None)
        errors, known = device.sample.ecc_uncorrected, history.uncorrected
        if errors is not None:
            history = self._gpus[uuid] = replace(history, uncorrected=errors)
        if fatal is not None:
            self._begin(uuid, f"Xid {fatal}: {FATAL_XIDS[fatal]}", now, ends_job=True)
        elif errors and errors > (known or 0):
            text = f"{errors} uncorrectable memory {'error' if errors == 1 else 'errors'}"
            self._begin(uuid, text, now, ends_job=known is not None)
        elif fresh and history.fault is not None and now >= _probe_at(history, history.fault):
            self._probed(uuid, device, history, history.fault)
        elif device.lost and some_answer:
            self._lose(uuid, device.failure, now)
        elif device.sample.remap_failed and history.fault is None and _REMAP not in history.pardoned:
            self._begin(uuid, _REMAP, now, ends_job=False)

    def _lose(self, uuid: str, text: str, now: float) -> None:
        history = self._gpus.get(uuid, GpuHistory(uuid))
        if history.fault is None and text not in history.pardoned:
            self._begin(uuid, text, now, ends_job=True)

    def _begin(self, uuid: str, text: str, now: float, *, ends_job: bool) -> None:
        history = self._gpus.get(uuid, GpuHistory(uuid))
        self._last += 1
        self._gpus[uuid] = replace(
            history, fault=Fault(self._last, text, now, ends_job), faults=history.faults + 1, pardoned=()
        )

    def _probed(self, uuid: str, device: Device, history: GpuHistory, fault: Fault) -> None:
        sample = device.sample
        ill = device.failure or sample.ecc_uncorrected or sample.remap_failed or sample.remap_pending
        still = replace(fault, probes=fault.probes + 1) if ill else None
        self._gpus[uuid] = replace(history, fault=still)


def _probe_at(history: GpuHistory, fault: Fault) -> float:
    wait = min(PROBE_SECONDS * 2.0 ** min(history.faults - 1, 16), PROBE_MAX_SECONDS)
    return fault.since + wait * (fault.probes + 1)
