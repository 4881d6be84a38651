"""How busy GPUs were over the last hour, kept while the dashboard runs, and lines of bars drawn from it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SLOT_SECONDS = 10.0  # 360 frames an hour: more than a line has cells, and a frame of 8,000 GPUs is 8 KB
HOLD_SECONDS = 25.0  # so long a reading stands for what followed it: samples may be some seconds late
HOUR_SECONDS = 3_600.0
_UNKNOWN = 255  # in a frame; a utilisation is 0 to 100
_BARS = "▁▂▃▄▅▆▇█"

Place = tuple[str, int]  # a node, and a GPU's index there


class _Frame(NamedTuple):
    at: float
    mean: float | None  # over all GPUs that said
    busy: bytes  # percent, by position; GPUs first seen later are beyond its end


class History:
    """Utilisation of every GPU, one frame in SLOT_SECONDS for an hour. What was not heard is None, never 0."""

    def __init__(self) -> None:
        self._frames: deque[_Frame] = deque(maxlen=int(HOUR_SECONDS / SLOT_SECONDS))
        self._positions: dict[Place, int] = {}

    def note(self, nodes: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Takes a frame if the last one is old enough. Nodes that are silent say nothing: their readings are old."""
        if self._frames and 0 <= now - self._frames[-1].at < SLOT_SECONDS:
            return
        positions = self._positions
        busy = bytearray([_UNKNOWN]) * len(positions)
        total = heard = 0
        for name, node in nodes.items():
            if node["state"] != "up":
                continue
            for gpu in node["gpus"]:
                percent = gpu["utilization_percent"]
                if percent is None:
                    continue
                place = name, gpu["index"]
                position = positions.get(place)
                if position is None:
                    position = positions[place] = len(busy)
                    busy.append(_UNKNOWN)
                busy[position] = min(100, max(0, int(percent)))
                total += busy[position]
                heard += 1
        self._frames.append(_Frame(now, total / heard if heard else None, bytes(busy)))

    def span(self, now: float, most: float = HOUR_SECONDS) -> float:
        """Seconds worth drawing, in whole minutes: what was watched of the last `most`."""
        watched = now - self._frames[0].at if self._frames else 0.0
        return max(60.0, min(most, math.ceil(watched / 60.0) * 60.0))

    def cluster(self, cells: int, now: float, seconds: float = HOUR_SECONDS) -> list[float | None]:
        """Mean utilisation of all GPUs, oldest first, in so many equal parts of the time that ends now."""
        return _in_cells(((frame.at, frame.mean) for frame in self._frames), cells, now, seconds)

    def gpus(
        self, places: Iterable[Place], cells: int, now: float, seconds: float = HOUR_SECONDS
    ) -> list[float | None]:
        """The same of some GPUs together: those of a node, or of a job since it started."""
        known = [self._positions[place] for place in places if place in self._positions]
        return _in_cells(((frame.at, _mean(frame.busy, known)) for frame in self._frames), cells, now, seconds)


def _mean(busy: bytes, positions: Sequence[int]) -> float | None:
    said = [busy[p] for p in positions if p < len(busy) and busy[p] != _UNKNOWN]
    return sum(said) / len(said) if said else None


def _in_cells(
    points: Iterable[tuple[float, float | None]], cells: int, now: float, seconds: float
) -> list[float | None]:
    sums, counts = [0.0] * cells, [0] * cells
    for at, value in points:
        age = now - at
        if value is not None and 0 <= age < seconds:
            cell = cells - 1 - int(age * cells / seconds)
            sums[cell] += value
            counts[cell] += 1
    holds = int(HOLD_SECONDS * cells / seconds)
    means: list[float | None] = []
    last = -1 - holds
    for at, (total, count) in enumerate(zip(sums, counts, strict=True)):
        if count:
            last = at
            means.append(total / count)
        else:
            means.append(means[last] if at - last <= holds else None)
    return means


def sparkline(values: Sequence[float | None]) -> str:
    """One cell for each value of 0 to 100, a bar in eighths.

    What is not known is '?' between values, and blank before the first: then nobody was watching yet.
    """
    cells = ["?" if value is None else _BARS[min(7, int(value * 8 / 100))] for value in values]
    first = next((i for i, value in enumerate(values) if value is not None), len(values))
    return " " * first + "".join(cells[first:])


def bar(share: float | None, cells: int) -> str:
    """'[####----]', so many cells wide, brackets included; all '?' when the share (0 to 1) is not known.

    A little is never drawn as nothing, and nearly full never as full.
    """
    inner = cells - 2
    if inner < 2:
        return ""
    if share is None:
        return f"[{'?' * inner}]"
    filled = min(inner, max(0, round(share * inner)))
    if share > 0:
        filled = max(1, filled)
    if share < 1:
        filled = min(inner - 1, filled)
    return f"[{'#' * filled}{'-' * (inner - filled)}]"
