"""A GPU in one cell: how it stands, and one of its figures as a digit. Pure.

A character always says it alone; the role it is painted in only repeats it.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from tui.store import Store
from tui.text import UNKNOWN

FOREIGN_MEMORY_BYTES = 1 << 30  # what drivers and desktops take of an idle GPU stays below
HOT_CELSIUS = 85  # H100 and A100 slow down at 87 to 93, consumer cards at 83 to 90


class Standing(Enum):
    """What a GPU is to somebody who wants one; the first that holds, in this order."""

    LOST = "lost"  # its node is not there
    SILENT = "silent"  # its node has missed exchanges: what is shown is old
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"  # the driver cannot be asked
    BUSY = "busy"
    FOREIGN = "foreign"  # used by somebody who did not ask gpuq
    CLOSED = "closed"  # free, but its node takes no work
    FREE = "free"

    __hash__ = object.__hash__  # Enum's own runs in Python: a third of what it costs to look at 8,000 GPUs


MARKS: Mapping[Standing, str] = {
    Standing.LOST: "x",
    Standing.SILENT: "~",
    Standing.QUARANTINED: "!",
    Standing.UNKNOWN: UNKNOWN,
    Standing.FOREIGN: "f",
    Standing.CLOSED: "-",
    Standing.FREE: ".",
}
ROLES: Mapping[Standing, str] = {
    Standing.LOST: "bad",
    Standing.SILENT: "warn",
    Standing.QUARANTINED: "bad",
    Standing.UNKNOWN: "warn",
    Standing.FOREIGN: "warn",
    Standing.CLOSED: "dim",
    Standing.FREE: "dim",
    Standing.BUSY: "good",
}


class Metric(Enum):
    """What the digit of a busy GPU says."""

    UTILIZATION = "utilisation"
    MEMORY = "memory"
    TEMPERATURE = "temperature"
    OWNER = "owner"

    @property
    def legend(self) -> str:
        return _LEGENDS[self]


_LEGENDS = {
    Metric.UTILIZATION: "0-8 eighths of full use, by a job",
    Metric.MEMORY: "0-8 eighths of its memory",
    Metric.TEMPERATURE: f"digit: tens of °C, H from {HOT_CELSIUS} on",
    Metric.OWNER: "letter: whose job",
}
MARKS_LEGEND = (". free", "- closed", "f foreign", "! quarantined", "? unknown", "~ silent", "x lost")


class Mark(NamedTuple):
    character: str
    role: str


def standing(node: Mapping[str, Any], gpu: Mapping[str, Any]) -> Standing:
    if node["state"] != "up":
        return Standing.LOST if node["state"] == "lost" else Standing.SILENT
    health = gpu["health"]
    if health not in ("ok", "foreign"):
        return Standing.UNKNOWN if health == "unknown" else Standing.QUARANTINED
    if gpu["jobs"]:
        return Standing.BUSY
    if health == "foreign" or (gpu["memory_used_bytes"] or 0) > FOREIGN_MEMORY_BYTES:
        return Standing.FOREIGN
    return Standing.CLOSED if node["cordoned"] or node["draining"] else Standing.FREE


def mark(
    node: Mapping[str, Any], gpu: Mapping[str, Any], metric: Metric = Metric.UTILIZATION, owner: str | None = None
) -> Mark:
    """One cell. owner: the letter of whose job it is, where that is asked for."""
    stands = standing(node, gpu)
    if stands is Standing.BUSY:
        return _figure(gpu, metric, owner)
    readable = stands in (Standing.FREE, Standing.CLOSED, Standing.FOREIGN)
    if metric is Metric.TEMPERATURE and readable:  # a free GPU has a temperature too
        return _figure(gpu, metric, owner)
    return Mark(MARKS[stands], ROLES[stands])


def _figure(gpu: Mapping[str, Any], metric: Metric, owner: str | None) -> Mark:
    if metric is Metric.OWNER:
        return Mark(owner or UNKNOWN, "good" if owner else "warn")
    if metric is Metric.TEMPERATURE:
        celsius = gpu["temperature_c"]
        if celsius is None:
            return Mark(UNKNOWN, "warn")
        return Mark("H", "bad") if celsius >= HOT_CELSIUS else Mark(str(max(0, celsius // 10)), "good")
    share = memory_share(gpu) if metric is Metric.MEMORY else _share(gpu["utilization_percent"], 100)
    if share is None:
        return Mark(UNKNOWN, "warn")
    eighths = math.ceil(share * 8)  # rounded up: a little is not nothing
    return Mark(str(eighths), "good" if eighths else "warn")


def memory_share(gpu: Mapping[str, Any]) -> float | None:
    return _share(gpu["memory_used_bytes"], gpu["memory_total_bytes"])


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, max(0.0, part / whole))


class Letters:
    """A letter for each user, the same whoever looks and whatever runs: by name, its first letter if that is free.

    '@' is you, '+' several users on one GPU, '*' those for whom no letter is left.
    """

    def __init__(self, users: Iterable[str], you: str) -> None:
        self.of: dict[str, str] = {you: "@"}
        free = dict.fromkeys(string.ascii_uppercase + string.ascii_lowercase)
        for user in sorted(set(users) - {you}):
            wanted = [user[:1].upper(), user[:1].lower(), *free]
            letter = next((c for c in wanted if c in free), "*")
            free.pop(letter, None)
            self.of[user] = letter

    def owner(self, store: Store, gpu: Mapping[str, Any]) -> str | None:
        """The letter of a GPU's user; None where that is not known (yet)."""
        users = {owner_of(store, job) for job in gpu["jobs"]}
        if len(users) > 1:
            return "+"
        return self.of.get(next(iter(users), None) or "")


