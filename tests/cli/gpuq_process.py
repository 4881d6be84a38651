"""gpuq as a user starts it: a process of its own, from this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process' own, with a home of the test's and no other controller in sight."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GPUQ_", "PYTHON"))}
    return {**kept, "GPUQ_HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def gpuq(home: Path, *arguments: str | bytes, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpuq", *arguments],
        env=environment(home, **more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
