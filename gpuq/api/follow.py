"""Long polls: thousands of readers wait here, and cost nothing until something they wait for happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gpuq.store.logfiles import Log

Check = Callable[[], bool]
Changed = Callable[[int, float], Awaitable[int]]  # LiveController.changed

_PATIENCE = 60.0  # seconds one wait for the controller lasts; only bounds how long an abandoned one lives
_REST = 19  # times as long as a look took: all looking together takes at most a twentieth of the core
_MAX_REST = 0.25  # seconds a change may go unnoticed when very many wait


class Follow:
    """Wakes readers when their check comes true, looking only when the cluster or their log has changed.

    One task looks for everybody, because a task each would wake thousands of times for a change that concerns one.
    Belongs to one event loop.
    """

    def __init__(self, changed: Changed, durable: Callable[[], int]) -> None:
        self._changed = changed
        self._durable = durable
        self._waiting: dict[asyncio.Future[None], Check] = {}
        self._by_log: dict[Log, set[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._someone = asyncio.Event()
        self.closing = asyncio.Event()  # set when the process is about to stop: streams end, polls are answered

    async def until(self, check: Check, seconds: float, log: Log | None = None) -> None:
        """Returns when check() is true, `seconds` have passed or the server stops, whichever is first.

        With `log`, also when that log has grown. check must be cheap and must not raise.
        """
        if seconds <= 0 or self.closing.is_set() or check():
            return
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._look(), name="follow")
        woken: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _wake, woken)
        self._waiting[woken] = check
        self._someone.set()
        if log is not None:
            self._by_log.setdefault(log, set()).add(woken)
        try:
            await woken
        finally:
            timer.cancel()
            del self._waiting[woken]
            if log is not None:
                same = self._by_log[log]
                same.discard(woken)
                if not same:
                    del self._by_log[log]

    def log_grew(self, log: Log) -> None:
        """To be called, in the loop, once new bytes of a log may be read."""
        for woken in self._by_log.get(log, ()):
            _wake(woken)

    def close(self) -> None:
        """Answer every waiting reader and let no other wait."""
        self.closing.set()
        for woken in self._waiting:
            _wake(woken)
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        seen = self._durable()
        while True:
            if not self._waiting:
                self._someone.clear()
                await self._someone.wait()
            now = await self._changed(seen, _PATIENCE)
            if now == seen:
                continue
            seen = now
            started = time.perf_counter()
            for woken, check in list(self._waiting.items()):
                if check():
                    _wake(woken)
            await asyncio.sleep(min(_MAX_REST, _REST * (time.perf_counter() - started)))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
