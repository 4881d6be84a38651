"""One machine's cluster from the outside: real daemons, started and ended as a user does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.gpuq_process import environment, gpuq

UP = ("up", "--simulate-gpus", "2xH100-80GB", "--detach")


def status(home: Path) -> dict[str, Any]:
    done = gpuq(home, "status", "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(home: Path) -> tuple[int, int]:
    found = status(home)
    return found["controller"]["pid"], found["agents"][0]["pid"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    done = gpuq(tmp_path, "down", "--stop-jobs")
    if "the controller is not running" in done.stderr:
        done = gpuq(tmp_path, "down")
    assert done.returncode == 0, done.stderr


def test_up_brings_a_node_up_and_says_what_to_do_next(home: Path) -> None:
    done = gpuq(home, *UP)
    assert (done.returncode, done.stderr) == (0, "")
    found = status(home)
    assert set(found) == {"controller", "agents"}
    assert set(found["controller"]) == {"url", "pid", "version"}
    assert found["controller"]["url"] in done.stdout
    assert "2 x " in done.stdout
    assert "(simulated)" in done.stdout
    assert done.stdout.count("\n  gpuq ") == 3
    assert all(map(alive, pids(home)))
    shown = gpuq(home, "status").stdout
    assert "gpus        0 of 2 busy, 2 of them simulated" in shown
    assert "nodes       1 up" in shown
    token = next(home.glob("hosts/*/agent/node.token"))
    assert token.stat().st_mode & 0o777 == 0o600
    secret = token.read_text()
    for pid in pids(home):
        for name in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_up_is_not_undone_by_a_reader_who_left(home: Path) -> None:
    script = f'{sys.executable} -m gpuq {" ".join(UP)} | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env=environment(home), timeout=100
    )
    assert (done.stdout, done.stderr) == ("starting the controller\n141\n", "")
    assert all(map(alive, pids(home)))


def test_a_second_up_finds_everything_running_and_a_third_what_died(home: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    before, url = pids(home), status(home)["controller"]["url"]
    again = gpuq(home, "up")  # in the foreground, but there is nothing to stay for
    assert again.returncode == 0
    assert again.stdout.count("already running") == 2
    assert pids(home) == before
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: not alive(before[0]))
    assert status(home)["controller"] is None
    assert gpuq(home, "up", "--detach").returncode == 0
    after = pids(home)
    assert (after[0] != before[0], after[1]) == (True, before[1])
    assert status(home)["controller"]["url"] == url


def test_concurrent_ups_start_one_cluster(home: Path) -> None:
    command = [sys.executable, "-m", "gpuq", *UP]
    started = [
        subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=100) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], outputs
    assert sum("starting the controller" in out for out, _ in outputs) == 1
    assert sum("starting the agent" in out for out, _ in outputs) == 1


def test_a_job_runs_and_outlives_both_daemons(home: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    assert gpuq(home, *UP).returncode == 0
    job = gpuq(home, "submit", "--parsable", "-G", "1", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; exit 7")
    assert job.returncode == 0, job.stderr
    id = job.stdout.strip()
    wait_until(lambda: json.loads(gpuq(home, "show", id, "--json").stdout)["state"] == "RUNNING")

    refused = gpuq(home, "down")
    assert refused.returncode == 1
    assert id in refused.stdout
    assert "--keep-jobs" in refused.stderr
    assert "--stop-jobs" in refused.stderr
    before = pids(home)
    assert all(map(alive, before))

    assert gpuq(home, "down", "--keep-jobs").returncode == 0
    assert not any(map(alive, before))
    assert status(home) == {"controller": None, "agents": []}
    assert gpuq(home, *UP).returncode == 0
    assert json.loads(gpuq(home, "show", id, "--json").stdout)["state"] == "RUNNING"
    gate.touch()
    assert gpuq(home, "wait", id).returncode == 7


def test_down_stops_jobs_only_when_told_to(home: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    for gpus in ("1", "2"):  # the second has to wait
        assert gpuq(home, "submit", "-G", gpus, "sleep", "1000").returncode == 0
    wait_until(lambda: "RUNNING" in gpuq(home, "queue").stdout)
    done = gpuq(home, "down", "--stop-jobs")
    assert done.returncode == 0, done.stderr
    assert "2 jobs canceled" in done.stdout
    assert gpuq(home, *UP).returncode == 0
    assert json.loads(gpuq(home, "queue", "--json").stdout)["items"] == []


def test_down_leaves_waiting_jobs_in_the_queue(home: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    assert gpuq(home, "submit", "-H", "true").returncode == 0
    done = gpuq(home, "down")
    assert done.returncode == 0
    assert "1 queued stays in the queue" in done.stdout
    assert "not running here" in gpuq(home, "down").stdout


@pytest.mark.parametrize(("number", "stays"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_the_foreground_ends_both_unless_its_terminal_went_away(
    home: Path, number: signal.Signals, stays: bool
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuq", "up", "--simulate-gpus", "1xH100-80GB"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "Ctrl-C" not in process.stdout.readline():
        assert process.poll() is None
    daemons = pids(home)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert list(map(alive, daemons)) == [stays, stays]
    assert stays or "jobs keep running" in out


def test_daemons_of_another_version_are_replaced_and_jobs_are_not(home: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    id = gpuq(home, "submit", "--parsable", "sleep", "1000").stdout.strip()
    wait_until(lambda: json.loads(gpuq(home, "show", id, "--json").stdout)["state"] == "RUNNING")
    before = pids(home)
    for description in home.glob("hosts/*/*/daemon.json"):
        description.write_text(json.dumps({**json.loads(description.read_text()), "build": "older"}))
    done = gpuq(home, *UP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("replacing the ") == 2
    assert not set(before) & set(pids(home))
    assert json.loads(gpuq(home, "show", id, "--json").stdout)["state"] == "RUNNING"


def test_an_agent_is_replaced_by_one_that_offers_the_same(home: Path) -> None:
    assert gpuq(home, *UP, "--shared-account").returncode == 0
    description = next(home.glob("hosts/*/agent/daemon.json"))
    description.write_text(json.dumps({**json.loads(description.read_text()), "build": "older"}))
    done = gpuq(home, "up", "--detach")
    assert "replacing the agent" in done.stdout
    assert "2 x " in done.stdout
    assert "trust       --shared-account" in done.stdout


def test_real_gpus_after_simulated_ones_are_not_a_silent_change(home: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    assert gpuq(home, "down").returncode == 0
    done = gpuq(home, "up", "--detach")
    said = [line for line in done.stdout.splitlines() if "last time" in line]
    assert len(said) == 1
    assert "gpuq up --simulate-gpus 2xH100-80GB" in said[0]
    if "already offers this machine's GPUs" in done.stderr:
        pytest.skip("another agent has this machine's GPUs, real or none")
    assert gpuq(home, "down").returncode == 0
    assert "last time" not in gpuq(home, "up", "--detach").stdout


def test_an_agent_that_runs_does_not_change_whose_jobs_it_runs(home: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    done = gpuq(home, *UP, "--shared-account")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "without --shared-account" in done.stderr


def test_a_home_that_cannot_be_used_is_one_line_and_not_remembered(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for verb in (UP, ("down",)):
        done = gpuq(home, *verb, "--home", str(tmp_path / "file" / "home"))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "Not a directory" in done.stderr
        assert "--home DIR" in done.stderr
    assert gpuq(home, *UP).returncode == 0
    assert status(home)["controller"] is not None


def test_an_interrupted_up_leaves_nothing_and_changes_no_home(home: Path, tmp_path: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuq", *UP, "--home", str(tmp_path / "other")],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "starting the controller\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "interrupted" in out
    assert status(home)["controller"] is not None


def test_a_controller_that_cannot_start_says_why_and_leaves_nothing(home: Path) -> None:
    done = gpuq(home, "up", "--listen", "not-an-address", "--detach")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the controller ended as it started: 'not-an-address' is not an address" in done.stderr
    assert status(home) == {"controller": None, "agents": []}
    assert gpuq(home, *UP).returncode == 0  # and is not remembered as the address to use


def test_pretend_gpus_that_cannot_be_read_are_wrong_usage_before_anything_starts(home: Path) -> None:
    done = gpuq(home, "up", "--simulate-gpus", "many")
    assert done.returncode == 2
    assert "8xH100-80GB" in done.stderr
    assert status(home) == {"controller": None, "agents": []}


def test_another_home_is_remembered_by_the_commands_that_follow(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert gpuq(home, *UP, "--home", str(elsewhere)).returncode == 0
    assert (elsewhere / "controller" / "controller.json").exists()
    assert gpuq(home, "queue").returncode == 0
    assert status(home)["controller"] is not None


def test_a_machine_without_gpus_comes_up_all_the_same(home: Path) -> None:
    done = gpuq(home, "up", "--detach")
    if "already offers this machine's GPUs" in done.stderr:
        pytest.skip("another agent has this machine's GPUs, real or none")
    assert (done.returncode, done.stderr) == (0, "")
    node = json.loads(gpuq(home, "nodes", "--json").stdout)["items"][0]
    if node["gpus"]:
        pytest.skip("this machine has GPUs")
    assert "no GPUs" in done.stdout


def test_an_agent_enrols_itself_with_an_administrators_token(home: Path, tmp_path: Path) -> None:
    assert gpuq(home, *UP).returncode == 0
    url = status(home)["controller"]["url"]
    token = next(home.glob("hosts/*/controller/admin.token")).read_text()
    second = tmp_path / "second"
    arguments = ("agent", "--controller", url, "--token", "-", "--name", "two", "--simulate-gpus", "1xH100-80GB")
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuq", *arguments, "--home", str(second)],
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(token)
        states = lambda: {n["name"]: n["state"] for n in json.loads(gpuq(home, "nodes", "--json").stdout)["items"]}  # noqa: E731
        wait_until(lambda: states().get("two") == "up")
        assert (second / "agent" / "node.token").read_text().startswith("gpuq_node_")
    finally:
        process.terminate()
        assert process.wait(30) == 0
