"""Back-pressure: paints no faster than the terminal takes it.

Textual's writer thread has a queue of 30 frames and blocks the event loop when it is full: on a slow link a key that is
held down for 4 s is then played out for 7 s more. So what would be painted waits here while frames are waiting there,
and what has waited is painted once, as it is by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary, proxy

from textual.app import App

from tui.driver import driver_of

BETWEEN_SECONDS = 0.03  # two frames: what a key repeats at
SOON_SECONDS = 0.004  # a terminal that keeps up has taken a frame by then


def backlog(app: App[Any]) -> int:
    """Characters that are on their way to the terminal and not taken yet."""
    driver = driver_of(app)
    return 0 if driver is None else driver.waiting


class OutputGuard:
    """Holds paint back while the terminal is behind. One for each app: `guard_of`."""

    def __init__(
        self,
        behind: Callable[[], int],
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """behind: what the terminal has not taken yet; later: calls something after so many seconds."""
        self._behind, self._later, self._clock = behind, later, clock
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._painted_at = float("-inf")

    def paint(self, what: Hashable, act: Callable[[], None]) -> None:
        """Runs `act` now, or once later if the terminal is behind; of several for the same thing only the last."""
        if not self._waiting and self._ready():
            self._painted_at = self._clock()
            act()
            return
        if not self._waiting:
            self._try_after(SOON_SECONDS)
        self._waiting[what] = act

    @property
    def behind(self) -> bool:
        """Whether something waits for the terminal at this moment."""
        return self._behind() > 0

    def _ready(self) -> bool:
        return self._behind() == 0 and self._clock() - self._painted_at >= BETWEEN_SECONDS

    def _try_after(self, seconds: float) -> None:
        """seconds: to the next try, if it is the terminal that is waited for; then twice as long for each further."""
        left = self._painted_at + BETWEEN_SECONDS - self._clock()
        self._later(max(left, seconds), lambda: self._try(min(2 * seconds, BETWEEN_SECONDS)))

    def _try(self, again: float) -> None:
        if not self._ready():
            self._try_after(again)
            return
        waiting, self._waiting = self._waiting, {}
        self._painted_at = self._clock()
        for act in waiting.values():
            act()


_GUARDS: WeakKeyDictionary[App[Any], OutputGuard] = WeakKeyDictionary()


def guard_of(app: App[Any]) -> OutputGuard:
    """The guard of an app, made when it is first asked for."""
    guard = _GUARDS.get(app)
    if guard is None:
        near = proxy(app)  # or the guard would keep the app it belongs to
        guard = _GUARDS[app] = OutputGuard(lambda: backlog(near), lambda after, act: near.set_timer(after, act))
    return guard
