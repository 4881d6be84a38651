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

from agent.faults import Kept
from agent.gpus import Remembered
from gpuq.codec import decode, encode
from gpuq.node import Gpu

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 20.0  # nothing that answers is waited for so long, however busy the machine


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
        "sm": 1_755,
        "mem": 2_619,
        "throttle": 1,
        "ecc_c": 0,
        "ecc_u": 0,
        "remap": "0,0,0,0",
        "pids": "",
        "drawing": "",
    }
    return {k: v for k, v in {**told, **changes}.items() if v is not None}


def write_state(path: Path, gpus: Sequence[dict[str, object]], *, driver: str = "550.54.15", also: str = "") -> None:
    """The file of FAKE_NVML, in the place of another at once and as a whole; also is of lines."""
    lines = [f"driver {driver}", *filter(None, [also])]
    lines += ["gpu " + "|".join(f"{k}={v}" for k, v in told.items()) for told in gpus]
    draft = path.with_suffix(".draft")
    draft.write_text("\n".join(lines) + "\n")
    draft.replace(path)


class Machine:
    """State file and reader process. Enter it to start the reader; leaving it closes the reader properly."""

    def __init__(
        self,
        library: Path,
        folder: Path,
        selection: str = "all",
        known: Sequence[Gpu] = (),
        *,
        faults: Kept = Kept(),  # noqa: B008 - frozen
        before: Sequence[Gpu] = (),
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._state = folder / "nvml.state"
        remembered = encode(Remembered(tuple(known), faults, tuple(before)))
        self._settings = {"gpus": selection, "deadline": deadline, "remembered": remembered}
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
        write_state(self._state, gpus, driver=driver, also=also)

    def read(self, now: float = 0.0) -> dict[str, Any]:
        return self._ask({"now": now})

    def more(self) -> dict[str, Any]:
        return self._ask({"more": True})

    def pardon(self, uuid: str, number: int) -> None:
        self._ask({"pardon": [uuid, number]})

    def remembered(self) -> Remembered:
        return decode(Remembered, self._ask({"remembered": True}))

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
            assert json.loads(said)["children"] == [], "the reader left the process that asks the driver behind"

    def _ask(self, order: dict[str, object]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer
