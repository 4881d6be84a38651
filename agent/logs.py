"""Ships what ranks write to the controller, by offset, until it has the last byte.

The controller answers each shipment with how much of each log it has on disk for good, and the next goes on from
there. So nothing else is remembered: after a restart or a failure the first answer tells where to go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.spool import ALIGN
from gpuq import holes
from gpuq.errors import GpuqError, Unavailable
from gpuq.holes import Hole
from gpuq.model import AttemptUid
from gpuq.protocol import MAX_LOG_POST_BYTES, LogAck, LogChunk, LogReply, LogShipment

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25  # a person following a log does not notice; 8 stats a look cost 20 us
# What one node may ask of the controller's network and disk, however much its jobs print: 200 MB take 6 s, and twenty
# such nodes leave a disk of 1 GB/s a third of its time.
BYTES_PER_SECOND = 32 << 20
RETRY_SECONDS, RETRY_MAX_SECONDS = 0.5, 15.0
MAX_CHUNKS = 256  # logs in one shipment: the header stays below 64 KiB
# Of MAX_LOG_POST_BYTES, what is left for the header line.
BODY_BYTES = MAX_LOG_POST_BYTES - (64 << 10)
# A log this far behind is not given time to grow: its next piece is large enough as it is.
AT_ONCE_BYTES = BODY_BYTES // 2

Key = tuple[AttemptUid, int]


class LogPeer(Protocol):
    """The controller, as gpuq.client.aio.AgentClient speaks to it."""

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply: ...


@dataclass(frozen=True, slots=True)
class _Piece:
    """cut_short: the file ended, or failed, before what it had when it was looked at."""

    key: Key
    offset: int
    data: bytes
    cut_short: bool
    hole: Hole | None = None


@dataclass(slots=True)
class _Spool:
    path: Path
    cap: int
    acked: int | None  # bytes the controller has; None: it has to be asked
    final: int | None = None  # size on record, once the run has ended
    size: int = 0  # when last looked at

    @property
    def wanting(self) -> bool:
        """Whether there is something to ship or to ask."""
        if self.acked is None:
            return self.final is not None or self.size > 0
        return self.size > self.acked

    @property
    def behind(self) -> int:
        return self.size - (self.acked or 0)

    @property
    def complete(self) -> bool:
        if self.final is None or self.acked is None:
            return self.final == 0  # nobody needs to be asked about nothing
        return self.acked >= min(self.final, self.size)


class LogShipper:
    """Ships the logs given to `watch` while `run` runs. All methods are for one event loop.

    shipped is told how far each log has come. A spool that is shorter than the size on record when its run has ended
    (someone truncated or deleted it, or the disk failed) is shipped as far as it goes and then told as complete: what
    is not there will never come, and nobody is to wait for it.
    """

    def __init__(
        self,
        peer: LogPeer,
        shipped: Callable[[AttemptUid, int, int], Awaitable[None]],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._peer, self._shipped, self._pause = peer, shipped, pause
        self._spools: dict[Key, _Spool] = {}
        self._wake = asyncio.Event()
        self._back = asyncio.Event()
        self._failures = 0  # since the last shipment
        self._asleep = True  # nothing to look at: until it is woken
        self._most = MAX_CHUNKS
        self._first = 0  # whose turn it is to come first in a shipment

    def watch(self, uid: AttemptUid, rank: int, path: Path, fresh: bool, cap: int = 0) -> None:
        """Follow this log. fresh: the run starts now, so the controller has nothing of it; else it is asked.

        cap: of what is longer only the first and last half are kept, together so many bytes; 0: all.
        """
        if (uid, rank) not in self._spools:
            self._spools[uid, rank] = _Spool(path, cap, 0 if fresh else None)
            if self._asleep:
                self._wake.set()

    def ended(self, uid: AttemptUid, rank: int, size: int) -> None:
        """The run has ended and its log has this size: ship the rest at once."""
        spool = self._spools.get((uid, rank))
        if spool is not None and size == 0:
            del self._spools[uid, rank]  # there is nothing to ship, to ask or to tell
        elif spool is not None:
            spool.final = size
            spool.size = _size(spool.path)  # what was seen before the end may be less than all
            self._wake.set()

    def dropped(self, uid: AttemptUid, rank: int) -> None:
        self._spools.pop((uid, rank), None)

    def ask_again(self) -> None:
        """The controller was restored: what it acknowledged it may not have now."""
        for spool in self._spools.values():
            spool.acked = None
        self._wake.set()

    def reachable(self) -> None:
        """The controller is back: what waits for its next try need not."""
        self._failures = 0
        self._back.set()

    async def run(self) -> None:
        """Never returns. Failures to ship are survived; anything else is a defect and is raised."""
        while True:
            self._wake.clear()
            for spool in self._spools.values():
                spool.size = _size(spool.path)
            await self._settle()
            wanting = [key for key, spool in self._spools.items() if spool.wanting]
            if wanting:
                began = time.monotonic()
                self._back.clear()
                try:
                    sent = await self._ship(wanting)
                    self._failures = 0
                except GpuqError as error:
                    await self._before_retry(error)
                    continue
                if (rest := sent / BYTES_PER_SECOND - (time.monotonic() - began)) > 0.001:
                    await self._pause(rest)
                if any(s.wanting and (s.final is not None or s.behind > AT_ONCE_BYTES) for s in self._spools.values()):
                    continue
            await self._sleep()

    async def _before_retry(self, error: GpuqError) -> None:
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        logger.log(level, "logs.not_shipped failures=%d text=%s", self._failures, error.one_line())
        longest = min(RETRY_SECONDS * 2.0 ** min(self._failures - 1, 16), RETRY_MAX_SECONDS)
        pause = asyncio.ensure_future(self._pause(longest * random.uniform(0.5, 1.0)))
        back = asyncio.ensure_future(self._back.wait())
        try:
            await asyncio.wait({pause, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            back.cancel()
            await asyncio.gather(pause, back, return_exceptions=True)

    async def _sleep(self) -> None:
        """Until something ends; while anything lives, until the next look."""
        self._asleep = all(spool.final is not None for spool in self._spools.values())
        try:
            await asyncio.wait_for(self._wake.wait(), None if self._asleep else LOOK_SECONDS)
        except asyncio.TimeoutError:
            return

    async def _ship(self, wanting: list[Key]) -> int:
        """How many bytes were shipped."""
        self._first %= len(wanting)
        turn = (wanting[self._first :] + wanting[: self._first])[: self._most]
        self._first += len(turn) if len(turn) < len(wanting) else 1
        pieces = await asyncio.to_thread(_read, [(key, self._spools[key]) for key in turn])
        chunks = tuple(LogChunk(*piece.key, piece.offset, len(piece.data), *(piece.hole or ())) for piece in pieces)
        try:
            reply = await self._peer.ship_logs(LogShipment(chunks), b"".join(piece.data for piece in pieces))
        except GpuqError as error:
            if not error.retry_helps:
                self._most = 1  # one log the controller refuses must not keep the others back
            raise
        self._most = min(2 * self._most, MAX_CHUNKS)
        for piece in pieces:
            spool = self._spools.get(piece.key)
            if spool is not None and piece.cut_short:
                spool.size = piece.offset + len(piece.data)
        for ack in reply.acks:
            self._acknowledged(ack)
        for ack in reply.acks:
            await self._shipped(ack.uid, ack.rank, ack.size)
        await self._settle()
        acked = {(ack.uid, ack.rank) for ack in reply.acks}
        if not acked.issuperset(turn):
            raise Unavailable("the controller did not say how far it has some logs")
        return sum(len(piece.data) for piece in pieces)

    def _acknowledged(self, ack: LogAck) -> None:
        spool = self._spools.get((ack.uid, ack.rank))
        if spool is not None:
            spool.acked = ack.size

    async def _settle(self) -> None:
        """Tells the logs that are there in full, and lets go of them."""
        complete = {key: spool for key, spool in self._spools.items() if spool.complete}
        for key, spool in complete.items():
            del self._spools[key]  # before the first wait: telling of one may drop another
            if spool.size < (spool.final or 0):
                logger.warning("logs.shorter run=%s.%d size=%d recorded=%d", *key, spool.size, spool.final)
        for (uid, rank), spool in complete.items():
            await self._shipped(uid, rank, spool.final or 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(spools: list[tuple[Key, _Spool]]) -> list[_Piece]:
    """A piece of each spool: what some do not need of an equal share goes to those with more to say."""
    pieces = []
    room = BODY_BYTES
    by_need = sorted(spools, key=lambda item: item[1].behind)
    for position, (key, spool) in enumerate(by_need):
        if spool.acked is None:
            pieces.append(_Piece(key, 0, b"", cut_short=False))  # asks how much of it is there
            continue
        pieces.append(_piece(key, spool, room // (len(by_need) - position)))
        room -= len(pieces[-1].data)
    return pieces


def _piece(key: Key, spool: _Spool, room: int) -> _Piece:
    """What follows what the controller has, as much as there is room for; behind the hole, if that is there."""
    offset, data, hole = spool.acked or 0, b"", None
    wanted = max(0, min(room, spool.size - offset))
    try:
        with spool.path.open("rb") as file:
            hole = _given_back(file.fileno(), spool)
            while True:
                if hole is not None and hole.start <= offset < hole.end:
                    offset = hole.end
                until = hole.start if hole is not None and offset < hole.start else spool.size
                wanted = max(0, min(wanted, until - offset))
                data = os.pread(file.fileno(), wanted, offset)
                before, hole = hole, _given_back(file.fileno(), spool)
                if hole == before:  # else what was read may have been given back meanwhile
                    break
    except OSError as error:
        logger.debug("logs.unreadable path=%s error=%r", spool.path, str(error))
    return _Piece(key, offset, data, cut_short=len(data) < wanted, hole=hole)


def _given_back(fd: int, spool: _Spool) -> Hole | None:
    """The middle that the cap has cost. A file that somebody cut short has a hole as well, but before that: what the
    controller has of that part is good.
    """
    return holes.find(fd, spool.size, spool.cap // 2 // ALIGN * ALIGN) if spool.cap else None
