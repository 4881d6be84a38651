"""The attempts an agent holds: what is known of each, and which of them the next request tells of. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from gpuq.codec import encode
from gpuq.model import AttemptUid, EndReason, ExitRecord, OnLost, RankPhase
from gpuq.protocol import MAX_HOLDS, MAX_REPORTS, MAX_SYNC_BYTES, RankReport, RunOrder, StopOrder

# Reports without news that ride along in turn: a controller that lost track hears of every attempt again within a few
# requests. More than a node's GPUs, and few enough to keep a request small on a node with hundreds of runs.
REFRESH = 16
MAX_ORDER_BYTES = MAX_SYNC_BYTES // 2  # of described orders in one request; leaves room for the rest of the message


@dataclass(frozen=True, slots=True)
class Held:
    """One attempt as the journal knows it when the agent starts.

    boot_id is of the boot it was accepted in; begun: its supervisor was heard; log_size is in bytes, at present.
    """

    order: RunOrder
    boot_id: str
    exit: ExitRecord | None = None
    log_size: int = 0
    begun: bool = False


@dataclass(slots=True)
class Entry:
    """One attempt held here. order is None for one that was barred before it was ever accepted.

    phase ORDERED is a barred attempt whose remains are still being swept: held, not yet reported.
    """

    uid: AttemptUid
    rank: int
    order: RunOrder | None
    phase: RankPhase
    stopping: bool = False
    started_at: float | None = None
    exit: ExitRecord | None = None
    shipped: int = 0  # bytes of log the controller has
    deadline: float | None = None
    stop: StopOrder | None = None  # the strongest seen
    confirmed: bool = False  # the controller took a report of the present state
    sent_in: int = 0  # sequence of the last request that carried the present state
    described: bool = True  # False: the next report carries the order
    forgotten: bool = False  # the controller has the end on record
    fault: str = ""  # what befell a GPU of its while it ran

    @classmethod
    def barred(cls, uid: AttemptUid, rank: int, text: str, wall: float, ran: bool = False) -> Entry:
        """One that never starts here; ran: something of it did, which was found and killed."""
        reason = EndReason.SUPERVISOR_LOST if ran else EndReason.NEVER_STARTED
        return cls(uid, rank, None, RankPhase.ENDED, exit=ExitRecord(reason, ended_at=wall, text=text))

    def changed(self) -> None:
        self.confirmed, self.sent_in, self.forgotten = False, 0, False

    @property
    def leased(self) -> bool:
        return self.order is not None and self.order.job.on_lost is OnLost.FENCE

    @property
    def done(self) -> bool:
        """Whether nothing of it is needed any more: the end is on record and the whole log has arrived."""
        return self.forgotten and self.exit is not None and self.shipped >= self.exit.log_size

    def report(self, with_order: bool) -> RankReport:
        return RankReport(
            uid=self.uid,
            rank=self.rank,
            phase=self.phase,
            stopping=self.stopping,
            started_at=self.started_at,
            exit=self.exit,
            log_size=self.shipped if self.exit is None else self.exit.log_size,
            order=self.order if with_order else None,
        )


def named(entries: Iterable[Entry]) -> tuple[AttemptUid, ...]:
    """What a request says is held."""
    held = [entry for entry in entries if not entry.forgotten]
    if len(held) > MAX_HOLDS:  # what has not ended comes first: left out, it would seem to have vanished
        held.sort(key=lambda entry: entry.exit is not None)
    return tuple(entry.uid for entry in held[:MAX_HOLDS])


class Reporter:
    """Chooses what a request reports: all news, and in turn some of what is known already."""

    def __init__(self) -> None:
        self._turn = 0  # where the refresh of reports without news goes on

    def reports(self, entries: Iterable[Entry], sequence: int) -> tuple[tuple[RankReport, ...], bool]:
        """The reports of request number sequence, noted as sent in it; and whether the next has news already.

        That is so of reports past the cap and of orders that found no room.
        """
        told = [e for e in entries if not e.forgotten and e.phase is not RankPhase.ORDERED]
        news = [e for e in told if not e.confirmed or not e.described]
        if len(news) > MAX_REPORTS:
            # What was sent least recently goes first, so that every report's turn comes even if answers get lost.
            news.sort(key=lambda e: e.sent_in)
        chosen = (news + self._refreshed([e for e in told if e.confirmed and e.described]))[:MAX_REPORTS]
        reports = []
        room = MAX_ORDER_BYTES
        for entry in chosen:
            with_order = False
            if not entry.described and entry.order is not None:
                size = len(json.dumps(encode(entry.order)))
                with_order = size <= room or room == MAX_ORDER_BYTES  # at least one a request, however large
                room -= size if with_order else 0
            entry.sent_in = sequence
            entry.described = entry.described or with_order or entry.order is None
            reports.append(entry.report(with_order))
        return tuple(reports), any(e.sent_in == 0 or not e.described for e in news)

    def _refreshed(self, known: list[Entry]) -> list[Entry]:
        if not known:
            return []
        start = self._turn % len(known)
        turn = (known[start:] + known[:start])[:REFRESH]
        self._turn = start + len(turn)
        return turn
