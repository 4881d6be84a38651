"""The only door to NVML, NVIDIA's driver library, through nvidia-ml-py (imported as pynvml).

Everything here blocks, and a sick driver may block it for ever: agent/gpus.py keeps that away from the agent.
A device's index is NVML's, which is PCI bus order: the order of nvidia-smi and of CUDA_DEVICE_ORDER=PCI_BUS_ID.
None means the driver does not say or the device does not support it; it is never written as 0.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpuq.model import GpuSample

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
# A session opened before a GPU was reset or came back may go on calling it lost: while a device fails, a new session
# is opened this often. Opening one takes up to seconds where the driver keeps no state between users.
REPROBE_SECONDS = 60.0


class DriverAbsent(Exception):
    """There is no driver library to ask: most likely a machine without NVIDIA GPUs."""


class DriverFailing(Exception):
    """The driver as a whole cannot be asked. The text is the same each time the cause is."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of one reading. failure is '' when the device answers, else the driver's words.

    uuid is None only if the device failed before it could be told; name falls back to 'unknown GPU'.
    """

    index: int
    uuid: str | None
    name: str
    memory_total_bytes: int | None
    sample: GpuSample
    failure: str = ""


@dataclass(frozen=True, slots=True)
class DriverReading:
    driver_version: str | None
    devices: tuple[Device, ...]  # in NVML index order


class _DeviceFailing(Exception):
    pass


class Nvml:
    """An NVML session, opened at the first read and again after the driver failed. For one thread only."""

    def __init__(self) -> None:
        self._lib: Any = None
        self._open = False
        self._opened_at = 0.0
        self._driver_version: str | None = None
        self._identity: dict[int, tuple[Any, str, str]] = {}  # handle, uuid and name by index; fixed in a session
        self._some_failed = False

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
            devices = tuple([self._device(i) for i in range(lib.nvmlDeviceGetCount())])
        except lib.NVMLError as error:
            self.close()
            raise DriverFailing(f"NVML: {error}") from error
        self._some_failed = any(d.failure for d in devices)
        return DriverReading(self._driver_version, devices)

    def close(self) -> None:
        """End the session, if one is open; the next read opens another."""
        self._identity.clear()
        if self._open:
            self._open = False
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
        lib = self._lib
        try:
            handle, uuid, name = self._identify(index)
        except _DeviceFailing as error:
            return Device(index, None, "unknown GPU", None, GpuSample(index), str(error))
        try:
            total, used = self._memory(handle)
            power_mw = self._optional(lib.nvmlDeviceGetPowerUsage, handle)
            sample = GpuSample(
                index,
                memory_used_bytes=used,
                utilization_percent=self._optional(lambda: int(lib.nvmlDeviceGetUtilizationRates(handle).gpu)),
                temperature_c=self._optional(lib.nvmlDeviceGetTemperature, handle, lib.NVML_TEMPERATURE_GPU),
                power_w=None if power_mw is None else power_mw / 1000,
            )
        except _DeviceFailing as error:
            return Device(index, uuid, name, None, GpuSample(index), str(error))
        return Device(index, uuid, name, total, sample)

    def _identify(self, index: int) -> tuple[Any, str, str]:
        if index not in self._identity:
            lib = self._lib
            handle = self._required(lib.nvmlDeviceGetHandleByIndex, index)
            uuid = str(self._required(lib.nvmlDeviceGetUUID, handle))
            name = str(self._required(lib.nvmlDeviceGetName, handle))
            self._identity[index] = (handle, uuid, name)
        return self._identity[index]

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
        return int(info.total), int(info.used)

    def _required(self, call: Callable[..., T], *args: Any) -> T:
        """What a working device must be able to say; raises _DeviceFailing, or NVMLError if all of NVML fails."""
        lib = self._lib
        try:
            return call(*args)
        except lib.NVMLError as error:
            if error.value in self._of_the_driver():
                raise
            kind = _Unsupported if error.value in self._not_supported() else _DeviceFailing
            raise kind(f"NVML: {error}") from error

    def _optional(self, call: Callable[..., T], *args: Any) -> T | None:
        """As _required, but None for anything less than the loss of the device."""
        lib = self._lib
        try:
            return call(*args)
        except lib.NVMLError as error:
            if error.value in self._of_the_driver():
                raise
            if error.value in self._of_a_lost_device():
                raise _DeviceFailing(f"NVML: {error}") from error
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


def _unloadable(reason: str) -> Exception:
    if "No such file" not in reason:
        return DriverFailing(f"{LIBRARY} cannot be loaded: {reason}")
    if Path("/proc/driver/nvidia/version").exists():
        return DriverFailing(f"the kernel has the NVIDIA driver but {LIBRARY} is missing: install the driver's library")
    return DriverAbsent(f"no NVIDIA driver: {LIBRARY} is not installed")
