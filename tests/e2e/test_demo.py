"""python3 build.py demo, on simulated GPUs where there are no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.agent.fake_nvml.machine import Machine, build_library, gpu

ROOT = Path(__file__).resolve().parents[2]


def start(program: Path, cache: Path, temporary: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "packaging" / "demo.py"), str(program)],
        env={**os.environ, "GPUQ_CACHE": str(cache), "TMPDIR": str(temporary), **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_demo_finds_everything_as_it_should_be(program: Path, cache: Path, tmp_path: Path) -> None:
    with start(program, cache, tmp_path) as demo:
        output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    assert "everything is as it should be" in output
    assert "WRONG" not in output
    assert not list(tmp_path.iterdir())


def test_the_demo_takes_a_machines_own_gpu(program: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "nvml").mkdir()
    (tmp_path / "demo").mkdir()
    library = build_library(tmp_path / "nvml")
    Machine(library, library).has([gpu(0)])
    nvml = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(library / "nvml.state")}
    with start(program, cache, tmp_path / "demo", **nvml) as demo:
        output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    # An agent beside this test may have claimed the machine's GPUs: then the demo says so and simulates.
    assert "real GPUs: 1 x NVIDIA H100 80GB HBM3" in output or "already offers this machine's GPUs" in output


def test_an_interrupted_demo_leaves_nothing_running(program: Path, cache: Path, tmp_path: Path) -> None:
    with start(program, cache, tmp_path) as demo:
        assert demo.stdout is not None
        root = next(line for line in demo.stdout if str(tmp_path) in line)
        for line in demo.stdout:
            if "job.running" in line:
                break
        os.killpg(demo.pid, signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert not list(tmp_path.iterdir())
    assert not _processes_of(str(tmp_path)), root


def _processes_of(home: str) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(v.startswith(f"GPUQ_HOME={home}".encode()) for v in variables):
                found.append(int(path.name))
    return found
