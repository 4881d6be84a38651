"""What a node holds its jobs to: its agent's own word on the kernel's control groups there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Enforced:
    """Whether what jobs reserve is also the most they get.

    cgroup: 'v2', 'v1' or 'none'; also 'none' of an agent too old to say. note: why not all of it, for people.
    """

    cgroup: str = "none"
    memory: bool = False  # --mem
    cpus: bool = False  # -c
    processes: bool = False  # how many of them a job may have
    note: str = ""


NOTHING = Enforced()
