"""Fixtures for every suite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# On a machine that does other things too, to be slow says nothing of a test.
settings.register_profile("gpuq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gpuq")

# Started in the background or under nohup, this process ignores these, and what it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A worker of several finds a size here, to which tables would keep.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits and what works in turn, so that no processor is idle; first the histories of the simulation, which
    take longest: else one worker would still be at them when the others have nothing left.
    """
    files = list(dict.fromkeys(item.path for item in items))
    place: dict[Path, tuple[bool, float]] = {}
    for waits in (True, False):
        alike = [file for file in files if (file.parent.name == "e2e") is waits]
        place |= {file: (file.parent.name != "simulation", n / len(alike)) for n, file in enumerate(alike)}
    items.sort(key=lambda item: place[item.path])


class FileToAWorker(LoadFileScheduling):  # type: ignore[misc]
    """A file stays with one worker, for its tests share a cluster; histories of the simulation share nothing."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith("tests/simulation/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileToAWorker:
    return FileToAWorker(config, log)


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_behind() -> Iterator[None]:
    """No test may leave a file in the checkout; what tools keep there is ignored by git and begins with a dot."""
    before = {*ROOT.iterdir(), ROOT / "dist"}
    yield
    left = [path.name for path in ROOT.iterdir() if path not in before and not path.name.startswith(".")]
    assert not left, f"left behind in {ROOT}: {', '.join(left)}"


@pytest.fixture(scope="session")
def pyz() -> Path:
    """dist/gpuq.pyz as of the sources of this moment; built only when they changed.

    Start it with `[sys.executable, "-I", "-S", pyz, ...]`: a `python3` found in PATH may be of another version.
    """
    built = subprocess.run([sys.executable, ROOT / "build.py"], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.fail(f"build.py failed: {built.stdout}{built.stderr}", pytrace=False)
    return ROOT / "dist" / "gpuq.pyz"
