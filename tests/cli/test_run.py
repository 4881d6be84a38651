from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Gpuq
from tests.cli.fake_api import Call, FakeApi, Raw, ended, error, job


class Played:
    """A job that goes through given moments, one each time it is looked at, and stays in the last."""

    def __init__(self, api: FakeApi, *moments: dict[str, Any]) -> None:
        self.moments = list(moments)
        self.logs: dict[int, bytes] = {}
        api.on("POST", "/jobs", (201, {"id": "1042", "elements": None}))
        api.on("GET", "/jobs/1042", self._look)
        api.on("GET", "/jobs/1042/log", self._log)

    def _look(self, _: Call) -> dict[str, Any]:
        return self.moments.pop(0) if len(self.moments) > 1 else self.moments[0]

    def _log(self, call: Call) -> Raw:
        number = int(call.params["attempt"][0])
        offset = int(call.params["offset"][0])
        log = self.logs[number]
        headers = {
            "gpuq-log-offset": str(offset),
            "gpuq-log-size": str(len(log)),
            "gpuq-log-end": str(len(log)),
            "gpuq-log-attempt": str(number),
            "gpuq-job-state": self.moments[0]["state"],
        }
        return Raw(log[offset : offset + 5], headers)


def running(attempt: int = 1) -> dict[str, Any]:
    return job(state="RUNNING", attempt=attempt, nodes=[{"node": "n1", "gpus": [0]}])


def waiting(text: str) -> dict[str, Any]:
    return job(reason={"code": "resources", "text": text})


def backoff(seconds: int) -> dict[str, Any]:
    return job(attempt=1, reason={"code": "backoff", "text": f"tries again in {seconds} s"})


def test_output_goes_to_stdout_byte_by_byte_and_news_to_stderr(api: FakeApi, gpuq: Gpuq) -> None:
    moments = [waiting("waits for 2 more"), waiting("waits for 2 more"), waiting("waits for 1 more"), running()]
    played = Played(api, *moments, ended("SUCCEEDED", exit_code=0))
    played.logs[1] = b"\x1b[31mline\r\n\xff\xfe\0 no newline"
    result = gpuq("run", "-G1", "python", "x.py")
    assert result.status == 0
    assert result.out.encode("utf-8", "surrogateescape") == played.logs[1]
    assert result.err.splitlines() == [
        "gpuq: submitted job 1042",
        "gpuq: job 1042 is QUEUED: waits for 2 more",
        "gpuq: job 1042 is QUEUED: waits for 1 more",
    ]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (ended("FAILED", exit_code=3), 3),
        (ended("FAILED", signal=11), 139),
        (ended("FAILED", signal=15, cause={"code": "time_limit", "text": "reached its time limit"}), 143),
        (ended("CANCELED", cause={"code": "canceled", "text": "by bob"}), 1),
        (ended("FAILED", attempt=0, cause={"code": "scheduling_timeout", "text": "did not start in 5 s"}), 1),
    ],
)
def test_run_exits_as_the_job_did(api: FakeApi, gpuq: Gpuq, end: dict[str, Any], status: int) -> None:
    played = Played(api, end)
    played.logs[1] = b""
    result = gpuq("run", "x")
    assert result.status == status
    assert f"job 1042 {end['state']}" in result.err


def test_retry_is_said_and_its_log_follows(api: FakeApi, gpuq: Gpuq) -> None:
    played = Played(api, running(), backoff(5), backoff(2), running(2), ended("SUCCEEDED", attempt=2))
    played.logs = {1: b"first\n", 2: b"second\n"}
    result = gpuq("run", "--max-retries", "1", "x")
    assert (result.status, result.out) == (0, "first\nsecond\n")
    assert result.err.splitlines()[1:] == [
        "gpuq: job 1042 is QUEUED: tries again in 5 s",
        "gpuq: attempt 2 of job 1042 begins",
    ]


def test_trouble_of_gpuqs_own_is_125_and_wrong_usage_2(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs", (403, error("not_authorised", "viewers may not submit")))
    assert gpuq("run", "x").status == 125
    assert gpuq("run", "--no-such", "x").status == 2
    assert gpuq("run", "--array", "0-9", "x").status == 2


@pytest.fixture
def process(api: FakeApi) -> Iterator[subprocess.Popen[bytes]]:
    """`gpuq run` as a process that has submitted its job and follows it."""
    Played(api, running()).logs[1] = b""
    held = threading.Event()

    def silent(_: Call) -> Raw:
        held.wait(30)  # a long poll that brings nothing
        headers = {"gpuq-log-offset": "0", "gpuq-log-size": "0", "gpuq-log-attempt": "1", "gpuq-job-state": "RUNNING"}
        return Raw(b"", headers)

    api.on("GET", "/jobs/1042/log", silent)
    api.on("POST", "/jobs/cancel", {"items": [{"id": "1042", "outcome": "done", "text": "job 1042 is being canceled"}]})
    root = str(Path(__file__).resolve().parents[2])
    child = subprocess.Popen(
        [sys.executable, "-m", "gpuq", "run", "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    _until(lambda: api.sent("GET", "/jobs/1042/log"))
    yield child
    held.set()
    child.kill()
    child.communicate()


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_cancels_and_waits_for_the_end(api: FakeApi, process: subprocess.Popen[bytes]) -> None:
    def canceled(_: Call) -> dict[str, Any]:
        played = Played(api, ended("CANCELED", cause={"code": "canceled", "text": "by ann"}))
        played.logs[1] = b"last words\n"
        return {"items": [{"id": "1042", "outcome": "done", "text": ""}]}

    api.on("POST", "/jobs/cancel", canceled)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"last words\n")
    assert b"canceling job 1042" in err
    assert b"CANCELED: by ann" in err
    assert api.sent("POST", "/jobs/cancel")[0].body == {"ids": ["1042"]}


def test_second_ctrl_c_leaves_at_once(api: FakeApi, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    _until(lambda: api.sent("POST", "/jobs/cancel") and len(api.sent("GET", "/jobs/1042/log")) > 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"job 1042 is being canceled" in err


def test_hang_up_leaves_the_job_alone(api: FakeApi, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=20)
    assert not api.sent("POST", "/jobs/cancel")
