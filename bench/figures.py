"""What a measurement gives, and the table they are shown in."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. must and aim are DESIGN section 9's; floor is what this machine needs for the bare act.

    Higher is better for rates, lower for everything else.
    """

    what: str
    value: float
    unit: str
    must: float | None = None
    aim: float | None = None
    floor: float | None = None
    rate: bool = False

    @property
    def met(self) -> bool | None:
        if self.must is None:
            return None
        return self.value >= self.must if self.rate else self.value <= self.must


def median_ms(act: Callable[[], object], times: int) -> float:
    """Median wall time of `times` calls in ms, after one that does not count."""
    act()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e3


def table(figures: Sequence[Figure]) -> str:
    """Markdown, for docs/performance.md as for a terminal."""

    def show(value: float | None, unit: str) -> str:
        if value is None:
            return ""
        if unit == "%":
            return f"{value:.2f}"  # those near 100 differ in hundredths
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"

    rows = [("", "measured", "unit", "must", "aim", "this machine's floor", "")]
    for f in figures:
        verdict = {True: "met", False: "NOT MET", None: ""}[f.met]
        measured, must, aim, floor = (show(value, f.unit) for value in (f.value, f.must, f.aim, f.floor))
        rows.append((f.what, measured, f.unit, must, aim, floor, verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
