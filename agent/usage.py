"""What each attempt makes of its GPUs, added up reading by reading. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from agent.tenants import Tenancy
from gpuq.gpu_use import CURVE_POINTS, GpuReceipt
from gpuq.model import AttemptUid
from gpuq.node import GpuSample

# Below this a GPU does nothing for its holder: a display or a monitor that looks in keeps it at 1 or 2.
IDLE_PERCENT = 5
# A reading speaks for the time since the one before, but not for longer: then nobody was looking.
GAP_SECONDS = 30.0
FIRST_POINT_SECONDS = 5.0  # of a curve: as often as there are readings


@dataclass(frozen=True, slots=True)
class UsageSoFar:
    """As it is written down for the next agent."""

    uid: AttemptUid
    so_far: GpuReceipt


@dataclass(frozen=True, slots=True)
class Usage:
    attempts: tuple[UsageSoFar, ...] = ()


class Meters:
    """A receipt for each attempt that holds GPUs here, as far as it has come."""

    def __init__(self, before: Usage = Usage()) -> None:
        self._receipts = {told.uid: told.so_far for told in before.attempts}
        self._read_at: dict[AttemptUid, float] = {}

    def observe(
        self,
        now: float,
        held: Mapping[AttemptUid, Tenancy],
        samples: Iterable[GpuSample],
        ended: Collection[AttemptUid] = (),
    ) -> None:
        """Takes a reading; now is in monotonic seconds, on the clock of the tenancies.

        GPUs that were not read are not observed. ended are those of the held that the reading does not speak of any
        more. What was held by attempts that are gone is forgotten.
        """
        by_index = {sample.index: sample for sample in samples}
        receipts: dict[AttemptUid, GpuReceipt] = {}
        for uid, tenancy in held.items():
            before = self._receipts.get(uid, GpuReceipt(0.0))
            since = self._read_at.get(uid, tenancy.since)
            read = [by_index[i] for i in tenancy.gpus if i in by_index and by_index[i].utilization_percent is not None]
            if tenancy.gpus:
                seconds = 0.0 if uid in ended else min(now - since, GAP_SECONDS)
                receipts[uid] = _added(before, read, tenancy, seconds) if read and seconds > 0 else before
        self._receipts = receipts
        self._read_at = dict.fromkeys(receipts, now)

    def receipt(self, uid: AttemptUid) -> GpuReceipt | None:
        """None of an attempt without GPUs, and of one that came and went between two readings."""
        return self._receipts.get(uid)

    def usage(self) -> Usage:
        return Usage(tuple(UsageSoFar(uid, receipt) for uid, receipt in self._receipts.items()))


def _added(before: GpuReceipt, read: list[GpuSample], tenancy: Tenancy, seconds: float) -> GpuReceipt:
    each = [sample.utilization_percent or 0 for sample in read]
    busy = sum(each) / len(each)
    observed = before.observed_seconds + seconds
    spent = (before.utilization_percent or 0.0) * before.observed_seconds
    powers = [sample.power_w for sample in read if sample.power_w is not None]
    energy = before.energy_joules if not powers else (before.energy_joules or 0.0) + sum(powers) * seconds
    memory = max([known for sample in read if (known := _memory(sample, tenancy)) is not None], default=None)
    return _with_curves(
        replace(
            before,
            observed_seconds=observed,
            idle_seconds=before.idle_seconds + (seconds if max(each) < IDLE_PERCENT else 0.0),
            utilization_percent=(spent + busy * seconds) / observed,
            memory_peak_bytes=max(memory or 0, before.memory_peak_bytes or 0) if memory else before.memory_peak_bytes,
            energy_joules=energy,
        ),
        before.observed_seconds,
        busy,
        (memory or 0) >> 20,
    )


def _with_curves(receipt: GpuReceipt, start: float, busy: float, mib: int) -> GpuReceipt:
    """The receipt with its curves drawn on from start, in seconds of the observed time, to its present end.

    When there are too many points each two become one, so that a job of a week has as many as one of an hour.
    """
    width = receipt.point_seconds or FIRST_POINT_SECONDS
    busy_percent, memory_mib = list(receipt.busy_percent), list(receipt.memory_mib)
    for index in range(int(start / width), math.ceil(receipt.observed_seconds / width)):
        if index >= len(busy_percent):
            busy_percent.append(round(busy))
            memory_mib.append(mib)
            continue
        old, new = start - index * width, receipt.observed_seconds - start
        busy_percent[index] = round((busy_percent[index] * old + busy * new) / (old + new))
        memory_mib[index] = max(memory_mib[index], mib)
    while len(busy_percent) > CURVE_POINTS:
        width *= 2
        busy_percent = [round(sum(pair) / len(pair)) for pair in _pairs(busy_percent)]
        memory_mib = [max(pair) for pair in _pairs(memory_mib)]
    return replace(receipt, point_seconds=width, busy_percent=tuple(busy_percent), memory_mib=tuple(memory_mib))


def _pairs(points: list[int]) -> list[list[int]]:
    return [points[i : i + 2] for i in range(0, len(points), 2)]


def _memory(sample: GpuSample, tenancy: Tenancy) -> int | None:
    """What the job's own processes use, where that can be told; else all that is used."""
    own = [p.memory_used_bytes for p in sample.processes if p.job == tenancy.job]
    if own and None not in own:
        return sum(memory or 0 for memory in own)
    return sample.memory_used_bytes
