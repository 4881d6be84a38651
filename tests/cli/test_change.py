from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Gpuq
from tests.cli.fake_api import Call, FakeApi, error, job


def _outcomes(**outcomes: str) -> Any:
    """An answer to cancel and the like: ids '_1' -> outcome."""

    def answer(call: Call) -> dict[str, Any]:
        ids = call.body.get("ids", [id.strip("_") for id in outcomes])
        return {"items": [{"id": i, "outcome": outcomes[f"_{i}"], "text": f"{i}: {outcomes[f'_{i}']}"} for i in ids]}

    return answer


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "requeue"])
def test_each_job_has_a_line_and_what_was_so_already_is_no_failure(api: FakeApi, gpuq: Gpuq, verb: str) -> None:
    api.on("POST", f"/jobs/{verb}", _outcomes(_1="done", _2="already"))
    assert gpuq(verb, "1", "2") == (0, "1: done\n2: already\n", "")
    assert api.calls[-1].body == {"ids": ["1", "2"]}


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ({"_1": "refused", "_2": "done"}, 1),
        ({"_1": "refused", "_2": "not_allowed"}, 4),
        ({"_1": "not_allowed", "_2": "not_found"}, 3),
    ],
)
def test_status_says_the_worst_and_failures_go_to_stderr(
    api: FakeApi, gpuq: Gpuq, outcomes: dict[str, str], status: int
) -> None:
    api.on("POST", "/jobs/cancel", _outcomes(**outcomes))
    result = gpuq("cancel", "1", "2")
    assert result.status == status
    assert len(result.out.splitlines() + result.err.splitlines()) == 2
    assert f"1: {outcomes['_1']}" in result.err


def test_elements_and_ranges_are_named_one_by_one(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs/cancel", {"items": []})
    gpuq("cancel", "1042_3-5", "7")
    assert api.calls[-1].body == {"ids": ["1042_3", "1042_4", "1042_5", "7"]}


def test_cancel_by_filters_asks_once_for_each_state(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs/cancel", _outcomes(_1="done"))
    assert gpuq("cancel", "--me", "-p", "main", "--name", "x", "-t", "R,PD", "--force").status == 0
    same = {"user": "ann", "queue": "main", "name": "x", "force": True}
    assert [call.body for call in api.sent("POST", "/jobs/cancel")] == [
        {**same, "state": "RUNNING"},
        {**same, "state": "QUEUED"},
    ]


def test_cancel_of_everything_is_ones_own_and_an_admins_all(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs/cancel", _outcomes(_1="done", _2="done"))
    gpuq("cancel", "--all")
    assert api.calls[-1].body == {"user": "ann"}
    api.on("GET", "/whoami", {"user": "root", "role": "admin"})
    api.on("GET", "/jobs", {"fields": ["id"], "rows": [["1"], ["2"]], "next": None})
    gpuq("cancel", "--all")
    assert api.calls[-1].body == {"ids": ["1", "2"]}


@pytest.mark.parametrize(
    "arguments",
    [["cancel"], ["cancel", "1", "--me"], ["hold"], ["requeue"], ["cancel", "x"], ["update", "1"], ["update"]],
)
def test_naming_nothing_or_too_much_is_wrong_usage(api: FakeApi, gpuq: Gpuq, arguments: list[str]) -> None:
    result = gpuq(*arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert not [call for call in api.calls if call.method != "GET"]


def test_filters_that_meet_nothing_say_so(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs/cancel", {"items": []})
    assert gpuq("cancel", "--me") == (0, "", "gpuq: no jobs match\n")


def test_json_is_one_document(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/jobs/hold", _outcomes(_1="not_found"))
    result = gpuq("hold", "--json", "1")
    assert result.status == 3
    assert json.loads(result.out) == {
        "items": [{"id": "1", "outcome": "not_found", "text": "1: not_found"}],
        "next": None,
    }


def test_update_sends_what_was_given(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("PATCH", "/jobs/7", job("7", priority=-5))
    arguments = ["--priority", "-5", "-t", "2h", "--name", "n", "--comment", "", "--max-retries", "2"]
    assert gpuq("update", "7", *arguments, "-b", "2030-01-02T03:04:05Z") == (0, "Updated job 7\n", "")
    assert api.calls[-1].body == {
        "priority": -5,
        "time_limit_seconds": 7200,
        "name": "n",
        "comment": "",
        "begin_at": 1893553445.0,
        "max_retries": 2,
    }
    assert json.loads(gpuq("update", "7", "--priority", "0", "--json").out)["id"] == "7"


def test_update_refused_is_one_line(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("PATCH", "/jobs/7", (409, error("conflict", "job 7 is RUNNING", "only its comment can be changed now")))
    result = gpuq("update", "7", "-t", "5")
    assert result == (1, "", "gpuq: job 7 is RUNNING: only its comment can be changed now\n")
