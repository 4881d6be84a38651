"""A controller whose disk fills up or breaks: faults injected by strace, and a real small disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, alive, until
from tests.e2e.conftest import MakeCluster
from tests.e2e.wire import Wire


@cache
def why_no_strace() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    target = subprocess.Popen(["sleep", "60"])
    try:
        command = ["strace", "-p", str(target.pid), "-e", "inject=fdatasync:error=EIO:when=9999+"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            tracer.terminate()
            tracer.communicate(timeout=10)
    finally:
        target.kill()
        target.wait()
    return "" if "attached" in said else f"strace may not attach here: {said.strip()}"


@contextmanager
def fault(pid: int, injection: str) -> Iterator[None]:
    """Within it, system calls of this process fail as strace's `inject=` says."""
    calls = injection.partition(":")[0]
    command = ["strace", "-f", "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={injection}", "-o", "/dev/null"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        assert "attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)


@pytest.fixture
def fresh(make_cluster: MakeCluster) -> Cluster:
    if reason := why_no_strace():
        pytest.skip(reason)
    made = make_cluster()
    made.up()
    return made


def test_a_full_disk_refuses_work_and_harms_nothing(fresh: Cluster) -> None:
    gate = fresh.folder / "gate"
    running = fresh.sh(f"echo begun; until [ -e {gate} ]; do sleep 0.05; done; echo over; exit 3", "-G", "1")
    fresh.says(running, b"begun\n")
    waiting = [fresh.submit("-G", "8", "true") for _ in range(3)]
    controller = fresh.pid("controller")
    with fault(controller, "pwrite64:error=ENOSPC"):
        refused = [fresh.start("submit", "true"), fresh.start("cancel", running)]
        for done in [fresh.end(process, 60) for process in refused]:
            assert done.status == 1
            assert "disk" in done.line
        assert fresh.call("GET", "/jobs").status == 200
        assert fresh.pid("controller") == controller
    after = until(lambda: try_submit(fresh), "submits to work again")
    gate.touch()
    job = fresh.ended(running)
    assert (job["exit_code"], job["attempt"], fresh.log(running)) == (3, 1, b"begun\nover\n")
    assert [fresh.ended(id)["state"] for id in [*waiting, after]] == ["SUCCEEDED"] * 4
    assert fresh.pid("controller") == controller
    assert len(fresh.json("history")["items"]) == 5


def try_submit(cluster: Cluster) -> str:
    answer = cluster.call("POST", "/jobs", {"command": ["true"], "cwd": "/"})
    return str(answer.json()["id"]) if answer.status == 201 else ""


@pytest.mark.parametrize("injection", ["fdatasync:error=EIO", "pwrite64:error=EIO"])
def test_a_broken_disk_ends_the_controller_and_up_recovers(fresh: Cluster, injection: str) -> None:
    gate = fresh.folder / "gate"
    running = fresh.sh(f"echo begun; until [ -e {gate} ]; do sleep 0.05; done; echo over; exit 3", "-G", "1")
    fresh.says(running, b"begun\n")
    waiting = [fresh.submit("-G", "8", "true") for _ in range(3)]
    controller = fresh.pid("controller")
    with fault(controller, injection):
        submitting = fresh.start("submit", "-G", "8", "-J", "uncertain", "true")
        until(lambda: not alive(controller), "the controller to end")
    fresh.up()
    done = fresh.end(submitting)
    assert done.status in (0, 1), done
    gate.touch()
    job = fresh.ended(running)
    assert (job["exit_code"], job["attempt"], fresh.log(running)) == (3, 1, b"begun\nover\n")
    assert [fresh.ended(id)["state"] for id in waiting] == ["SUCCEEDED"] * 3
    until(lambda: not fresh.json("queue")["items"], "all to end")
    uncertain = [job for job in fresh.json("history")["items"] if job["name"] == "uncertain"]
    assert len(uncertain) == 1 if done.status == 0 else len(uncertain) <= 1


def test_on_a_slow_disk_no_job_is_ever_unknown(fresh: Cluster) -> None:
    """Each commit takes 60 ms, so that a job's changes are often under way to the disk one behind the other."""
    with fault(fresh.pid("controller"), "fdatasync:delay_enter=60000"):
        for _ in range(15):
            done = fresh.gpuq("run", "-G", "1", "sh", "-c", "echo hi; exit 3")
            assert (done.status, done.out) == (3, b"hi\n"), done
        ids = [fresh.submit("-G", "1", "true") for _ in range(10)]
        waiting = [fresh.start("wait", id) for id in ids]
        after = [fresh.submit("-d", f"afterok:{id}", "true") for id in ids]
        assert [fresh.end(process).status for process in waiting] == [0] * 10
        assert [fresh.ended(id)["state"] for id in after] == ["SUCCEEDED"] * 10
    for job in fresh.json("history")["items"]:
        assert job["attempt"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many bytes; unmounted afterwards."""
    mounted: list[Path] = []

    def make(size: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
        mounted.append(place)
        return place

    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    yield make
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_refuses_work_until_there_is_room(
    make_cluster: MakeCluster, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(24 << 20)
    fresh = make_cluster()
    try:
        fresh.up("--home", str(disk / "host"))
        gate = fresh.folder / "gate"
        running = fresh.sh(f"echo begun; until [ -e {gate} ]; do sleep 0.05; done; echo over; exit 3", "-G", "1")
        until(lambda: fresh.log(running) == b"begun\n", "the job to begin")
        kept = [fresh.submit("-H", "true") for _ in range(3)]
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 65536)
        wire = Wire(disk / "host" / "controller")
        try:
            for _ in range(40):  # what is preallocated takes some
                body = {"command": ["true", "y" * 100_000], "cwd": "/", "hold": True}
                answer = wire.call("POST", "/jobs", body)
                if answer.status != 201:
                    break
                kept.append(answer.json()["id"])
            assert (answer.status, "disk is full" in answer.error) == (503, True)
            assert wire.call("GET", "/jobs").status == 200
        finally:
            wire.close()
        ballast.unlink()
        done = until(lambda: (it := fresh.gpuq("submit", "--parsable", "-H", "true")).status == 0 and it, "room again")
        assert done
        kept.append(done.out.decode().strip())
        assert [job["id"] for job in fresh.json("queue")["items"] if job["state"] == "QUEUED"] == kept
        gate.touch()
        assert fresh.gpuq("wait", running).status == 3
        assert fresh.log(running) == b"begun\nover\n"
    finally:
        fresh.remove()
