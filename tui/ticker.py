"""When to paint: at most four times a second, less where the terminal or the network is slow, never while paused."""

from __future__ import annotations

from tui.store import Dirty, Store

TICK_SECONDS = 0.25
SLOW_TICKS = 4  # in slow mode every fourth tick paints
SLOW_LATENCY_MS = 150.0
BEHIND_TICKS = 3  # so long in a row the terminal is behind before it counts as slow
QUICK_TICKS = 40  # so long it has to keep up before it counts as quick again


class Ticker:
    """Asked once every TICK_SECONDS. Pure but for the store, whose dirt it takes and whose `link.slow` it keeps."""

    def __init__(self, store: Store) -> None:
        self.paused = False
        self._store = store
        self._number = 0
        self._second: int | None = None
        self._behind = 0
        self._slow_for = 0  # ticks for which it counts as slow yet

    def due(self, behind: bool) -> Dirty | None:
        """What to paint now, empty when only a second has passed; None: nothing. behind: frames wait to be written."""
        self._number += 1
        self._judge(behind)
        if self.paused or behind or (self._store.link.slow and self._number % SLOW_TICKS):
            return None
        second = int(self._store.clock())
        if not self._store.pending and second == self._second:
            return None
        self._second = second
        return self._store.take_dirty()

    def _judge(self, behind: bool) -> None:
        link = self._store.link
        self._behind = self._behind + 1 if behind else 0
        late = link.latency_ms is not None and link.latency_ms > SLOW_LATENCY_MS
        if self._behind >= BEHIND_TICKS or late:
            self._slow_for = QUICK_TICKS
        elif self._slow_for:
            self._slow_for -= 1
        if link.slow != bool(self._slow_for):
            self._store.link = link._replace(slow=bool(self._slow_for))
