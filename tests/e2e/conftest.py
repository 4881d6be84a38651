"""Clusters of the built file, each with a home of its own, and nothing left of them afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def program(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built file: one that is built again meanwhile must not replace daemons under test."""
    copy = tmp_path_factory.mktemp("program") / "gpuq.pyz"
    shutil.copy2(pyz, copy)
    return copy


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the file unpacks itself to, shared by clusters that do not care."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make_cluster(program: Path, cache: Path) -> Iterator[MakeCluster]:
    """Makes further clusters, not started yet; they are removed with the module. Arguments are Cluster's."""
    with ExitStack() as stack:

        def make(**more: object) -> Cluster:
            root = Path(tempfile.mkdtemp(prefix="gpuq-e2e-"))
            made = Cluster(**{"pyz": program, "root": root, "cache": cache, **more})  # type: ignore[arg-type]
            stack.callback(made.remove)
            return made

        yield make


@pytest.fixture(scope="module")
def cluster(make_cluster: MakeCluster) -> Cluster:
    """A cluster that is up: this machine with eight pretend GPUs. Shared by a module's tests."""
    made = make_cluster()
    made.up()
    return made
