"""A machine with GPUs made of a text file: builds the fake library and runs a reader over it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from gpuq.codec import encode
from gpuq.model import Gpu

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 0.5


def build_library(folder: Path) -> Path:
    """The folder with libnvidia-ml.so.1 in it; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    source = Path(__file__).with_name("nvml.c")
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def gpu(index: int, **changes: object) -> dict[str, object]:
    """One device of the state file, healthy unless changed; None leaves the key out, that is: not supported."""
    told: dict[str, object] = {
        "uuid": f"GPU-0000000{index}",
        "name": "NVIDIA H100 80GB HBM3",
        "bus": f"00000000:{0x10 + index:02X}:00.0",
        "total": 80 << 30,
        "reserved": 1 << 29,
        "used": 1 << 30,
        "util": 40 + index,
        "temp": 50 + index,
        "power": 300_500,
        "pids": "",
    }
    return {k: v for k, v in {**told, **changes}.items() if v is not None}


class Machine:
    """State file and reader process. Enter it to start the reader; leaving it closes the reader properly."""

    def __init__(self, library: Path, folder: Path, selection: str = "all", known: Sequence[Gpu] = ()) -> None:
        self._state = folder / "nvml.state"
        self._settings = {"gpus": selection, "deadline": DEADLINE_SECONDS, "known": [encode(g) for g in known]}
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            "FAKE_NVML": str(self._state),
            "PATH": str(folder),  # only a nvidia-smi the test puts there
            "PYTHONPATH": str(ROOT),
        }
        self.ended = False  # set by a test that ended the reader itself
        self.has([gpu(0), gpu(1), gpu(2)])

    def has(self, gpus: Sequence[dict[str, object]], *, driver: str = "550.54.15", also: str = "") -> None:
        """Change the machine at once and as a whole, whoever reads it meanwhile."""
        lines = [f"driver {driver}", *filter(None, [also])]
        lines += ["gpu " + "|".join(f"{k}={v}" for k, v in told.items()) for told in gpus]
        draft = self._state.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self._state)

    def read(self, now: float = 0.0) -> dict[str, Any]:
        return self._ask({"now": now})

    def more(self) -> dict[str, Any]:
        return self._ask({"more": True})

    def __enter__(self) -> Machine:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.agent.fake_nvml.drive", json.dumps(self._settings)],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ended:
            return
        try:
            said, _ = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        if kind is None:
            assert self.process.returncode == 0
            assert json.loads(said)["threads"] == 1, "the reader left its driver thread behind"

    def _ask(self, order: dict[str, object]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer
