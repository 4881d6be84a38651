from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Gpuq
from tests.cli.fake_api import Call, FakeApi, Raw, ended, error, job

LOG = b"one\n\x1b[31mtwo\xff\nthree"


def _serve(api: FakeApi, log: bytes = LOG, state: str = "SUCCEEDED", piece: int = 7) -> None:
    def answer(call: Call) -> Raw:
        offset = int(call.params.get("offset", ["0"])[0])
        if "tail" in call.params:
            lines = int(call.params["tail"][0])
            offset = len(log) - len(b"\n".join(log.split(b"\n")[-lines:]))
        headers = {
            "gpuq-log-offset": str(offset),
            "gpuq-log-size": str(len(log)),
            "gpuq-log-end": str(len(log)),
            "gpuq-log-attempt": "2",
            "gpuq-job-state": state,
        }
        return Raw(log[offset : offset + piece], headers)

    api.on("GET", "/jobs/1042/log", answer)
    api.on("GET", "/jobs/1042", ended("SUCCEEDED"))


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_bytes_are_passed_on_as_they_are(api: FakeApi, gpuq: Gpuq, follow: list[str]) -> None:
    _serve(api)
    result = gpuq("logs", "1042", *follow)
    assert (result.status, result.err) == (0, "")
    assert result.out.encode("utf-8", "surrogateescape") == LOG


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_tail_begins_at_the_last_lines_and_goes_on_by_offset(api: FakeApi, gpuq: Gpuq, follow: list[str]) -> None:
    _serve(api, b"a\nb\nthe last line")
    assert gpuq("logs", "1042", "--tail", "2", *follow).out == "b\nthe last line"


def test_following_a_job_that_waits_says_why_nothing_comes(api: FakeApi, gpuq: Gpuq) -> None:
    _serve(api)
    api.on("GET", "/jobs/1042", job(reason={"code": "behind", "text": "behind 1041"}))
    result = gpuq("logs", "-f", "1042")
    assert (result.status, result.err) == (0, "gpuq: job 1042 is QUEUED: behind 1041\n")


def test_a_log_that_was_deleted_is_not_said_to_have_been_empty(api: FakeApi, gpuq: Gpuq) -> None:
    headers = {"gpuq-log-size": "0", "gpuq-log-end": "0", "gpuq-log-attempt": "1", "gpuq-job-state": "SUCCEEDED"}
    api.on("GET", "/jobs/1042/log", lambda _call: Raw(b"", {**headers, "gpuq-log-deleted": "1"}))
    result = gpuq("logs", "1042")
    assert (result.status, result.out, result.err) == (0, "", "gpuq: job 1042 is SUCCEEDED and its log was deleted\n")


def test_a_log_whose_middle_was_given_back_goes_on_behind_it(api: FakeApi, gpuq: Gpuq) -> None:
    def answer(call: Call) -> Raw:
        offset = int(call.params.get("offset", ["0"])[0])
        start, data = (0, b"head") if offset < 4 else (1_000_000, b"tail") if offset < 1_000_004 else (1_000_004, b"")
        ends = {"gpuq-log-size": "1000004", "gpuq-log-end": "1000004", "gpuq-log-attempt": "1"}
        return Raw(data, {"gpuq-log-offset": str(start), "gpuq-job-state": "SUCCEEDED", **ends})

    api.on("GET", "/jobs/1042/log", answer)
    api.on("GET", "/jobs/1042", ended("SUCCEEDED"))
    assert [gpuq("logs", "1042", *options).out for options in ([], ["-f"])] == ["headtail"] * 2


def test_rank_and_attempt_are_passed_on(api: FakeApi, gpuq: Gpuq) -> None:
    _serve(api)
    gpuq("logs", "1042", "--rank", "1", "--attempt", "2")
    params = api.calls[0].params
    assert (params["rank"], params["attempt"]) == (["1"], ["2"])


def test_pages_of_a_log_are_all_of_one_attempt(api: FakeApi, gpuq: Gpuq) -> None:
    _serve(api)
    gpuq("logs", "1042")
    assert [call.params.get("attempt") for call in api.calls] == [None, ["2"], ["2"], ["2"]]


def test_job_that_wrote_nothing_yet_says_its_state(api: FakeApi, gpuq: Gpuq) -> None:
    _serve(api, b"", "QUEUED")
    assert gpuq("logs", "1042") == (0, "", "gpuq: job 1042 is QUEUED and has written nothing\n")


def test_log_of_somebody_else_is_status_4(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1042/log", (403, error("not_authorised", "the log is for its owner")))
    assert gpuq("logs", "1042") == (4, "", "gpuq: the log is for its owner\n")


def test_wait_gives_the_first_exit_code_that_is_not_zero(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1", ended("SUCCEEDED", "1", exit_code=0))
    api.on("GET", "/jobs/2", ended("FAILED", "2", signal=9))
    states = iter([job("3"), job("3"), ended("FAILED", "3", exit_code=4)])
    api.on("GET", "/jobs/3", lambda _: next(states))
    result = gpuq("wait", "1", "3", "2")
    assert (result.status, result.out) == (4, "")
    assert result.err.splitlines() == ["gpuq: job 3 FAILED: exit code 4", "gpuq: job 2 FAILED: signal 9 (KILL)"]
    assert gpuq("wait", "1").status == 0


def test_unknown_among_several_is_said_before_waiting(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1", job("1"))
    assert gpuq("wait", "1", "99").status == 3


def test_wait_json_gives_the_jobs(api: FakeApi, gpuq: Gpuq) -> None:
    end: dict[str, Any] = ended("SUCCEEDED", "1", exit_code=0)
    api.on("GET", "/jobs/1", end)
    assert json.loads(gpuq("wait", "--json", "1").out) == {"items": [end], "next": None}


def test_trouble_of_gpuqs_own_while_waiting_is_125(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1", (403, error("not_authorised", "the token expired")))
    assert gpuq("wait", "1").status == 125
    api.server.close()
    assert gpuq("queue").status == 5
