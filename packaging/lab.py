"""python3 build.py lab [SCENARIO...]: hosts of their own on this machine, and gpuq on them as people use it.

The lab itself is tests/lab; here it gets the namespaces that it runs in and that the kernel takes away with it. What it
needs beyond root is installed by packaging/lab-packages.sh. Where it cannot run, `lacking` says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from toolchain import run

_PROGRAMS = ("ip", "nft", "nsenter", "pgrep", "setpriv", "systemd-nspawn", "unshare", "useradd")
# Network, mounts and processes of its own: nothing of the lab is in this machine's, and all of it dies with its first
# process.
_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# It reaps orphans. Without that, a host whose power is cut would wait for those that were started in it from outside.
_FIRST_PROCESS = ["bash", "-c", '"$@"; exit $?', "lab"]
_PROBE = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
ip link add lab0 type bridge
nft list tables
"""


def run_lab(python: Path, pyz: Path, scenarios: Sequence[str]) -> int:
    """0 if all that was tried held."""
    return run([*_NAMESPACES, *_FIRST_PROCESS, python, "-m", "tests.lab", pyz, *scenarios])


def lacking() -> str | None:
    """Why there can be no lab on this machine."""
    if os.geteuid() != 0:
        return "it needs root, to make hosts of namespaces"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found; sh packaging/lab-packages.sh installs them on Debian and Ubuntu"
    probe = subprocess.run([*_NAMESPACES, "sh", "-c", _PROBE], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        said = (probe.stderr.strip().splitlines() or [f"unshare ended with {probe.returncode}"])[-1]
        return f"this machine cannot make hosts of namespaces: {said}"
    return None
