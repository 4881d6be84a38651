"""queue, history, why, show, nodes, gpus, events: what is read from the controller, as tables and as JSON."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.cli.conftest import Gpuq
from tests.cli.fake_api import Call, FakeApi, Raw, ended, job

ROWS: dict[str, dict[str, Any]] = {
    "7": job("7", state="RUNNING", started_at="2026-11-21T05:53:12.042Z", nodes=[{"node": "n1", "gpus": [0]}]),
    "8": job("8", name="evil\x1b[2J\nname", reason={"code": "resources", "text": "waits for 1 more h100"}),
    "9": job("9", elements={"size": 100, "counts": {"SUCCEEDED": 3, "RUNNING": 8, "QUEUED": 89}}, state="RUNNING"),
}


def _compact(call: Call) -> dict[str, Any]:
    fields = call.params["fields"][0].split(",")
    return {"fields": fields, "rows": [[row.get(f) for f in fields] for row in ROWS.values()], "next": None}


def test_queue_shows_where_jobs_run_and_why_they_wait(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs", _compact)
    result = gpuq("queue")
    header, *lines = result.out.splitlines()
    assert header.split() == ["ID", "STATE", "NAME", "USER", "QUEUE", "GPU", "TIME", "NODE/REASON"]
    assert lines[0].startswith("7   RUNNING")
    assert lines[0].endswith("n1")
    assert lines[1].endswith("waits for 1 more h100")
    assert "evil\\x1b[2J\\nname" in lines[1]
    assert lines[2].endswith("3 of 100 done, 8 running, 89 queued")
    assert "state" not in api.sent("GET", "/jobs")[0].params


def test_queue_shows_how_ended_jobs_ended_as_history_does(api: FakeApi, gpuq: Gpuq) -> None:
    items = [
        ended("FAILED", "2", exit_code=7, nodes=[{"node": "n1", "gpus": [0]}]),
        ended("FAILED", "3", signal=9, nodes=[{"node": "n1", "gpus": []}]),
        ended("CANCELED", "4", started_at=None, cause={"code": "canceled", "text": "by bob"}),
        ended("SUCCEEDED", "5", exit_code=0, nodes=[{"node": "n1", "gpus": []}]),
        ended("FAILED", "6", elements={"size": 5, "counts": {"SUCCEEDED": 3, "FAILED": 2}}),
    ]

    def compact(call: Call) -> dict[str, Any]:
        fields = call.params["fields"][0].split(",")
        return {"fields": fields, "rows": [[item.get(f) for f in fields] for item in items], "next": None}

    api.on("GET", "/jobs", compact)
    api.on("GET", "/history", {"items": items, "next": None})
    how = ["exit code 7", "signal 9 (KILL)", "by bob", "-", "5 of 5 done, 2 failed"]
    for command in (["queue", "--all"], ["queue", "-j", "2,3,4,5,6"], ["history"]):
        lines = gpuq(*command).out.splitlines()[1:]
        assert [line.endswith(f"  {said}") for line, said in zip(lines, how, strict=True)] == [True] * 5, lines


def test_ls_is_queue(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs", _compact)
    ls, queue = (re.sub(r"\d\d:\d\d:\d\d", "TIME", gpuq(name).out) for name in ("ls", "queue"))
    assert ls == queue, "but for the time, which goes on"


def test_queue_filters_become_the_apis(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs", {"fields": [], "rows": [], "next": None})
    gpuq("queue", "--me", "-p", "main", "-t", "R,PD", "--name", "x", "--expand", "-j", "1,2_3-4", "--all")
    params = api.sent("GET", "/jobs")[0].params
    assert {name: params[name] for name in ("user", "queue", "state", "name", "expand", "ids", "all")} == {
        "user": ["ann"],
        "queue": ["main"],
        "state": ["RUNNING", "QUEUED"],
        "name": ["x"],
        "expand": ["1"],
        "ids": ["1,2_3,2_4"],
        "all": ["1"],
    }
    assert gpuq("queue", "-u", "bob", "--me").status == 2


def test_queue_without_jobs_is_a_header(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs", {"fields": [], "rows": [], "next": None})
    assert gpuq("queue") == (0, "ID  STATE  NAME  USER  QUEUE  GPU  TIME  NODE/REASON\n", "")


def test_queue_json_is_one_document_of_all_pages(api: FakeApi, gpuq: Gpuq) -> None:
    pages = {None: {"items": [job("1")], "next": "1"}, "1": {"items": [job("2")], "next": None}}
    api.on("GET", "/jobs", lambda call: pages[call.params.get("after", [None])[0]])
    assert json.loads(gpuq("queue", "--json").out) == {"items": [job("1"), job("2")], "next": None}


def test_table_reads_every_page(api: FakeApi, gpuq: Gpuq) -> None:
    def page(call: Call) -> dict[str, Any]:
        return {**_compact(call), "next": None if "after" in call.params else "9"}

    api.on("GET", "/jobs", page)
    assert len(gpuq("queue").out.splitlines()) == 7


def test_history_shows_how_jobs_ended_up_to_a_limit(api: FakeApi, gpuq: Gpuq) -> None:
    items = [
        ended("SUCCEEDED", "3", exit_code=0),
        ended("FAILED", "2", exit_code=7),
        ended("CANCELED", "1", cause={"code": "canceled", "text": "by bob"}),
        ended("FAILED", "0", elements={"size": 5, "counts": {"SUCCEEDED": 3, "FAILED": 2}}),
    ]
    api.on("GET", "/history", {"items": items, "next": "1"})
    result = gpuq("history", "--limit", "4", "--since", "2026-11-21T05:00:00Z", "-u", "ann")
    lines = result.out.splitlines()
    assert lines[0].split() == ["ID", "STATE", "NAME", "USER", "QUEUE", "GPU", "ELAPSED", "ENDED", "HOW"]
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1", "0"]
    assert "00:01:00" in lines[1]
    assert lines[2].endswith("exit code 7")
    assert lines[3].endswith("by bob")
    assert lines[4].endswith("5 of 5 done, 2 failed")
    assert api.sent("GET", "/history")[0].params == {"user": ["ann"], "since": ["1795237200.0"], "limit": ["4"]}
    assert json.loads(gpuq("history", "--json", "--limit", "4").out) == {"items": items, "next": "1"}


def test_why_says_the_reason_and_each_nodes_shortfall(api: FakeApi, gpuq: Gpuq) -> None:
    reason = {"code": "resources", "text": "waits for 3 more h100"}
    nodes = [{"node": "n1", "fits": False, "text": "3 of 8 GPUs are free"}]
    api.on("GET", "/jobs/8/why", {"id": "8", "state": "QUEUED", "reason": reason, "nodes": nodes})
    out = gpuq("why", "8").out
    assert out.startswith("job 8 is QUEUED: waits for 3 more h100\n")
    assert "n1    no    3 of 8 GPUs are free" in out
    api.on("GET", "/jobs/8/why", {"id": "8", "state": "RUNNING", "reason": None, "nodes": []})
    assert gpuq("why", "8").out == "job 8 is RUNNING: it does not wait\n"


def test_why_says_when_it_may_start_who_holds_what_and_what_would_fit(api: FakeApi, gpuq: Gpuq) -> None:
    holders = [
        {"job": "3", "gpus": 4, "until": "2026-11-21T05:53:12.042Z", "by_limit": True},
        {"job": "4", "gpus": 1, "until": "2026-11-21T05:53:12.042Z", "by_limit": False},
        {"job": "5", "gpus": 0, "until": None, "by_limit": None},
    ]
    found = {
        "id": "8",
        "state": "QUEUED",
        "reason": {"code": "resources", "text": "waits for 3 more GPUs"},
        "expected_start": {"at": "2026-11-21T05:53:12.042Z", "by_limits": True},
        "instead": ["with 3 GPUs", "on 1 node"],
        "nodes": [{"node": "n1", "fits": False, "text": "has 3 of 8 GPUs free", "held_by": holders}],
    }
    api.on("GET", "/jobs/8/why", found)
    _, start, fits, _, header, line = gpuq("why", "8").out.splitlines()
    assert start.startswith("expected start: ")
    assert start.endswith(", at the latest")
    assert fits == "would start now: with 3 GPUs or on 1 node"
    assert header.endswith("HELD BY")
    assert "3 (4 GPUs) until " in line
    assert "4 (1 GPU) until about " in line
    assert line.endswith(", 5")


def test_queue_start_lists_what_waits_in_the_order_in_which_it_is_expected(api: FakeApi, gpuq: Gpuq) -> None:
    late, soon = ({"at": f"2026-11-21T0{hour}:00:00.000Z", "by_limits": hour == 5} for hour in (6, 5))
    reason = {"code": "resources", "text": "waits"}
    rows = [[id, "n", "ann", "main", 1, reason, at] for id, at in (("1", late), ("2", None), ("3", soon))]
    api.on("GET", "/jobs", {"fields": [], "rows": rows, "next": None})
    lines = gpuq("queue", "--start").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "3", "1", "2"]
    assert [line.split()[-2] for line in lines[1:]] == ["limits", "history", "-"]
    items = json.loads(gpuq("queue", "--start", "--json").out)["items"]
    assert [(item["id"], item["expected_start"]) for item in items] == [("3", soon), ("1", late), ("2", None)]


@pytest.mark.parametrize(("after", "then"), [(60, ": stopped after 00:01:00 of that"), (None, "")])
def test_show_says_who_has_more_of_a_gpu_than_its_share(api: FakeApi, gpuq: Gpuq, after: int | None, then: str) -> None:
    over = {"node": "n1", "gpu": 3, "used_bytes": 33 << 30, "share_bytes": 20 << 30, "seconds": 35.2}
    running = job(state="RUNNING", overuse=[{**over, "stopped_after_seconds": after}])
    api.on("GET", "/jobs/1042", running)
    (line,) = [line for line in gpuq("show", "1042").out.splitlines() if line.startswith("GPU memory")]
    assert line.split(None, 2)[2] == f"uses 33G of GPU 3 of n1, asked for 20G, for 00:00:35{then}"


def test_show_lists_how_each_rank_of_a_gang_ended(api: FakeApi, gpuq: Gpuq) -> None:
    ranks = [
        {"node": "n1", "phase": "ended", "exit_code": None, "signal": 15, "stopped": "sibling"},
        {"node": "n2", "phase": "ended", "exit_code": 7, "signal": None, "stopped": None},
        {"node": "n3", "phase": "ready", "exit_code": None, "signal": None, "stopped": None},
    ]
    attempt = {
        "number": 1,
        "uid": "u",
        "nodes": [{"node": f"n{i}", "gpus": [0]} for i in (1, 2, 3)],
        "ranks": ranks,
        "granted_at": "2026-11-21T05:53:12.042Z",
        "started_at": None,
        "ended_at": None,
        "exit_code": 7,
        "signal": None,
        "cause": None,
        "log_bytes": 1,
    }
    api.on("GET", "/jobs/1042", job(attempts=[attempt]))
    lines = gpuq("show", "1042").out.splitlines()[-4:]
    assert [" ".join(line.split()) for line in lines] == [
        "RANK NODE HOW",
        "0 n1 signal 15, stopped as another failed",
        "1 n2 exit code 7",
        "2 n3 ready",
    ]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("held", "held by ann"),
        ("dependency", "waits for the success of 2"),
        ("backoff", "tries again in 5 s"),
        ("array_limit", "2 elements of the array run at once, as its %2 allows"),
    ],
)
def test_why_leaves_nodes_out_where_they_are_not_what_a_job_waits_for(
    api: FakeApi, gpuq: Gpuq, code: str, text: str
) -> None:
    nodes = [{"node": "n1", "fits": True, "text": ""}]
    found = {"id": "8", "state": "QUEUED", "reason": {"code": code, "text": text}, "nodes": nodes}
    api.on("GET", "/jobs/8/why", found)
    assert gpuq("why", "8").out == f"job 8 is QUEUED: {text}\n"
    assert json.loads(gpuq("why", "8", "--json").out) == found


def test_time_a_job_waits_for_is_local_like_every_other(
    api: FakeApi, gpuq: Gpuq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    reason = {"code": "begin", "text": "begins 2026-11-21T20:00:00.123Z"}
    api.on("GET", "/jobs/8/why", {"id": "8", "state": "QUEUED", "reason": reason, "nodes": []})
    try:
        assert gpuq("why", "8").out == "job 8 is QUEUED: begins 2026-11-22 05:00:00\n"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_show_tells_everything_and_hides_what_is_not_ours(api: FakeApi, gpuq: Gpuq) -> None:
    attempt = {
        "number": 1,
        "uid": "u",
        "nodes": [{"node": "n1", "gpus": [0, 1]}],
        "granted_at": "2026-11-21T05:53:12.042Z",
        "started_at": "2026-11-21T05:53:13.000Z",
        "ended_at": "2026-11-21T05:54:13.000Z",
        "exit_code": None,
        "signal": 9,
        "cause": {"code": "signal", "text": "killed by signal 9"},
        "log_bytes": 2048,
    }
    shown = ended("FAILED", signal=9, cause=attempt["cause"], attempts=[attempt], time_limit_seconds=3600)
    api.on("GET", "/jobs/1042", shown)
    out = gpuq("show", "1042").out
    for part in ("1042  train", "FAILED", "signal 9 (KILL)", "python train.py", "/data", "1 node, 1 GPU", "01:00:00"):
        assert part in out
    assert "n1 (GPU 0,1)" in out.splitlines()[-1]
    assert json.loads(gpuq("show", "--json", "1042").out) == shown
    api.on("GET", "/jobs/1042", job(command=None, cwd=None, comment=None))
    assert "only its owner" in gpuq("show", "1042").out


def test_show_script_prints_its_text(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1042/script", Raw(b"#!/bin/sh\nexit 3\n", {}))
    assert gpuq("show", "--script", "1042").out == "#!/bin/sh\nexit 3\n"


@pytest.mark.parametrize("verb", ["show", "why", "logs", "wait"])
def test_unknown_job_is_status_3(api: FakeApi, gpuq: Gpuq, verb: str) -> None:
    result = gpuq(verb, "99")
    assert (result.status, result.err.count("\n")) == (3, 1)


def _gpu(index: int, **changes: Any) -> dict[str, Any]:
    known = {"memory_total_bytes": 80 << 30, "memory_used_bytes": 0, "utilization_percent": 0, "temperature_c": 31}
    return {
        "index": index,
        "uuid": f"G-{index}",
        "name": "H100",
        **known,
        "power_w": 70.4,
        "health": "ok",
        "jobs": [],
        **changes,
    }


NODE: dict[str, Any] = {
    "name": "n1",
    "state": "up",
    "cordoned": True,
    "draining": False,
    "cordon_text": "fan",
    "simulated": True,
    "gpus": [
        _gpu(0, jobs=["7"]),
        _gpu(1, memory_used_bytes=None, utilization_percent=None, temperature_c=None, power_w=None, health="unknown"),
    ],
    "cpus": 64,
    "cpu_percent": None,
    "memory_total_bytes": 256 << 30,
    "memory_used_bytes": None,
    "disk_total_bytes": None,
    "disk_used_bytes": None,
    "agent_version": "0.1.0",
    "last_seen_at": None,
}


def test_nodes_mark_what_is_simulated_and_never_show_unknown_as_zero(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/nodes", {"items": [NODE], "next": None})
    header, line = gpuq("nodes").out.splitlines()
    cells = dict(zip(header.split(), line.split(), strict=True))
    assert cells["STATE"] == "up,cordoned,simulated"
    assert (cells["GPUS"], cells["BUSY"], cells["CPU%"], cells["MEMORY"]) == ("2", "1", "-", "-/256G")
    assert (cells["DISK"], cells["SEEN"], cells["NOTE"]) == ("-", "-", "fan")
    assert json.loads(gpuq("nodes", "--json").out) == {"items": [NODE], "next": None}


def test_gpus_are_one_line_each(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/nodes", {"items": [NODE], "next": None})
    header, busy, unknown = gpuq("gpus").out.splitlines()
    assert header.split() == ["NODE", "GPU", "NAME", "MEMORY", "UTIL", "TEMP", "POWER", "HEALTH", "JOBS"]
    assert busy.split() == ["n1", "0", "H100", "(simulated)", "0B/80G", "0%", "31C", "70W", "ok", "7"]
    assert unknown.split() == ["n1", "1", "H100", "(simulated)", "-/80G", "-", "-", "-", "unknown", "-"]
    assert [item["node"] for item in json.loads(gpuq("gpus", "--json").out)["items"]] == ["n1", "n1"]


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain"])
def test_cordon_and_the_like_change_a_node(api: FakeApi, gpuq: Gpuq, verb: str) -> None:
    api.on("POST", f"/nodes/n1/{verb}", NODE)
    text = [] if verb == "uncordon" else ["--reason", "fan"]
    result = gpuq(verb, "n1", *text)
    assert (result.status, result.out.startswith("node n1 gets ")) == (0, True)
    assert "moved" not in result.out + gpuq(verb, "--help").out
    assert api.calls[-1].body == ({} if verb == "uncordon" else {"text": "fan"})
    assert gpuq(verb, "n2").status == 3


def test_a_drain_may_move_what_runs_and_says_what_is_left(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("POST", "/nodes/n1/drain", NODE)
    assert "is stopped and queued again, unless" in gpuq("drain", "n1", "--requeue").out
    assert api.calls[-1].body == {"text": "", "requeue": True}
    for jobs, said in ((["7", "8"], "2 jobs left, fan"), (["7"], "1 job left, fan"), ([], "empty, fan")):
        api.on("GET", "/nodes", {"items": [{**NODE, "draining": True, "jobs": jobs}], "next": None})
        assert gpuq("nodes").out.endswith(f"{said}\n")


EVENT = {
    "id": "5",
    "at": "2026-11-21T05:53:12.042Z",
    "kind": "job.running",
    "text": "on n1\x1b[2J",
    "job": "7",
    "attempt": 2,
    "node": "n1",
    "user": "ann",
    "address": None,
}


def test_events_say_where_something_was_asked_from(api: FakeApi, gpuq: Gpuq) -> None:
    asked = {**EVENT, "kind": "token.revoked", "text": "x", "job": None, "attempt": None, "node": None}
    api.on("GET", "/events", {"items": [{**asked, "address": "10.0.0.7"}], "next": "5"})
    assert gpuq("events").out.endswith("token.revoked  ann from 10.0.0.7  x\n")


def test_events_are_lines_with_local_time_and_json_is_one_document(api: FakeApi, gpuq: Gpuq) -> None:
    page = {"items": [EVENT], "next": "5"}
    api.on("GET", "/events", page)
    out = gpuq("events", "-j", "7", "--kind", "job.", "--limit", "3").out
    assert out.endswith("job.running  job 7.2 node n1 ann  on n1\\x1b[2J\n")
    assert api.sent("GET", "/events")[0].params == {"job": ["7"], "kind": ["job."], "limit": ["3"]}
    assert json.loads(gpuq("events", "--json").out) == page


def test_events_followed_are_a_document_a_line_and_go_on_behind_the_last(api: FakeApi, gpuq: Gpuq) -> None:
    def answer(call: Call) -> Any:
        after = call.params.get("after", [None])[0]
        if after is None:
            return {"items": [EVENT], "next": "5"}
        if after == "5":
            return {"items": [{**EVENT, "id": "6"}], "next": "6"}
        return 401, {"error": {"code": "not_authenticated", "message": "enough", "hint": ""}}

    api.on("GET", "/events", answer)
    result = gpuq("events", "-f", "--json")
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == ["5", "6"]
