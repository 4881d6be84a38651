"""The exchange with the controller as a loop: a request is always on its way, and a second one when there is news.

A request without news is held by the controller until it has orders or POLL_SECONDS are over. News does not wait for
that: it leaves at once on a second connection, and the controller then releases the older request. Only behind an
answer that brought orders the next request waits a moment for news: a queue of short jobs has some at once, and a
request without it would be made for nothing. Which answers count, in which order, is decided in agent/directives.py
alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gpuq.errors import GpuqError, Unavailable
from gpuq.protocol import POLL_SECONDS, SyncReply, SyncRequest

logger = logging.getLogger(__name__)

CONNECTIONS = 2
RETRY_SECONDS = 0.5  # the first pause when the controller cannot be reached; doubled each time
RETRY_MAX_SECONDS = 15.0  # half of what makes a node suspect: a controller that is back hears from it in time
REFUSED_SECONDS = 30.0  # a wrong token or version does not mend itself
GATHER_SECONDS = 0.02  # behind orders, for the news that they bring
# A controller that answers at once, again and again, without saying anything new must not be asked as fast as the
# network allows: after this many such answers, pauses that double up to the last number.
FUTILE_ANSWERS, FUTILE_SECONDS, FUTILE_MAX_SECONDS = 8, 0.05, 1.0


class SyncPeer(Protocol):
    """The controller, as gpuq.client.aio.AgentClient speaks to it."""

    async def sync(self, request: SyncRequest) -> SyncReply: ...


class Desk(Protocol):
    """What the exchange is about: makes requests, takes answers."""

    @property
    def news(self) -> asyncio.Event:
        """Set while there is something the controller should hear at once."""

    async def request(self, wait_seconds: float) -> SyncRequest: ...

    async def answered(self, reply: SyncReply, sent_at: float) -> bool:
        """Takes an answer to a request sent at `sent_at` (CLOCK_BOOTTIME). Returns whether it said anything new."""


class Exchange:
    """Keeps a node and its controller in touch until cancelled.

    connection is called with True at the first answer after a start or an outage, with False when contact is lost.
    pause is asyncio.sleep but in tests.
    """

    def __init__(
        self,
        peer: SyncPeer,
        desk: Desk,
        connection: Callable[[bool], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._peer, self._desk, self._connection, self._pause = peer, desk, connection, pause
        self._connected: bool | None = None
        self._failures = 0  # since the last answer
        self._futile = 0  # answers in a row that came at once and said nothing new
        self._ordered = False  # whether an answer since the last request said anything new
        self._unheard = False  # a request failed, and with it the news it carried
        self._told = ""  # the refusal last logged as an error

    async def run(self) -> None:
        """Never returns. Errors of the exchange are survived; anything else is a defect and is raised."""
        under_way: dict[asyncio.Future[Any], float] = {}
        pausing: asyncio.Future[Any] | None = None
        gathering: asyncio.Future[Any] | None = None
        news: asyncio.Future[Any] | None = None
        try:
            while True:
                if pausing is None and self._is_due(len(under_way), gathering is not None):
                    if gathering is not None:
                        gathering.cancel()
                        gathering = None
                    sent_at = time.clock_gettime(time.CLOCK_BOOTTIME)
                    # The first answer is wanted at once: it says that the controller is there.
                    request = await self._desk.request(POLL_SECONDS if self._connected else 0.0)
                    self._unheard = self._ordered = False
                    under_way[asyncio.ensure_future(self._peer.sync(request))] = sent_at
                    continue
                waiting = set(under_way)
                if pausing is not None:
                    waiting.add(pausing)
                elif len(under_way) < CONNECTIONS:
                    news = news or asyncio.ensure_future(self._desk.news.wait())
                    waiting.add(news)
                if gathering is not None:
                    waiting.add(gathering)
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if pausing in done:
                    pausing = None
                if news in done:
                    news = None
                if gathering in done:
                    gathering = None
                for task in done & under_way.keys():
                    sent_at = under_way.pop(task)
                    seconds = await self._take(task, sent_at, alone=not under_way)
                    if seconds and pausing is None:
                        pausing = asyncio.ensure_future(self._pause(seconds))
                    elif self._ordered and not under_way and gathering is None:
                        gathering = asyncio.ensure_future(self._pause(GATHER_SECONDS))
        finally:
            left = [task for task in (*under_way, pausing, gathering, news) if task is not None]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _is_due(self, under_way: int, gathering: bool) -> bool:
        """Whether to send a request now: there is always one out, and another while it has something to add."""
        more = self._unheard or self._desk.news.is_set()
        return (under_way < CONNECTIONS and more) or not (under_way or gathering)

    async def _take(self, task: asyncio.Future[SyncReply], sent_at: float, alone: bool) -> float:
        """Deals with one request's outcome; returns the seconds to wait before the next. alone: no other is out."""
        try:
            reply = task.result()
        except GpuqError as error:
            return self._failed(error)
        if not self._connected:
            logger.info("exchange.connected epoch=%d generation=%d", reply.epoch, reply.generation)
            self._note(True)
        self._failures, self._told = 0, ""
        took = time.clock_gettime(time.CLOCK_BOOTTIME) - sent_at
        new = await self._desk.answered(reply, sent_at)
        self._ordered = self._ordered or new
        if new or took >= FUTILE_MAX_SECONDS or not alone or self._desk.news.is_set():
            self._futile = 0
            return 0.0
        self._futile += 1
        if self._futile <= FUTILE_ANSWERS:
            return 0.0
        return _doubled(FUTILE_SECONDS, self._futile - FUTILE_ANSWERS - 1, FUTILE_MAX_SECONDS)

    def _failed(self, error: GpuqError) -> float:
        self._unheard = True
        if not error.retry_helps:
            if self._told != error.one_line():
                self._told = error.one_line()
                logger.error("exchange.refused code=%s text=%s", error.code, self._told)
            self._note(False)
            return REFUSED_SECONDS
        logger.debug("exchange.failed failures=%d text=%s", self._failures, error.one_line())
        self._failures += 1
        # The first failure of a connection that worked is usually a controller that was restarted: it is back at once.
        if self._failures == 1 and self._connected and type(error) is Unavailable:
            return 0.0
        if self._connected is not False:
            logger.warning("exchange.lost text=%s", error.one_line())
        self._note(False)
        longest = _doubled(RETRY_SECONDS, self._failures - 1, RETRY_MAX_SECONDS)
        return longest * random.uniform(0.5, 1.0)  # a thousand agents must not come back in the same instant

    def _note(self, connected: bool) -> None:
        if connected is not self._connected:
            self._connected = connected
            self._connection(connected)


def _doubled(first: float, times: int, longest: float) -> float:
    return min(first * 2.0 ** min(times, 16), longest)  # the exponent is kept where a float can hold the power
