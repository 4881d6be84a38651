from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Gpuq
from tests.cli.fake_api import FakeApi, ended, error, job


@pytest.fixture(autouse=True)
def _accepts(api: FakeApi) -> None:
    api.on("POST", "/jobs", (201, {"id": "1042", "elements": None}))


def test_submit_prints_exactly_the_id(api: FakeApi, gpuq: Gpuq) -> None:
    assert gpuq("submit", "-G", "2", "python", "x.py") == (0, "Submitted job 1042\n", "")
    assert gpuq("submit", "--parsable", "true") == (0, "1042\n", "")
    result = gpuq("submit", "--json", "true")
    assert json.loads(result.out) == {"id": "1042", "elements": None}
    sent = api.sent("POST", "/jobs")[0].body
    assert (sent["gpus"], sent["command"], sent["cwd"]) == (2, ["python", "x.py"], str(Path.cwd()))


def test_environment_is_sent_from_a_machine_of_the_cluster(
    api: FakeApi, gpuq: Gpuq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SETTING", "1")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    gpuq("submit", "true")
    sent = api.sent("POST", "/jobs")[0].body["environment"]
    assert (sent["MY_SETTING"], sent["PATH"]) == ("1", os.environ["PATH"])
    assert not [name for name in sent if name.startswith(("GPUQ_", "SSH_"))]


def test_from_elsewhere_folder_is_needed_and_environment_is_the_nodes(outside: FakeApi, gpuq: Gpuq) -> None:
    result = gpuq("submit", "true")
    assert (result.status, result.out) == (2, "")
    assert "-D /FOLDER" in result.err
    assert gpuq("submit", "-D", "/data", "true").status == 0
    assert "environment" not in outside.sent("POST", "/jobs")[0].body


def test_script_goes_with_its_text_and_warnings_go_to_stderr(api: FakeApi, gpuq: Gpuq) -> None:
    Path("job.sh").write_text("#!/bin/sh\n#SBATCH --frobnicate=ALL\n#SBATCH --time=5\necho\n")
    result = gpuq("submit", "job.sh", "a")
    assert (result.status, result.out) == (0, "Submitted job 1042\n")
    assert result.err == "gpuq: job.sh line 2: --frobnicate=ALL is ignored: gpuq has no such option\n"
    sent = api.sent("POST", "/jobs")[0].body
    assert (sent["script"], sent["command"]) == (Path("job.sh").read_text(), ["a"])


def test_script_that_needs_srun_is_refused_in_one_line_and_not_sent(api: FakeApi, gpuq: Gpuq) -> None:
    Path("job.sh").write_text("#!/bin/bash\n#SBATCH --ntasks=8\nsrun ./a\n")
    result = gpuq("submit", "job.sh")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "--ntasks 8" in result.err
    assert not api.sent("POST", "/jobs")


def test_newest_job_is_looked_up_among_those_waiting_and_those_ended(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs", {"fields": ["id"], "rows": [["7"], ["9"]], "next": None})
    api.on("GET", "/history", {"items": [ended("FAILED", "3"), ended("SUCCEEDED", "12_4")], "next": None})
    assert gpuq("submit", "-d", "afterok:@:5", "true").status == 0
    assert api.sent("POST", "/jobs")[0].body["dependencies"] == [
        {"kind": "afterok", "job": "12"},
        {"kind": "afterok", "job": "5"},
    ]
    assert api.sent("GET", "/jobs")[0].params["user"] == ["ann"]


def test_newest_job_of_who_has_none_is_not_found(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs", {"fields": ["id"], "rows": [], "next": None})
    api.on("GET", "/history", {"items": [], "next": None})
    result = gpuq("submit", "-d", "afterok:@", "true")
    assert result.status == 3
    assert "ann has none" in result.err


def test_dry_run_says_where_it_would_start_and_with_which_environment(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs", {"starts_now": True, "nodes": [{"node": "n1", "gpus": [0, 3]}], "reason": None})
    result = gpuq("submit", "--dry-run", "--env", "A=secret", "true")
    assert result.out.splitlines()[:2] == ["would start now on n1 (GPU 0,3)", f"folder: {Path.cwd()}"]
    assert "environment: this shell's" in result.out
    assert "secret" not in result.out
    assert api.sent("POST", "/jobs")[0].params == {"dry_run": ["1"]}
    api.on("POST", "/jobs", {"starts_now": False, "nodes": [], "reason": {"code": "resources", "text": "waits for 1"}})
    assert gpuq("submit", "--test-only", "--export", "NONE", "true").out.startswith("would be queued: waits for 1\n")
    said = json.loads(gpuq("submit", "--dry-run", "--json", "--export", "NONE", "true").out)
    assert (said["starts_now"], said["environment"]) == (False, "login")


@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        (ended("SUCCEEDED", exit_code=0), 0, ""),
        (ended("FAILED", exit_code=7, cause={"code": "exit_code", "text": "exit code 7"}), 7, "FAILED: exit code 7"),
        (ended("FAILED", signal=9, cause={"code": "oom", "text": "out of memory"}), 137, "FAILED: out of memory"),
        (ended("FAILED", cause={"code": "node_lost", "text": "node n1 was lost"}), 1, "node n1 was lost"),
        (ended("CANCELED", signal=15, cause={"code": "canceled", "text": "by bob"}), 1, "CANCELED: by bob"),
    ],
)
def test_wait_gives_the_jobs_exit_code(
    api: FakeApi, gpuq: Gpuq, end: dict[str, object], status: int, says: str
) -> None:
    states = iter([job(), job(state="RUNNING", attempt=1), end])
    api.on("GET", "/jobs/1042", lambda _: next(states))
    result = gpuq("submit", "--wait", "true")
    assert (result.status, result.out) == (status, "Submitted job 1042\n")
    assert says in result.err
    assert api.sent("GET", "/jobs/1042")[1].params["seen"] == ["QUEUED"]


def test_trouble_while_waiting_is_not_the_jobs(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1042", (401, error("not_authenticated", "the token was revoked")))
    result = gpuq("submit", "-W", "true")
    assert (result.status, result.out) == (125, "Submitted job 1042\n")
    assert "revoked" in result.err


def test_refusal_is_one_line_with_its_status(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs", (400, error("invalid_request", "jobs on more than one node", "use -N 1")))
    assert gpuq("submit", "-N", "2", "true") == (2, "", "gpuq: jobs on more than one node: use -N 1\n")


def test_unknown_option_is_wrong_usage_with_a_suggestion(gpuq: Gpuq) -> None:
    result = gpuq("submit", "--gpu", "2", "true")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "--gpus" in result.err
