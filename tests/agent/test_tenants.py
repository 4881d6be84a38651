"""Whose a process is, of real processes: a stand-in for a supervisor, what it starts, and a stranger."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.process_tree import start_time
from agent.tenants import Tenants, described
from gpuq.gpu_use import GpuProcess

SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]
# A grandchild that has left the session and the environment of its run, and says its pid.
HIDING = (
    "import os, sys\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        os.execve(sys.executable, [sys.executable, '-c', 'import os, sys; print(os.getpid(), flush=True); "
    "sys.stdin.read()'], {})\n"
    "    os.wait()\n"
    "    os._exit(0)\n"
    "os.wait()\n"
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # all that hold it end
        process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()


def start(
    started: list[subprocess.Popen[str]], command: list[str], environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    started.append(process)
    return process


def run_of(runs: Path, uid: str, supervisor: int) -> Path:
    folder = runs / f"{uid}.0"
    folder.mkdir()
    (folder / "supervisor").symlink_to(f"boot:{supervisor}:{start_time(supervisor)}")
    return folder


def test_a_process_is_of_the_run_whose_supervisor_is_above_it_however_it_hides(
    runs: Path, started: list[subprocess.Popen[str]]
) -> None:
    supervisor = start(started, [sys.executable, "-c", HIDING])
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    run_of(runs, "u1", supervisor.pid)
    assert Tenants(runs).owner(pid) == "u1"
    assert Tenants(runs).owner(supervisor.pid) == "u1"


def test_a_run_that_has_ended_has_no_processes_though_its_supervisor_serves_another(
    runs: Path, started: list[subprocess.Popen[str]]
) -> None:
    supervisor = start(started, SLEEP)
    (run_of(runs, "old", supervisor.pid) / "exit.json").write_text("{}")
    run_of(runs, "new", supervisor.pid)
    assert Tenants(runs).owner(supervisor.pid) == "new"


def test_what_is_left_of_a_run_without_supervisor_is_known_by_its_environment(
    runs: Path, started: list[subprocess.Popen[str]]
) -> None:
    process = start(started, SLEEP, {"GPUQ_ATTEMPT": "u7"})
    (runs / "u7.0").mkdir()
    until = time.monotonic() + 20
    while (owner := Tenants(runs).owner(process.pid)) is None and time.monotonic() < until:
        time.sleep(0.01)  # it has not executed its program yet
    assert owner == "u7"


def test_nobody_is_of_a_run_that_is_not_here_whatever_he_says(runs: Path, started: list[subprocess.Popen[str]]) -> None:
    says = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    process = start(started, says, {"GPUQ_ATTEMPT": "u7"})
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    (runs / "u8.0").mkdir()
    assert Tenants(runs).owner(process.pid) is None


def test_what_is_left_of_a_run_without_supervisor_is_known_by_its_session(
    runs: Path, started: list[subprocess.Popen[str]]
) -> None:
    leader = start(started, SLEEP)
    gone = subprocess.Popen(["/bin/true"])
    since = start_time(gone.pid) or 1
    gone.wait()
    folder = runs / "u2.0"
    folder.mkdir()
    (folder / "supervisor").symlink_to(f"boot:{gone.pid}:{since}")
    (folder / "traces").write_text(f"1:1:0:{leader.pid}:{start_time(leader.pid)}\n")
    assert Tenants(runs).owner(leader.pid) == "u2"


def test_a_stranger_is_nobodys_and_is_told_with_user_and_name(runs: Path, started: list[subprocess.Popen[str]]) -> None:
    process = start(started, SLEEP)
    assert Tenants(runs).owner(process.pid) is None
    shown = described(GpuProcess(process.pid, 7))
    assert shown is not None
    assert (shown.user, shown.memory_used_bytes) == (getpass.getuser(), 7)
    assert (shown.command or "").startswith("python")


def test_a_process_that_has_ended_is_not_told_of() -> None:
    process = subprocess.Popen(["/bin/true"])
    pid = process.pid
    process.wait()
    assert described(GpuProcess(pid)) is None
