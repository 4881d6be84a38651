from __future__ import annotations

from tests.tui.clusters import changes, job, running, snapshot
from tui.store import Store
from tui.ticker import BEHIND_TICKS, QUICK_TICKS, SLOW_TICKS, TICK_SECONDS, Ticker


class Screen:
    """A store on a clock, ticked as the dashboard does."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = Store(lambda: self.now)
        self.store.load(snapshot([job(1)]))
        self.ticker = Ticker(self.store)
        self.at = 100

    def tick(self, behind: bool = False, changed: bool = True) -> bool:
        """Whether something is painted."""
        self.now += TICK_SECONDS
        if changed:
            self.at += 1
            self.store.apply(changes(self.at, [running(1)]))
        return self.ticker.due(behind) is not None


def test_what_changes_is_painted_four_times_a_second() -> None:
    screen = Screen()
    assert sum(screen.tick() for _ in range(40)) == 40


def test_without_changes_only_the_clock_is_painted() -> None:
    screen = Screen()
    screen.tick()
    assert sum(screen.tick(changed=False) for _ in range(40)) == 10


def test_a_terminal_that_is_behind_is_spared() -> None:
    screen = Screen()
    assert not any(screen.tick(behind=True) for _ in range(10))
    assert screen.store.pending


def test_a_slow_terminal_is_painted_once_a_second_until_it_keeps_up() -> None:
    screen = Screen()
    for _ in range(BEHIND_TICKS):
        screen.tick(behind=True)
    assert screen.store.link.slow
    assert sum(screen.tick() for _ in range(QUICK_TICKS - SLOW_TICKS)) <= QUICK_TICKS / SLOW_TICKS
    for _ in range(SLOW_TICKS + 1):
        screen.tick()
    assert not screen.store.link.slow


def test_a_slow_network_is_a_slow_link() -> None:
    screen = Screen()
    screen.store.link = screen.store.link._replace(latency_ms=400.0)
    screen.tick()
    assert screen.store.link.slow


def test_paused_nothing_is_painted_and_what_waits_is_counted() -> None:
    screen = Screen()
    screen.tick()
    screen.ticker.paused = True
    assert not any(screen.tick() for _ in range(8))
    assert screen.store.pending == 1
    screen.ticker.paused = False
    assert screen.tick(changed=False)