def owner_of(store: Store, job: str) -> str | None:
    """Whose job it is, by its row or that of its array."""
    row = store.jobs.get(job) or store.jobs.get(job.partition("_")[0])
    return None if row is None else row.user


class Gathered(NamedTuple):
    """What the GPUs of some nodes come to. None: no GPU of them said."""

    gpus: int
    standings: Counter[Standing]
    utilization_percent: float | None  # the mean
    memory_used_bytes: int | None
    memory_total_bytes: int | None  # of those GPUs that said what they use
    hottest_c: int | None
    power_w: float | None


def gather(nodes: Iterable[Mapping[str, Any]]) -> Gathered:
    """Sums over nodes. Readings of nodes that are not up are old, and left out."""
    standings: Counter[Standing] = Counter()
    busy = said = used = total = memories = 0
    hottest: int | None = None
    power: float | None = None
    for node in nodes:
        up = node["state"] == "up"
        for gpu in node["gpus"]:
            standings[standing(node, gpu)] += 1
            if not up:
                continue
            if (percent := gpu["utilization_percent"]) is not None:
                busy += percent
                said += 1
            if (memory := gpu["memory_used_bytes"]) is not None and gpu["memory_total_bytes"]:
                used += memory
                total += gpu["memory_total_bytes"]
                memories += 1
            if (celsius := gpu["temperature_c"]) is not None and (hottest is None or celsius > hottest):
                hottest = celsius
            if (watts := gpu["power_w"]) is not None:
                power = watts + (power or 0.0)
    return Gathered(
        sum(standings.values()),
        standings,
        busy / said if said else None,
        used if memories else None,
        total if memories else None,
        hottest,
        power,
    )


def watts(power: float | None) -> str:
    """'640 W', '4.9 kW', '5.1 MW'; '?' when not known."""
    if power is None:
        return UNKNOWN
    if power < 1000:
        return f"{power:.0f} W"
    return f"{power / 1e3:.1f} kW" if power < 1e6 else f"{power / 1e6:.1f} MW"
