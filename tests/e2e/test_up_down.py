"""The daemons' life as users command it, in environments that would mislead a program less careful."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, alive, until
from tests.e2e.conftest import MakeCluster


@pytest.fixture(scope="module")
def other(make_cluster: MakeCluster) -> Cluster:
    return make_cluster(gpus="2xH100-80GB")


def test_two_ups_at_once_make_one_cluster(other: Cluster) -> None:
    both = [other.start("up", "--detach", "--simulate-gpus", other.gpus) for _ in range(3)]
    done = [other.end(process, 100) for process in both]
    assert [d.status for d in done] == [0, 0, 0], done
    assert sum(b"starting the controller" in d.out for d in done) == 1
    assert len([line for _, line in other.leftovers() if " controller " in line]) == 1
    assert len([line for _, line in other.leftovers() if " agent " in line]) == 1
    pids = other.pid("controller"), other.pid("agent")
    assert other.up().count("already running") == 2
    assert (other.pid("controller"), other.pid("agent")) == pids


def test_down_refuses_while_jobs_run_and_names_them(other: Cluster) -> None:
    running, waiting = other.sh("sleep 1000", "-J", "precious", "-G", "2"), other.submit("-G", "1", "true")
    other.becomes(running, "RUNNING")
    pids = other.pid("controller"), other.pid("agent")
    done = other.gpuq("down")
    assert done.status == 1
    assert "precious" in done.text
    assert running in done.text
    assert "--keep-jobs" in done.line
    assert "--stop-jobs" in done.line
    assert all(map(alive, pids))
    assert other.gpuq("down", "--keep-jobs", "--stop-jobs").status == 2
    assert other.job(running)["state"] == "RUNNING"
    other.ok("cancel", running)
    assert other.ended(waiting)["state"] == "SUCCEEDED"


def test_jobs_kept_by_down_are_found_by_the_next_up(other: Cluster) -> None:
    gate = other.folder / "kept-gate"
    kept = other.sh(f"echo one; until [ -e {gate} ]; do sleep 0.05; done; echo two; exit 5", "-G", "1")
    ends = other.folder / "ends-gate"
    over = other.folder / "ends-over"
    meanwhile = other.sh(f"until [ -e {ends} ]; do sleep 0.05; done; echo x; touch {over}; exit 6", "-G", "1")
    queued = other.submit("-G", "2", "true")
    for id in (kept, meanwhile):
        other.becomes(id, "RUNNING")
    pids = other.pid("controller"), other.pid("agent")
    other.ok("down", "--keep-jobs")
    other.wire.close()
    assert not any(map(alive, pids))
    assert other.json("status") == {"controller": None, "agents": []}
    ends.touch()
    until(over.exists, "the other job to end")
    assert other.gpuq("queue").status == 5
    other.up()
    assert other.ended(meanwhile)["exit_code"] == 6
    assert other.job(kept)["state"] == "RUNNING"
    assert other.job(queued)["state"] == "QUEUED"
    gate.touch()
    job = other.ended(kept)
    assert (job["exit_code"], job["attempt"]) == (5, 1)
    assert other.log(kept) == b"one\ntwo\n"
    assert other.ended(queued)["state"] == "SUCCEEDED"


def test_a_hostile_python_environment_reaches_jobs_and_not_gpuq(make_cluster: MakeCluster, tmp_path: Path) -> None:
    traps = tmp_path / "traps"
    traps.mkdir()
    for name in ("json", "click", "ssl", "sqlite3", "asyncio", "pydantic", "gpuq", "agent", "sitecustomize", "pathlib"):
        (traps / f"{name}.py").write_text(f"raise SystemExit('trap: {name} was imported')\n")
    hostile = {
        "PYTHONPATH": str(traps),
        "PYTHONHOME": "/nowhere",
        "PYTHONSTARTUP": str(traps / "json.py"),
        "PYTHONWARNINGS": "error",
        "PYTHONINSPECT": "1",
        "LD_LIBRARY_PATH": str(traps),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
    }
    made = make_cluster(gpus="1xH100-80GB", variables=hostile)
    for name in ("json.py", "click.py"):
        (made.folder / name).write_text("raise SystemExit('trap in the folder')\n")
    made.up()
    id = made.submit("-G", "1", "env")
    assert made.gpuq("wait", id).status == 0
    seen = dict(line.split("=", 1) for line in made.log(id).decode().splitlines() if "=" in line)
    assert {name: seen.get(name) for name in hostile} == hostile
    assert "LC_CTYPE" not in seen
    made.kill("controller", "agent")
    made.up()
    assert "trap" not in made.ok("queue") + made.ok("nodes")
    for kind in ("controller", "agent"):
        assert "trap" not in (made.state / kind / "daemon.log").read_text()


def test_down_and_up_in_the_foreground(make_cluster: MakeCluster) -> None:
    made = make_cluster(gpus="1xH100-80GB")
    process = made.start("up", "--simulate-gpus", made.gpus)
    assert process.stdout is not None
    said = b""
    while b"Ctrl-C stops" not in said:
        said += process.stdout.readline()
        assert process.poll() is None
    assert b"(simulated)" in said
    id = made.sh("sleep 1000", "-G", "1")
    made.becomes(id, "RUNNING")
    process.terminate()
    done = made.end(process)
    assert (done.status, done.err) == (0, "")
    made.wire.close()
    made.up()
    assert made.job(id)["state"] == "RUNNING"


def test_the_file_may_be_moved_while_daemons_run(make_cluster: MakeCluster, program: Path, tmp_path: Path) -> None:
    file = tmp_path / "gpuq.pyz"
    shutil.copy2(program, file)
    made = make_cluster(pyz=file, gpus="1xH100-80GB")
    made.up()
    moved = tmp_path / "elsewhere.pyz"
    file.rename(moved)
    made.pyz = moved
    assert made.gpuq("run", "-G", "1", "echo", "hi").out == b"hi\n"
    pids = made.pid("controller"), made.pid("agent")
    made.up()
    assert (made.pid("controller"), made.pid("agent")) == pids
