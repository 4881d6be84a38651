"""What an agent is to do: the vocabulary of `Directives`, carried out by the desk in the order given."""

from __future__ import annotations

from dataclasses import dataclass

from gpuq.model import AttemptUid, ExitRecord, StopKind
from gpuq.protocol import RunOrder, StreamOrder


@dataclass(frozen=True, slots=True)
class Accept:
    """Journal durably, then launch. lease_deadline is on CLOCK_BOOTTIME; None means the run needs no lease."""

    order: RunOrder
    lease_deadline: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """End the rank, launched or not. Repeated until the rank is seen stopping; doing it twice changes nothing."""

    uid: AttemptUid
    rank: int
    kind: StopKind
    grace_seconds: int


@dataclass(frozen=True, slots=True)
class Go:
    """All ranks of the gang are ready: start the job. Repeated until it is seen running; twice changes nothing."""

    uid: AttemptUid
    rank: int


@dataclass(frozen=True, slots=True)
class Extend:
    """The run may go on until deadline, on CLOCK_BOOTTIME."""

    uid: AttemptUid
    rank: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Journal durably that this attempt must never start here."""

    uid: AttemptUid
    text: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Kill whatever lives of an attempt that is not held, wait until it is gone, then call `swept`."""

    uid: AttemptUid


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Journal the end, so that it can be reported after a restart; durably, unless it is recorded with its run."""

    uid: AttemptUid
    rank: int
    exit: ExitRecord
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget the journal's entry or tombstone, and remove the run's directory if there is one."""

    uid: AttemptUid
    rank: int


@dataclass(frozen=True, slots=True)
class Pardon:
    """Let a GPU that was quarantined for this fault work again, for an admin says so."""

    uuid: str
    fault: int


@dataclass(frozen=True, slots=True)
class Connect:
    """Carry this stream to a run that is held here. Repeated until it is; doing it twice changes nothing."""

    order: StreamOrder


Action = Accept | Stop | Go | Extend | Bar | Sweep | RecordEnd | Drop | Pardon | Connect
