"""The job verbs against a real controller and agent on this machine, with pretend GPUs."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Gpuq = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("cluster") / "home"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GPUQ_")}
    environ |= {"GPUQ_HOME": str(home), "PYTHONPATH": str(ROOT), "MY_SETTING": "of this shell"}
    command = [sys.executable, "-m", "gpuq"]
    up = [*command, "up", "--detach", "--simulate-gpus", "4xH100-80GB"]
    started = subprocess.run(up, env=environ, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    yield environ
    stopped = subprocess.run(
        [*command, "down", "--stop-jobs"], env=environ, capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 0, stopped.stderr


@pytest.fixture
def gpuq(variables: dict[str, str], tmp_path: Path) -> Gpuq:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpuq", *arguments]
        return subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    return call


def submitted(result: subprocess.CompletedProcess[str]) -> str:
    assert result.stdout.startswith("Submitted job "), result.stderr
    return result.stdout.split()[-1]


def test_run_gives_output_exit_code_and_gpus(gpuq: Gpuq) -> None:
    done = gpuq("run", "-G", "2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; printf end; exit 7")
    assert done.returncode == 7
    assert done.stdout.splitlines()[0].count(",") == 1
    assert done.stdout.endswith("\nend")
    assert gpuq("run", "sh", "-c", "kill -9 $$").returncode == 137
    assert gpuq("run", "-N", "2", "-G", "3", "true").returncode in (2, 125)


def test_job_runs_in_this_folder_with_this_shells_variables(gpuq: Gpuq, tmp_path: Path) -> None:
    done = gpuq("run", "--env", "A=1", "sh", "-c", "pwd; echo $MY_SETTING $A")
    assert done.stdout == f"{tmp_path}\nof this shell 1\n"
    assert gpuq("run", "--export", "NONE", "sh", "-c", "echo [$MY_SETTING]").stdout == "[]\n"


def test_slurm_script_runs_with_its_options(gpuq: Gpuq, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH -J slurmy --gres=gpu:1 --mail-type=END\necho $1\n")
    result = gpuq("submit", "-W", "job.sh", "hello")
    assert (result.returncode, "--mail-type=END is ignored" in result.stderr) == (0, True)
    id = submitted(result)
    assert gpuq("logs", id).stdout == "hello\n"
    shown = json.loads(gpuq("show", "--json", id).stdout)
    assert (shown["name"], shown["gpus"], shown["state"]) == ("slurmy", 1, "SUCCEEDED")
    assert gpuq("show", "--script", id).stdout == (tmp_path / "job.sh").read_text()


def test_job_that_waits_says_why_and_can_be_held_changed_and_canceled(gpuq: Gpuq) -> None:
    holder = submitted(gpuq("submit", "-G", "4", "sleep", "300"))
    waiting = submitted(gpuq("submit", "-G", "1", "--name", "second", "true"))
    assert "waits" in gpuq("why", waiting).stdout
    assert "second" in gpuq("queue", "--me").stdout
    assert gpuq("hold", waiting).returncode == 0
    assert json.loads(gpuq("queue", "-j", waiting, "--json").stdout)["items"][0]["reason"]["code"] == "held"
    assert gpuq("update", waiting, "--comment", "x", "--priority", "-1").returncode == 0
    assert gpuq("release", waiting).returncode == 0
    canceled = gpuq("cancel", holder, waiting, "999999")
    assert (canceled.returncode, len(canceled.stdout.splitlines())) == (3, 2)
    assert gpuq("wait", holder).returncode == 1
    assert gpuq("cancel", waiting).returncode == 0  # already
    assert waiting in gpuq("history").stdout


def test_array_depends_and_is_waited_for_as_one(gpuq: Gpuq) -> None:
    array = submitted(gpuq("submit", "-a", "0-3%2", "sh", "-c", "exit $GPUQ_ARRAY_TASK_ID"))
    after = submitted(gpuq("submit", "-d", "afternotok:@", "true"))
    assert gpuq("wait", array).returncode == 1
    assert gpuq("wait", after).returncode == 0
    assert gpuq("wait", f"{array}_3").returncode == 3
    items = json.loads(gpuq("queue", "-j", array, "--expand", "--json").stdout)["items"]
    assert [item["id"] for item in items] == [f"{array}_{i}" for i in range(4)]


def test_ctrl_c_ends_the_job(variables: dict[str, str], gpuq: Gpuq) -> None:
    command = [sys.executable, "-m", "gpuq", "run", "sh", "-c", "echo up; exec sleep 300"]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    id = err.split()[3]
    assert json.loads(gpuq("show", id, "--json").stdout)["state"] == "CANCELED"


def test_terminal_is_protected_from_a_jobs_output_and_lists_fit_it(variables: dict[str, str], gpuq: Gpuq) -> None:
    name = "n" * 100
    id = submitted(gpuq("submit", "-W", "--name", name, "printf", "\\033[31mred\\n"))
    environ = {**variables, "COLUMNS": "60"}
    assert _in_terminal(environ, "logs", id) == "\\x1b[31mred\r\n"
    assert "\x1b[31mred" in _in_terminal(environ, "logs", "--raw", id)
    listed = _in_terminal(environ, "queue", "-j", id)
    assert max(map(len, listed.splitlines())) <= 60
    assert name in gpuq("queue", "-j", id).stdout
    for at_watch in ({"LINES": "24"}, {}):  # `watch` sets both, and reads from a pipe
        piped = subprocess.run(
            [sys.executable, "-m", "gpuq", "queue", "-j", id], env=environ | at_watch, capture_output=True, text=True
        )
        assert (max(map(len, piped.stdout.splitlines())) <= 60) == bool(at_watch)


def test_on_a_terminal_todays_date_is_left_out(variables: dict[str, str], gpuq: Gpuq) -> None:
    today = time.strftime("%Y-%m-%d")
    submitted(gpuq("submit", "-W", "true"))
    if time.strftime("%Y-%m-%d") != today:
        pytest.skip("midnight came between")
    for command in ("nodes", "history"):
        assert today in gpuq(command).stdout
        assert today not in _in_terminal({**variables, "COLUMNS": "200"}, command)


def _in_terminal(variables: dict[str, str], *arguments: str) -> str:
    """What the command writes to a terminal of its own."""
    ours, its = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "gpuq", *arguments], env=variables, stdout=its, stderr=its) as process:
        os.close(its)
        data = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            data += piece
    os.close(ours)
    assert process.returncode == 0
    return data.decode()


def test_nodes_and_events_are_shown(gpuq: Gpuq) -> None:
    (node,) = json.loads(gpuq("nodes", "--json").stdout)["items"]
    assert (node["state"], node["simulated"], len(node["gpus"])) == ("up", True, 4)
    assert "cordoned" in [gpuq("cordon", node["name"]), gpuq("nodes")][1].stdout
    assert gpuq("uncordon", node["name"]).returncode == 0
    assert len(gpuq("gpus").stdout.splitlines()) == 5
    assert "job.submitted" in gpuq("events", "--kind", "job.submitted").stdout
