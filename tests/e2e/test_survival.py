"""Jobs outlive whatever becomes of the daemons and of gpuq's own files."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.e2e.cluster import Cluster, alive, until
from tests.e2e.conftest import MakeCluster

LINES = 80
COUNT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.05; done; printf end; exit 7"
WHOLE = "".join(f"line {i}\n" for i in range(LINES)).encode() + b"end"


@pytest.fixture(scope="module")
def own(make_cluster: MakeCluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster whose unpacked copy of the program no other shares."""
    made = make_cluster(cache=tmp_path_factory.mktemp("own-cache"))
    made.up()
    return made


@pytest.mark.parametrize(
    ("killed", "emptied"),
    [
        (("agent",), False),
        (("controller",), False),
        (("agent", "controller"), False),
        (("agent", "controller"), True),
    ],
    ids=["agent", "controller", "both", "both-and-the-cache-emptied"],
)
def test_a_job_goes_on_when_daemons_are_killed(own: Cluster, killed: tuple[str, ...], emptied: bool) -> None:
    id = own.sh(COUNT, "-G", "1")
    own.says(id, b"line 10\n")
    own.kill(*killed)
    if emptied:
        shutil.rmtree(own.cache / "gpuq")
    own.up()
    job = own.ended(id)
    assert (job["state"], job["exit_code"], job["signal"]) == ("FAILED", 7, None)
    assert job["cause"]["code"] == "exit_code"
    assert (job["attempt"], len(job["attempts"])) == (1, 1)
    assert own.log(id) == WHOLE
    until(lambda: own.job(id)["log_bytes"] == len(WHOLE), "the log's size to be told")


def test_a_job_that_ends_while_both_daemons_are_dead_is_found_ended(own: Cluster) -> None:
    gate, over = own.folder / "gate", own.folder / "over"
    id = own.sh(f"echo before; until [ -e {gate} ]; do sleep 0.02; done; echo after; touch {over}; exit 9", "-G", "1")
    own.says(id, b"before\n")
    own.kill("agent", "controller")
    gate.touch()
    until(over.exists, "the job to end")
    own.up()
    job = own.ended(id)
    assert (job["state"], job["exit_code"], job["attempt"]) == ("FAILED", 9, 1)
    assert own.log(id) == b"before\nafter\n"


def test_daemons_work_on_when_the_cache_is_emptied_under_them(own: Cluster) -> None:
    """Only the API is used: a command would unpack the program again."""
    first = own.sh("sleep 1000")
    own.becomes(first, "RUNNING")
    shutil.rmtree(own.cache / "gpuq")
    reads = ["/docs", "/openapi.json", "/history", "/events", "/nodes", "/cluster", "/jobs", f"/jobs/{first}/why"]
    answers = {path: own.call("GET", path).status for path in reads}
    assert answers == dict.fromkeys(reads, 200)
    assert own.call("GET", "/jobs?limit=x").status == 400
    assert own.call("POST", "/jobs", {"command": 7}).status == 400
    setup = {"setup": ["A=1; export A"], "array": "0-1"}
    made = own.call("POST", "/jobs", {"command": ["sh", "-c", "echo $A"], "gpus": 1, "cwd": "/", **setup})
    assert made.status == 201, made
    id = made.json()["id"]
    assert own.ended(id)["state"] == "SUCCEEDED"
    own.says(f"{id}_1", b"\n1\n")
    retried = own.call("POST", "/jobs", {"command": ["false"], "cwd": "/nowhere"})
    assert own.ended(retried.json()["id"])["cause"]["code"] == "launch_failed"
    assert own.call("POST", "/jobs/cancel", {"ids": [first]}).status == 200
    assert own.ended(first)["state"] == "CANCELED"
    assert not (own.cache / "gpuq").exists()


def test_a_killed_supervisor_takes_its_job_along_and_says_so(own: Cluster) -> None:
    child = own.folder / "child"
    id = own.sh(f"setsid sleep 1000 & echo $! > {child}; echo started; wait", "-G", "8")
    own.says(id, b"started\n")
    uid = own.job(id)["attempts"][0]["uid"]
    (run,) = own.state.glob(f"agent/runs/{uid}*")
    supervisor = (run / "supervisor").readlink().name.split(":")[1]
    os.kill(int(supervisor), signal.SIGKILL)
    job = own.ended(id)
    assert (job["state"], job["exit_code"], job["signal"]) == ("FAILED", None, None)
    assert job["cause"]["code"] == "supervisor_lost"
    assert not alive(int(child.read_text()))
    assert own.ended(own.submit("-G", "8", "true"))["state"] == "SUCCEEDED"
