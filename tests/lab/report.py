"""What a lab run found, step by step, and the table of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Report:
    """Rows of scenario, step, seconds and note; `wrong` has what did not hold."""

    scenario: str = ""
    rows: list[tuple[str, str, float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, what: str, note: str = "") -> Iterator[None]:
        """Times what is done within it."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self.rows.append((self.scenario, what, seconds, note))
        print(f"  {seconds:7.2f} s  {what}{f'  ({note})' if note else ''}", flush=True)

    def check(self, what: str, holds: bool, instead: object = "") -> None:
        """Notes whether something is as it should be; the scenario goes on either way."""
        if not holds:
            self.wrong.append(f"{self.scenario}: {what}: {instead}")
        print(f"  {'ok' if holds else 'WRONG':>9}  {what}{'' if holds else f'; it is {instead!r}'}", flush=True)

    def failed(self, why: str) -> None:
        self.wrong.append(f"{self.scenario}: {why}")
        print(f"  {'FAILED':>9}  {why}", flush=True)

    def table(self) -> str:
        wide = max((len(step) for _, step, _, _ in self.rows), default=0)
        lines = [f"{'SCENARIO':<18}{'STEP':<{wide + 2}}{'SECONDS':>8}  NOTE"]
        for scenario, step, seconds, note in self.rows:
            lines.append(f"{scenario:<18}{step:<{wide + 2}}{seconds:>8.2f}  {note}".rstrip())
        return "\n".join(lines)
