"""Keeps the store current: a snapshot, then changes, for as long as the dashboard runs.

When the controller is not reached the store keeps what it has, and says since when and until when. Tries come further
and further apart, each at another moment, so that fifty dashboards do not come back as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from gpuq.errors import GpuqError
from tui.client import Client
from tui.store import Link, Store

FIRST_JOBS = 1_000  # in the snapshot: what fills the screen; the rest follows in pages
PAGE_JOBS = 2_000  # taking in so many holds up a key for 20 ms
HELD_SECONDS = 20.0  # how long the controller may keep a question that has no answer yet
FRAME_SECONDS = 0.05  # what has just come is painted before more is taken in
APART_SECONDS = 0.25  # between two questions, so that 1,000 changes a second are one answer a frame
SLOW_APART_SECONDS = 1.0
PING_SECONDS = 5.0
FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 15.0


class Feed:
    """One connection's worth of news. `run` ends only by being canceled, or by what no repeating helps.

    connect: makes the client; pause: asyncio.sleep or a test's; chance: uniform in [0, 1).
    """

    def __init__(
        self,
        store: Store,
        connect: Callable[[], Awaitable[Client]],
        pause: Callable[[float], Awaitable[None]],
        chance: Callable[[], float],
        loaded: Callable[[], None],
    ) -> None:
        """loaded: called after each snapshot, to paint at once."""
        self._store, self._connect, self._pause, self._chance, self._loaded = store, connect, pause, chance, loaded
        self._again = asyncio.Event()  # somebody asks for a fresh snapshot, now
        self._stale = False  # the next question is for a snapshot, whatever is known
        self._ping: asyncio.Task[None] | None = None
        self._filling: asyncio.Task[None] | None = None
        self.client: Client | None = None

    async def run(self) -> None:
        """Raises GpuqError if the first snapshot is refused for good: a wrong token, too old a controller."""
        failures = 0
        try:
            while True:
                try:
                    if self.client is None:
                        self.client = await self._connect()
                        self._ping = asyncio.create_task(self._keep_measuring(self.client))
                    await self._bring_up_to_date(self.client)
                    failures = 0
                except GpuqError as error:
                    if not (error.retry_helps or self._store.loaded):
                        raise
                    failures += 1
                    await self._wait(failures, error)
                    continue
                await self._apart()
        finally:
            for task in (self._ping, self._filling):
                if task is not None:
                    task.cancel()
            if self.client is not None:
                with suppress(GpuqError):
                    await self.client.close()

    def resync(self) -> None:
        """Asks for a fresh snapshot now, whatever is known and however long the next try was to wait."""
        self._stale = True
        self._again.set()

    async def _bring_up_to_date(self, client: Client) -> None:
        """One step: a snapshot with all its pages, or what has changed since."""
        store = self._store
        if not store.loaded or self._stale:
            await self._take_snapshot(client)
            return
        changes = await self._held(client)
        if changes is None:
            return
        if changes["reset"]:
            await self._take_snapshot(client)
            return
        store.apply(changes)
        self._live()

    async def _held(self, client: Client) -> dict[str, Any] | None:
        """What has changed, as soon as something has; None if somebody wants a fresh snapshot meanwhile."""
        store = self._store
        asking = asyncio.ensure_future(client.changes(store.life, store.at, HELD_SECONDS))
        wanted = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait({asking, wanted}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            wanted.cancel()

    async def _take_snapshot(self, client: Client) -> None:
        if self._filling is not None:
            self._filling.cancel()
        self._stale = False
        self._again.clear()
        snapshot = await client.snapshot(FIRST_JOBS)
        self._store.load(snapshot)
        self._live()
        self._loaded()
        self._filling = asyncio.create_task(self._fill(client, snapshot["jobs"]["next"]))

    async def _fill(self, client: Client, cursor: str | None) -> None:
        """The jobs that the snapshot had no room for, page by page, beside the changes."""
        await self._pause(FRAME_SECONDS)
        while cursor is not None:
            try:
                page = await client.snapshot_jobs(cursor, PAGE_JOBS)
            except GpuqError:  # the changes say so too; this goes on where it was
                await self._pause(PING_SECONDS)
                continue
            self._store.add_jobs(page)
            cursor = page["next"]
            await self._pause(0)  # a key that was pressed meanwhile goes first

    async def _apart(self) -> None:
        """Waits a little between two questions: 1,000 changes a second are to be one answer a frame."""
        await self._pause(SLOW_APART_SECONDS if self._store.link.slow else APART_SECONDS)

    async def _keep_measuring(self, client: Client) -> None:
        """Measures how long a short question takes; the held ones say nothing of it."""
        while True:
            with suppress(GpuqError):  # the held question says so too, and better
                await client.get("/version")
                self._measured(client)
            await self._pause(PING_SECONDS)

    def _measured(self, client: Client) -> None:
        seconds = client.latency_seconds
        if seconds is not None and self._store.link.state != "offline":
            self._store.link = self._store.link._replace(latency_ms=seconds * 1000)

    def _live(self) -> None:
        link = self._store.link
        if link.state != "live":
            self._store.link = link._replace(state="live", since=self._store.clock(), retry_at=None, said="")

    async def _wait(self, failures: int, error: GpuqError) -> None:
        """Until the next try, or until somebody wants it at once."""
        longest = min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2 ** min(failures - 1, 10))
        seconds = longest * (0.5 + 0.5 * self._chance())
        now, link = self._store.clock(), self._store.link
        since = link.since if link.state == "offline" else now
        self._store.link = Link("offline", None, since, now + seconds, link.slow, error.one_line())
        waiting = asyncio.ensure_future(self._pause(seconds))
        wanted = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait({waiting, wanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            wanted.cancel()
            self._again.clear()
