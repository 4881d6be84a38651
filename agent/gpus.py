"""The machine's real GPUs: readings that never block for long, and what is said of GPUs the driver goes silent on.

A sick driver can block a call for minutes or for ever, and the agent's exchange with the controller must go on
meanwhile. So all calls are made by one daemon thread, and a reading waits for it at most DEADLINE_SECONDS. While a
call is stuck no other is made: readings then say UNKNOWN at once, and the first call that returns ends that.

Why a thread and not a child process: ctypes releases the interpreter's lock during a call, so a stuck one costs
nothing but its thread, while a child with pynvml in it takes 13 MB beside an agent that is to stay below 40 MB
(pynvml in the agent takes 2 to 5). What a child would do better: a stuck call could be killed (not one stuck in the
kernel, the usual case), and a crash inside the library would not end the agent (its jobs survive that, and it is
started again). An agent killed while its thread is stuck in the kernel stays a zombie; agent/claim.py knows that.

Three ways to fail, told apart because they mean different things to the scheduler:

- no driver library, and none before: a machine without GPUs;
- the driver as a whole fails or is silent, or no device answers: every GPU known so far is UNKNOWN;
- one device fails among readable ones: that one is QUARANTINED, until a reading finds it well.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, TypeVar

from agent import nvidia_smi
from agent.nvml import Device, DriverAbsent, DriverFailing, DriverReading, Nvml
from agent.selection import GpuSelection
from gpuq.model import Gpu, GpuHealth, GpuSample

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Opening NVML without persistence mode takes seconds on a machine with eight GPUs; a longer silence is trouble.
DEADLINE_SECONDS = 5.0
# nvidia-smi costs about 60 ms of a core each time: 0.2 % at this pace, and an idle agent has 0.3 %.
SMI_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What is offered now. samples has one entry per GPU, in the same order; note is for people, often ''.

    Texts do not change while their cause lasts, so that an inventory made of them does not either.
    """

    gpus: tuple[Gpu, ...]  # by index
    samples: tuple[GpuSample, ...]
    driver_version: str | None = None
    note: str = ""


class RealGpus:
    """The GPUs of this machine that `selection` offers.

    known are GPUs an earlier agent saw since the machine booted: until the driver answers they are UNKNOWN, rather
    than not there. An index stays with its uuid for as long as this object lives, even if the driver drops a device
    and counts the others anew.
    """

    simulated = False

    def __init__(
        self, selection: GpuSelection, known: Sequence[Gpu] = (), deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._selection = selection
        self._known = tuple(known)
        self._deadline = deadline_seconds
        self._nvml = Nvml()
        self._thread = _DriverThread()
        self._smi: tuple[float, DriverReading | DriverFailing] | None = None
        self._driver_version: str | None = None
        self._trouble = ""

    def read(self, now: float, held: Mapping[int, float]) -> GpuReading:
        """A reading that takes at most the deadline; now is monotonic seconds. One caller at a time.

        held is for simulated GPUs; real ones show what they do by themselves.
        """
        del held
        try:
            reading = self._thread.call(lambda: self._ask(now), self._deadline)
            failures = [d.failure for d in reading.devices]
            if failures and all(failures):
                self._known = place(reading.devices, self._known)
                return self._unknown(failures[0])
        except DriverAbsent as error:
            return self._unknown(str(error)) if self._known else GpuReading((), (), note=str(error))
        except DriverFailing as error:
            return self._unknown(str(error))
        except futures.TimeoutError:
            return self._unknown(f"the NVIDIA driver did not answer within {self._deadline:g} s")
        self._driver_version = reading.driver_version
        self._known = place(reading.devices, self._known)
        samples = {d.uuid: d.sample for d in reading.devices if not d.failure}
        self._report("")
        return self._offer(samples, "" if reading.devices else "the NVIDIA driver lists no GPUs")

    def close(self) -> None:
        """End the NVML session and the thread, unless the driver does not answer: then both end with the process."""
        try:
            self._thread.call(self._nvml.close, self._deadline)
        except futures.TimeoutError:
            return
        self._thread.end()

    def _ask(self, now: float) -> DriverReading:
        try:
            return self._nvml.read(now)
        except (DriverAbsent, DriverFailing) as error:
            if self._nvml.loaded:
                raise  # nvidia-smi asks the same driver through the same library
            return self._ask_smi(now, error)

    def _ask_smi(self, now: float, without_library: DriverAbsent | DriverFailing) -> DriverReading:
        if self._smi is None or now - self._smi[0] >= SMI_SECONDS:
            try:
                self._smi = (now, nvidia_smi.read())
            except DriverAbsent:
                raise without_library from None
            except DriverFailing as error:
                self._smi = (now, error)
        said = self._smi[1]
        if isinstance(said, DriverFailing):
            raise said
        return said

    def _unknown(self, text: str) -> GpuReading:
        self._known = tuple([replace(g, health=GpuHealth.UNKNOWN, health_text=text) for g in self._known])
        self._report(text)
        return self._offer({}, text)

    def _offer(self, samples: Mapping[str | None, GpuSample], note: str) -> GpuReading:
        gpus = tuple([g for g in self._known if self._selection.offers(g)])
        missing = self._selection.missing(self._known)
        if missing and not note:
            note = f"--gpus names {', '.join(missing)}, which this machine does not have"
        return GpuReading(
            gpus,
            tuple([replace(samples.get(g.uuid, GpuSample(g.index)), index=g.index) for g in gpus]),
            self._driver_version,
            note,
        )

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
        placed.setdefault(gpu.index, replace(gpu, health=GpuHealth.QUARANTINED, health_text="the driver lost it"))
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


class _DriverThread:
    """One thread for calls that may never return; made at the first of them."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], futures.Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: futures.Future[Any] | None = None

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """What the function returns or raises; futures.TimeoutError if it takes longer, or an earlier one still runs.

        What a late call returns is thrown away: it tells of another time.
        """
        if self._last is not None and not self._last.done():
            raise futures.TimeoutError
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gpuq-driver", daemon=True)
            self._thread.start()
        future: futures.Future[T] = futures.Future()
        self._last = future
        self._calls.put((function, future))
        return future.result(timeout)

    def end(self) -> None:
        """Let the thread end; no call may be running or follow."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            function, future = item
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised again, in the thread that called
                future.set_exception(error)
            del item, function, future
