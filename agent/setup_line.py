"""A set-up line: how a shell runs it, and the environment it leaves to what comes after it. Standard library only."""

# ruff: noqa: PTH110
# pathlib would be most of a supervisor's memory.
from __future__ import annotations

import os

_SHELL_KEEPS = ("_", "SHLVL", "PWD", "OLDPWD")  # what a shell sets by itself: not a change made by a line
_MOST = 4 << 20  # bytes; no program can be started with more than 2 MiB, and a line may write what it likes
# Runs $1 in this shell, then writes its environment to the open file $3. `|| exit` right after eval would turn off the
# `set -e` of a line that asks for it.
_RUN = """eval "$1"; gpuq_status=$?
[ $gpuq_status -eq 0 ] || exit $gpuq_status
unset gpuq_status
"$2" -0 >"/proc/self/fd/$3"
"""


def setup_command(line: str, dump: int) -> list[str]:
    """What runs it; the environment it leaves goes to the open file dump."""
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    env = "/usr/bin/env" if os.path.exists("/usr/bin/env") else "/bin/env"
    return [shell, "-c", _RUN, "gpuq-setup", line, env, str(dump)]


def environment_after(env: dict[str, str], dump: int) -> dict[str, str]:
    """env as a line has left it; as it was if the line left its shell by `exit 0`."""
    found = os.pread(dump, min(os.fstat(dump).st_size, _MOST), 0).decode(errors="surrogateescape")
    if not found:
        return env
    pairs = (item.partition("=") for item in found.split("\0"))
    changed = {name: value for name, _, value in pairs if name and name not in _SHELL_KEEPS}
    return {name: env[name] for name in _SHELL_KEEPS if name in env} | changed
