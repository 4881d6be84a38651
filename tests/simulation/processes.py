"""A rank's processes and their supervisor, as they really are on a machine of the simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.runs import RunEvent
from gpuq.model import AttemptUid, ExitRecord, JobId, RankPhase, StopKind
from gpuq.protocol import RunOrder

if TYPE_CHECKING:
    from tests.simulation.machines import Machine


@dataclass
class Process:
    """A rank's process tree and its supervisor, as they really are on a machine."""

    machine: Machine
    order: RunOrder
    deadline: float | None  # lease, on the machine's CLOCK_BOOTTIME; virtual time here
    alive: bool = True
    supervised: bool = True
    phase: RankPhase = RankPhase.ACCEPTED
    was_ready: bool = False
    begun_whole: bool = False  # it was looked at once it ran: all of its gang were ready
    started_at: float | None = None
    stopping: StopKind | None = None
    exit: ExitRecord | None = None  # on the machine's disk once set
    crashed: bool = False  # it failed because its GPU did
    seen: bool = False  # the agent was there to see that
    taken: bool = False  # the agent knows of its end
    faults: int = 0  # that GPUs of its had when it was launched, or until its end was taken
    greedy: tuple[float, float] = (0.0, 0.0)  # from when to when it has more memory of its GPUs than its share

    def __setattr__(self, name: str, value: object) -> None:
        """Counts every change, by whomever it is made: what the checks may leave out hangs on it."""
        object.__setattr__(self, name, value)
        self.machine.touched += 1

    @property
    def gpus(self) -> tuple[int, ...]:
        return self.order.ranks[self.order.rank].gpus

    @property
    def share(self) -> int | None:
        return self.order.ranks[self.order.rank].gpu_share_bytes

    @property
    def uid(self) -> AttemptUid:
        return self.order.uid

    @property
    def job(self) -> JobId:
        return self.order.job.id


def event_of(process: Process, stopping: bool = False) -> RunEvent:
    return RunEvent(
        uid=process.uid,
        rank=process.order.rank,
        phase=process.phase,
        stopping=stopping or process.stopping is not None,
        started_at=process.started_at,
        exit=process.exit,
    )
