"""The whole dashboard in a test: keys go in, the screen is read as text, conditions are waited for."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from tui.app import DashboardApp
from tui.client import Client

DEADLINE = 45.0  # seconds anything here may take on a busy machine


def played(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test written as a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Desk:
    """A dashboard somebody sits at."""

    def __init__(self, app: DashboardApp, pilot: Pilot[None]) -> None:
        self.app, self._pilot = app, pilot

    async def keys(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def type(self, text: str) -> None:
        """Types text into what has the focus."""
        await self._pilot.press(*text)

    async def command(self, text: str) -> None:
        """Types a command on the `:` line."""
        self.app.ask_command(text)
        await self._pilot.pause()
        await self.keys("enter")

    async def until(self, happened: Callable[[], Any]) -> Any:
        """The first true value of `happened`."""
        deadline = time.monotonic() + DEADLINE
        while not (value := happened()):
            assert time.monotonic() < deadline, "\n".join(["it did not happen in time", *self.screen()])
            await self._pilot.pause()
            await asyncio.sleep(0.01)
        return value

    async def shows(self, text: str) -> str:
        """Waits for a line of the screen that holds the text, and gives it."""
        found: str = await self.until(lambda: next((line for line in self.screen() if text in line), ""))
        return found

    def screen(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


@asynccontextmanager
async def desk(
    client: Client, size: tuple[int, int] = (80, 24), extra: Mapping[str, Mapping[str, Any]] | None = None, **given: Any
) -> AsyncIterator[Desk]:
    async def connect() -> Client:
        return client

    app = DashboardApp(connect, "prod-a", view="jobs", extra=extra, **given)
    async with app.run_test(size=size) as pilot:
        found = Desk(app, pilot)
        await found.until(lambda: app.store.loaded and app.store.link.state == "live" and app.focused)
        yield found
