"""cgroups of the lab's hosts: in each hierarchy that a host is to see it has a group of its own, below the lab's.

That a host is in a cgroup namespace of its own makes its group the root of what it can see. The groups are the only
things of the lab that do not go away with its namespaces: it removes them, and those that a killed lab has left.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KINDS = ("v1", "v2", "none")
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")  # of v1, as far as this machine has them
_LAB = "gpuq-lab-"
_ABANDONED_SECONDS = 60.0
_EMPTY_SECONDS = 5.0  # for what was killed to be gone


def lab_name() -> str:
    return f"{_LAB}{uuid.uuid4().hex[:8]}"


def hierarchies(kind: str) -> dict[str, Path]:
    """This process' own group in each hierarchy of a kind, by controller; '' is v2's. Empty: there are none here."""
    found = {}
    for controller, path in _own():
        if controller in CONTROLLERS if kind == "v1" else (kind == "v2" and not controller):
            found[controller] = path
    return found


def available(kind: str) -> bool:
    """Whether this machine can make such hosts."""
    return kind == "none" or bool(hierarchies(kind))


def in_words(kind: str) -> str:
    """What hosts of a kind can do with their cgroups on this machine."""
    if kind == "none":
        return "hosts without cgroups"
    there = hierarchies(kind)
    if not there:
        return f"no hosts with cgroup {kind}: this machine has none"
    if kind == "v1":
        return f"hosts with cgroup v1: {' '.join(sorted(there))}"
    inherited = (there[""] / "cgroup.controllers").read_text().split()
    useful = [name for name in ("memory", "cpu", "pids") if name in inherited]
    return "hosts with cgroup v2: kill freeze " + (" ".join(useful) or "(memory, cpu and pids are bound to v1 here)")


def remove(folder: Path) -> None:
    """A group and all below it, once its processes are gone; one that stays in use is left."""
    deadline = time.monotonic() + _EMPTY_SECONDS
    while folder.is_dir():
        _remove_once(folder)
        if time.monotonic() >= deadline:
            return
        time.sleep(0.02)


def remove_leftovers() -> None:
    """Those of labs that were killed: groups in use cannot be removed, and those just made are let be."""
    for _, own in _own():
        for left in own.glob(f"{_LAB}*"):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                _remove_once(left)


def remove_lab(lab: str) -> None:
    for _, own in _own():
        remove(own / lab)


def _remove_once(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(path).rmdir()


def _own() -> Iterator[tuple[str, Path]]:
    """Each controller of v1 with this process' group for it, and '' with the one of v2."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), Path(left.split()[4])))
        elif kind == "cgroup2":
            mounts[""] = Path(left.split()[4])
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in mounts:
                yield controller, mounts[controller] / own.lstrip("/")
