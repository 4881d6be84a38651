"""The place a command is typed in: its folder, its variables, and whether this machine is one of the cluster's."""

from __future__ import annotations

import os

from gpuq.cli.submission import Place
from gpuq.config import host_home, read_text

_KEPT = ("controller/admin.token", "agent/node.token")


def this_place(token: str) -> Place:
    """The place, as seen by the controller that this token is for."""
    try:
        cwd: str | None = os.getcwd()  # noqa: PTH109  (pathlib takes 10 ms to import)
    except OSError:  # it was removed under us
        cwd = None
    return Place(cwd, os.environ, on_cluster(token))


def on_cluster(token: str) -> bool:
    """Whether this machine's controller or agent is of that cluster.

    Both keep a token here, and tokens name their cluster's CA: an address may be written in many ways. One that does
    not run at the moment counts too, for this machine's folders and programs are still the cluster's.
    """
    home = host_home()
    cluster = _cluster_of(token)
    return cluster in (_cluster_of(read_text(f"{home}/{kept}")) for kept in _KEPT)


def _cluster_of(token: str | None) -> str | None:
    return token.strip().rpartition("_")[2] if token else None
