"""Virtual time and a network that drops, delays, duplicates and reorders: everything random comes from one seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from gpuq.model import Now

WALL_ZERO = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Faults:
    """How hostile the world is. Rates are per message, per second where they say so."""

    drop: float = 0.05
    duplicate: float = 0.05
    slow: float = 0.1  # share of messages delayed by up to slow_seconds
    slow_seconds: float = 12.0
    crash_controller: float = 0.008  # a second
    crash_agent: float = 0.01  # a second and node
    crash_node: float = 0.002
    kill_supervisor: float = 0.004
    partition: float = 0.004
    gpu: float = 0.01  # of a machine with four
    disk_full: float = 0.01  # a second
    disk_busy: float = 0.05  # of what is written


class Clock:
    """An event queue in virtual seconds. Events at the same time run in the order they were added."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.time = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.time + delay, self._count, act))

    def step(self) -> bool:
        """Runs the next event; False when there is none."""
        if not self._queue:
            return False
        self.time, _, act = heapq.heappop(self._queue)
        act()
        return True

    def now(self) -> Now:
        return Now(self.time, WALL_ZERO + self.time)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


class Network:
    """Carries calls between named ends. A partition silences an end, in one direction or both."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self._clock, self.faults = clock, faults
        self.silent: set[tuple[str, str]] = set()  # (from, to) pairs that deliver nothing; '*' for the other end

    def send(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        faults, clock = self.faults, self._clock
        copies = 1 + clock.chance(faults.duplicate)
        if clock.chance(faults.drop):
            copies = 0
        for _ in range(copies):
            delay = clock.random.uniform(0.001, 0.05)
            if clock.chance(faults.slow):
                delay += clock.random.uniform(0.0, faults.slow_seconds)
            clock.after(delay, lambda: None if self._cut(source, target) else deliver())

    def _cut(self, source: str, target: str) -> bool:
        return (source, target) in self.silent
