"""The only door to NVML, NVIDIA's driver library, through nvidia-ml-py (imported as pynvml).

Everything here blocks, and a sick driver may block it for ever: it is called in a process of its own (agent/driver.py).
A device's index is NVML's, which is PCI bus order: the order of nvidia-smi and of CUDA_DEVICE_ORDER=PCI_BUS_ID.
None means the driver does not say or the device does not support it; it is never written as 0.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from agent.topology import distances
from gpuq.gpu_use import GpuProcess
from gpuq.node import MAX_GPU_PROCESSES, GpuSample

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
# A session opened before a GPU was reset or came back may go on calling it lost: while a device fails, a new session
# is opened this often. Opening one takes up to seconds where the driver keeps no state between users.
REPROBE_SECONDS = 60.0
_SWITCH = "switch"  # in place of an address
_SWITCH_TYPE = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH, which older bindings do not name
_LARGEST = 2**63 - 1  # that can be told to anybody (gpuq/codec.py)
_MAX_XIDS = 64  # taken in one reading: a GPU that fails may raise them faster than they are read
# What holds clocks back, by the names of the library's constants; that a GPU is idle or was told so is no trouble.
_THROTTLES = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSyncBoost": "slowest of its group",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


class DriverAbsent(Exception):
    """There is no driver library to ask: most likely a machine without NVIDIA GPUs."""


class DriverFailing(Exception):
    """The driver as a whole cannot be asked. The text is the same each time the cause is."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of one reading. failure is '' when the device answers, else the driver's words.

    uuid is None only if the device failed before it could be told; name falls back to 'unknown GPU'. lost: the driver
    says that it is gone or must be reset. xids are those raised since the reading before, oldest first.
    other_memory_bytes is that of processes which do not compute, a display's for example.
    """

    index: int
    uuid: str | None
    name: str
    memory_total_bytes: int | None
    sample: GpuSample
    failure: str = ""
    lost: bool = False
    xids: tuple[int, ...] = ()
    other_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DriverReading:
    driver_version: str | None
    devices: tuple[Device, ...]  # in NVML index order
    distances: tuple[str, ...] = ()  # between them, see agent/topology.py; empty: not known, or all alike


class _DeviceFailing(Exception):
    def __init__(self, text: str, lost: bool = False) -> None:
        super().__init__(text)
        self.lost = lost


class Nvml:
    """An NVML session, opened at the first read and again after the driver failed. For one thread only."""

    def __init__(self) -> None:
        self._lib: Any = None
        self._open = False
        self._opened_at = 0.0
        self._driver_version: str | None = None
        self._identity: dict[int, tuple[Any, str, str]] = {}  # handle, uuid and name by index; fixed in a session
        self._some_failed = False
        self._events: Any = None  # the set through which the driver tells of Xids, where it can
        self._xids: dict[int, list[int]] = {}  # by index, since the last reading
        self._distances: tuple[str, ...] | None = None  # once all devices have answered in a session

    @property
    def loaded(self) -> bool:
        """Whether the driver's library is in this process; it then stays there."""
        return self._lib is not None

    def read(self, now: float) -> DriverReading:
        """Every device with its sample; now is monotonic seconds. Raises DriverAbsent or DriverFailing."""
        lib = self._load()
        try:
            if self._open and self._some_failed and now - self._opened_at >= REPROBE_SECONDS:
                self.close()
            if not self._open:
                self._start(now)
            count = lib.nvmlDeviceGetCount()
            self._take_xids()
            devices = tuple([self._device(i) for i in range(count)])
            if self._distances is None and not any(d.failure for d in devices):
                self._distances = self._measure(count)
        except lib.NVMLError as error:
            self.close()
            raise DriverFailing(f"NVML: {error}") from error
        self._some_failed = any(d.failure for d in devices)
        return DriverReading(self._driver_version, devices, self._distances or ())

    def close(self) -> None:
        """End the session, if one is open; the next read opens another."""
        self._identity.clear()
        self._xids.clear()
        self._distances = None
        if self._open:
            self._open = False
            if self._events is not None:
                with suppress(self._lib.NVMLError):
                    self._lib.nvmlEventSetFree(self._events)
                self._events = None
            with suppress(self._lib.NVMLError):  # if the driver is what failed, there is no session left to end
                self._lib.nvmlShutdown()

    def _load(self) -> Any:
        if self._lib is None:
            # Asked here before pynvml asks, because it says the same of a missing and a broken library, and because
            # importing it costs 2 to 5 MB of memory that a machine without GPUs need not spend.
            try:
                ctypes.CDLL(LIBRARY)
            except OSError as error:
                raise _unloadable(str(error)) from error
            self._lib = importlib.import_module("pynvml")
        return self._lib

    def _start(self, now: float) -> None:
        lib = self._lib
        lib.nvmlInit()
        self._open, self._opened_at = True, now
        self._driver_version = self._optional(lib.nvmlSystemGetDriverVersion)

    def _device(self, index: int) -> Device:
        try:
            handle, uuid, name = self._identify(index)
        except _DeviceFailing as error:
            return self._failed(Device(index, None, "unknown GPU", None, GpuSample(index)), error)
        try:
            total, used = self._memory(handle)
            sample = self._sample(index, handle, used)
            other = self._other_memory(handle, sample.processes)
        except _DeviceFailing as error:
            return self._failed(Device(index, uuid, name, None, GpuSample(index)), error)
        return Device(index, uuid, name, total, sample, xids=self._raised(index), other_memory_bytes=other)

    def _failed(self, device: Device, error: _DeviceFailing) -> Device:
        return replace(device, failure=str(error), lost=error.lost, xids=self._raised(device.index))

    def _raised(self, index: int) -> tuple[int, ...]:
        return tuple(self._xids.pop(index, ()))

    def _sample(self, index: int, handle: Any, used: int | None) -> GpuSample:
        lib = self._lib
        power_mw = self._optional(lib.nvmlDeviceGetPowerUsage, handle)
        remapped = self._optional(lib.nvmlDeviceGetRemappedRows, handle)
        return GpuSample(
            index,
            memory_used_bytes=used,
            utilization_percent=self._optional(lambda: int(lib.nvmlDeviceGetUtilizationRates(handle).gpu)),
            temperature_c=self._optional(lib.nvmlDeviceGetTemperature, handle, lib.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            clock_mhz=self._optional(lib.nvmlDeviceGetClockInfo, handle, lib.NVML_CLOCK_SM),
            memory_clock_mhz=self._optional(lib.nvmlDeviceGetClockInfo, handle, lib.NVML_CLOCK_MEM),
            throttled=self._throttled(handle),
            ecc_corrected=self._ecc(handle, lib.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ecc_uncorrected=self._ecc(handle, lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            rows_remapped=None if remapped is None else remapped[0] + remapped[1],
            remap_pending=None if remapped is None else bool(remapped[2]),
            remap_failed=None if remapped is None else bool(remapped[3]),
            processes=self._processes(handle),
        )

    def _throttled(self, handle: Any) -> tuple[str, ...] | None:
        lib = self._lib
        # The older name of the call: every driver still has it.
        mask = self._optional(lib.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return None if mask is None else tuple(text for name, text in _THROTTLES.items() if mask & getattr(lib, name))

    def _ecc(self, handle: Any, kind: int) -> int | None:
        return _number(self._optional(self._lib.nvmlDeviceGetTotalEccErrors, handle, kind, self._lib.NVML_VOLATILE_ECC))

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        """Those that compute, by pid. A pid is the host's: in a container it may be that of nobody there."""
        lib = self._lib
        found = self._optional(lib.nvmlDeviceGetComputeRunningProcesses_v3, handle)
        if found is None:  # a driver before 510
            found = self._optional(lib.nvmlDeviceGetComputeRunningProcesses_v2, handle) or ()
        processes = sorted(found, key=lambda p: int(p.pid))
        return tuple(GpuProcess(int(p.pid), _number(p.usedGpuMemory)) for p in processes[:MAX_GPU_PROCESSES])

    def _other_memory(self, handle: Any, computing: tuple[GpuProcess, ...]) -> int:
        known = {process.pid for process in computing}
        drawing = self._optional(self._lib.nvmlDeviceGetGraphicsRunningProcesses_v3, handle) or ()
        return sum(_number(p.usedGpuMemory) or 0 for p in drawing if p.pid not in known)

    def _identify(self, index: int) -> tuple[Any, str, str]:
        if index not in self._identity:
            lib = self._lib
            handle = self._required(lib.nvmlDeviceGetHandleByIndex, index)
            uuid = str(self._required(lib.nvmlDeviceGetUUID, handle))
            name = str(self._required(lib.nvmlDeviceGetName, handle))
            self._identity[index] = (handle, uuid, name)
            self._listen(handle)
        return self._identity[index]

    def _measure(self, count: int) -> tuple[str, ...]:
        """How far the devices are from each other; empty where the driver does not say."""
        lib = self._lib
        handles = [self._identity[i][0] for i in range(count)]
        try:
            levels = [[0 if a is b else self._optional(lib.nvmlDeviceGetTopologyCommonAncestor, a, b) for b in handles]
                      for a in handles]  # fmt: skip
            links = [self._links(handle) for handle in handles]
            buses = [self._bus(self._optional(lib.nvmlDeviceGetPciInfo, handle)) for handle in handles]
        except _DeviceFailing:
            return ()
        known = [[level for level in row if level is not None] for row in levels]
        if any(len(row) < count for row in known):
            return ()
        linked = [[buses[j] in links[i] or _SWITCH in links[i] & links[j] for j in range(count)] for i in range(count)]
        return distances(known, linked)

    def _links(self, handle: Any) -> set[str | None]:
        """Where the NVLinks of a device lead that work: addresses of others, and _SWITCH for any NVSwitch."""
        lib = self._lib
        found: set[str | None] = set()
        for link in range(lib.NVML_NVLINK_MAX_LINKS):
            if not self._optional(lib.nvmlDeviceGetNvLinkState, handle, link):
                continue
            if self._optional(lib.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link) == _SWITCH_TYPE:
                found.add(_SWITCH)
            elif (other := self._bus(self._optional(lib.nvmlDeviceGetNvLinkRemotePciInfo, handle, link))) is not None:
                found.add(other)
        return found

    @staticmethod
    def _bus(info: Any) -> str | None:
        return None if info is None else f"{info.domain:x}:{info.bus:x}:{info.device:x}"

    def _listen(self, handle: Any) -> None:
        """Has the driver tell of this device's Xids, where it can."""
        lib = self._lib
        if self._events is None:
            self._events = self._optional(lib.nvmlEventSetCreate)
        if self._events is not None:
            self._optional(lib.nvmlDeviceRegisterEvents, handle, lib.nvmlEventTypeXidCriticalError, self._events)

    def _take_xids(self) -> None:
        lib = self._lib
        if self._events is None:
            return
        by_address = {_address(handle): index for index, (handle, _, _) in self._identity.items()}
        for _ in range(_MAX_XIDS):
            try:
                event = lib.nvmlEventSetWait_v2(self._events, 0)
            except lib.NVMLError as error:
                if error.value in self._of_the_driver():
                    raise
                return  # mostly a timeout: there is none
            index = by_address.get(_address(event.device))
            if index is not None and event.eventType == lib.nvmlEventTypeXidCriticalError:
                self._xids.setdefault(index, []).append(_number(event.eventData) or 0)  # 0: an error of no known kind

    def _memory(self, handle: Any) -> tuple[int | None, int | None]:
        """Total and used bytes, as nvidia-smi shows them; both None where GPU and host share their memory.

        Version 2 of the call does not count what the driver keeps for itself as used, as nvidia-smi does not;
        drivers before 510 know version 1 only.
        """
        lib = self._lib
        if (info := self._optional(lib.nvmlDeviceGetMemoryInfo, handle, lib.nvmlMemory_v2)) is None:
            try:
                info = self._required(lib.nvmlDeviceGetMemoryInfo, handle)
            except _Unsupported:
                return None, None
        return _number(info.total), _number(info.used)

    def _required(self, call: Callable[..., T], *args: Any) -> T:
        """What a working device must be able to say; raises _DeviceFailing, or NVMLError if all of NVML fails."""
        lib = self._lib
        try:
            return call(*args)
        except lib.NVMLError as error:
            if error.value in self._of_the_driver():
                raise
            kind = _Unsupported if error.value in self._not_supported() else _DeviceFailing
            raise kind(f"NVML: {error}", error.value in self._of_a_lost_device()) from error

    def _optional(self, call: Callable[..., T], *args: Any) -> T | None:
        """As _required, but None for anything less than the loss of the device."""
        lib = self._lib
        try:
            return call(*args)
        except lib.NVMLError as error:
            if error.value in self._of_the_driver():
                raise
            if error.value in self._of_a_lost_device():
                raise _DeviceFailing(f"NVML: {error}", lost=True) from error
            return None

    def _of_the_driver(self) -> tuple[int, ...]:
        lib = self._lib
        return (
            lib.NVML_ERROR_UNINITIALIZED,
            lib.NVML_ERROR_DRIVER_NOT_LOADED,
            lib.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        )

    def _of_a_lost_device(self) -> tuple[int, ...]:
        lib = self._lib
        return (lib.NVML_ERROR_GPU_IS_LOST, lib.NVML_ERROR_RESET_REQUIRED, lib.NVML_ERROR_IRQ_ISSUE)

    def _not_supported(self) -> tuple[int, ...]:
        return (self._lib.NVML_ERROR_NOT_SUPPORTED, self._lib.NVML_ERROR_FUNCTION_NOT_FOUND)


class _Unsupported(_DeviceFailing):
    pass


def _number(told: Any) -> int | None:
    """What the driver counts; None for what it cannot have counted: in some answers that is how it says so."""
    return int(told) if told is not None and 0 <= told <= _LARGEST else None


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _unloadable(reason: str) -> Exception:
    if "No such file" not in reason:
        return DriverFailing(f"{LIBRARY} cannot be loaded: {reason}")
    if Path("/proc/driver/nvidia/version").exists():
        return DriverFailing(f"the kernel has the NVIDIA driver but {LIBRARY} is missing: install the driver's library")
    return DriverAbsent(f"no NVIDIA driver: {LIBRARY} is not installed")
