from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from tui.guard import BETWEEN_SECONDS, OutputGuard, backlog


class Terminal:
    """A terminal that takes frames when it likes, and a clock that calls what is due."""

    def __init__(self) -> None:
        self.behind = 0
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.guard = OutputGuard(lambda: self.behind, self.later, lambda: self.now)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.due.append((self.now + seconds, act))

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.due and min(self.due)[0] <= until:
            at, act = self.due.pop(self.due.index(min(self.due, key=lambda due: due[0])))
            self.now = at
            act()
        self.now = until


def test_a_single_key_is_painted_at_once() -> None:
    terminal, painted = Terminal(), []
    terminal.guard.paint("list", lambda: painted.append(1))
    assert painted == [1]


def test_while_the_terminal_is_behind_moves_add_up_to_one_frame() -> None:
    terminal, painted = Terminal(), []
    terminal.behind = 2
    for key in range(60):
        terminal.guard.paint("list", lambda key=key: painted.append(key))  # type: ignore[misc]
        terminal.pass_time(0.033)
    assert painted == []
    terminal.behind = 0
    terminal.pass_time(BETWEEN_SECONDS)
    assert painted == [59]


def test_frames_are_never_closer_than_a_key_repeats() -> None:
    terminal, painted = Terminal(), []
    for _ in range(100):
        terminal.guard.paint("list", lambda: painted.append(terminal.now))
        terminal.pass_time(0.001)
    terminal.pass_time(1)
    assert all(later - earlier >= BETWEEN_SECONDS for earlier, later in pairwise(painted))
    assert 3 <= len(painted) <= 5


def test_different_things_that_wait_are_painted_together() -> None:
    terminal, painted = Terminal(), []
    terminal.behind = 1
    terminal.guard.paint("list", lambda: painted.append("list"))
    terminal.guard.paint("detail", lambda: painted.append("detail"))
    terminal.behind = 0
    terminal.pass_time(BETWEEN_SECONDS)
    assert painted == ["list", "detail"]


def test_without_a_terminal_nothing_is_held_back() -> None:
    app: Any = SimpleNamespace(_driver=None)
    assert backlog(app) == 0
