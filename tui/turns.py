"""Keys take turns: each finds the screen as the one before left it, however fast they are typed or pasted.

Textual hands a key to what has the focus when it comes in. Of '/train', typed at once, all but the first would go to
the list, as commands: 'r' requeues, 'x' cancels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from textual import events
from textual.app import App

Typed = events.Key | events.Paste

_QUIET_TURNS = 3  # of the event loop, in which nothing that the focus may depend on has a message to work on
_MOST_SECONDS = 1.0  # a pane that never comes to rest must not swallow what is typed
_LEAST_TURNS = 50  # all the same: on a busy machine one turn, in which a form is made, may take longer than that
_MOST_MAKING_SECONDS = 30.0  # the form on a very busy machine: sooner, its text would be commands to the list behind it
_LOOK_SECONDS = 0.005  # while something is being made


class Turns:
    """hand_on: gives a key to what has the focus. ready: whether all is there that a key may be meant for."""

    def __init__(self, app: App[None], hand_on: Callable[[Typed], Awaitable[None]], ready: Callable[[], bool]) -> None:
        self._app, self._hand_on, self._ready = app, hand_on, ready
        self._waiting: deque[Typed] = deque()
        self._task: asyncio.Task[None] | None = None

    def take(self, typed: Typed) -> None:
        """It is handed on when its turn has come."""
        self._waiting.append(typed)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._pass())

    async def _pass(self) -> None:
        while not self._ready():  # what was typed while the dashboard started is not lost
            await asyncio.sleep(_LOOK_SECONDS)
        while self._waiting and self._app.screen_stack:  # there is none when it is being left
            await self._hand_on(self._waiting.popleft())
            await self._settled()

    async def _settled(self) -> None:
        """Waits until what a key has caused is done: messages on their way, a pane or dialog being made."""
        loop, quiet, turns = asyncio.get_running_loop(), 0, 0
        made_by = loop.time() + _MOST_MAKING_SECONDS
        until = loop.time() + _MOST_SECONDS
        while quiet < _QUIET_TURNS:
            ready, now = self._ready(), loop.time()
            if not ready and now < made_by:
                turns, until = 0, now + _MOST_SECONDS
            elif turns >= _LEAST_TURNS and now >= until:
                return
            turns += 1
            await asyncio.sleep(0 if ready else _LOOK_SECONDS)
            quiet = quiet + 1 if self._ready() and not self._busy() else 0

    def _busy(self) -> bool:
        around = (self._app.focused or self._app.screen).ancestors_with_self
        return any(widget.message_queue_size for widget in around)
