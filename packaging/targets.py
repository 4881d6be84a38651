"""What gpuq.pyz runs on: every CPython and machine, and where the packages of each come from.

A target is named as the start of gpuq finds it out (bootstrap/__main__.py): `cpython-311-linux-x86_64`. On Linux each
has compiled modules of its own. On macOS gpuq is a client, and nothing that a client runs is compiled: its targets
share the pure files with Linux, which spares the file 14 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")  # the oldest first: its stable-ABI modules serve the newer ones
GLIBC = "2_28"  # of 2018: Debian 10, RHEL 8, Ubuntu 18.10; also what the start checks, in bootstrap/__main__.py


@dataclass(frozen=True, slots=True)
class Target:
    """One Python on one machine. machine: as `uname -m` says it."""

    python: str
    system: str
    machine: str

    def __str__(self) -> str:
        return f"cpython-{self.python.replace('.', '')}-{self.system}-{self.machine}"

    @property
    def spoken(self) -> str:
        return f"CPython {self.python} on {self.system} {self.machine}"

    @property
    def wheels(self) -> str:
        """The platform whose wheels it takes, in uv's words."""
        return f"{self.machine}-manylinux_{GLIBC}"


COMPILED = tuple(Target(python, "linux", machine) for machine in ("x86_64", "aarch64") for python in PYTHONS)
CLIENTS = tuple(Target(python, "darwin", machine) for machine in ("arm64", "x86_64") for python in PYTHONS)
TARGETS = COMPILED + CLIENTS
