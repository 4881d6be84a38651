"""Fixtures for every suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def pyz() -> Path:
    """dist/gpuq.pyz as of the sources of this moment; built only when they changed.

    Start it with `[sys.executable, "-I", "-S", pyz, ...]`: a `python3` found in PATH may be of another version.
    """
    built = subprocess.run([sys.executable, ROOT / "build.py"], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.fail(f"build.py failed: {built.stdout}{built.stderr}", pytrace=False)
    return ROOT / "dist" / "gpuq.pyz"
