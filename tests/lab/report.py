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
        self._say(f"{seconds:7.2f} s", f"{what}{f'  ({note})' if note else ''}")

    def check(self, what: str, holds: bool, instead: object = "") -> None:
        """Notes whether something is as it should be; the scenario goes on either way."""
        if not holds:
            self.wrong.append(f"{self.scenario}: {what}: {instead}")
        self._say("ok" if holds else "WRONG", what if holds else f"{what}; it is {instead!r}")

    def failed(self, why: str) -> None:
        self.wrong.append(f"{self.scenario}: {why}")
        self._say("FAILED", why)

    def note(self, what: str) -> None:
        """Says something that is neither a step nor a check."""
        self._say("", what)

    def _say(self, how: str, what: str) -> None:
        """One line, with its scenario: several run at once."""
        print(f"{self.scenario:<22} {how:>9}  {what}", flush=True)

    def table(self) -> str:
        wide = max((len(step) for _, step, _, _ in self.rows), default=0)
        lines = [f"{'SCENARIO':<22}{'STEP':<{wide + 2}}{'SECONDS':>8}  NOTE"]
        for scenario, step, seconds, note in self.rows:
            lines.append(f"{scenario:<22}{step:<{wide + 2}}{seconds:>8.2f}  {note}".rstrip())
        return "\n".join(lines)
