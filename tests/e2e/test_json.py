"""The documents of --json are a contract: these keys, these types."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.e2e.cluster import FINAL, Cluster

JOB = {
    "id": str,
    "name": str,
    "user": str,
    "queue": str,
    "state": str,
    "reason": (dict, type(None)),
    "command": list,
    "cwd": str,
    "gpus": int,
    "nodes": list,
    "attempt": int,
    "exit_code": (int, type(None)),
    "signal": (int, type(None)),
    "cause": (dict, type(None)),
    "submitted_at": str,
    "started_at": (str, type(None)),
    "finished_at": (str, type(None)),
}
NODE = {
    "name": str,
    "state": str,
    "cordoned": bool,
    "draining": bool,
    "simulated": bool,
    "gpus": list,
    "cpus": int,
    "cpu_percent": (int, float, type(None)),
    "memory_total_bytes": int,
    "memory_used_bytes": (int, type(None)),
    "disk_total_bytes": (int, type(None)),
    "disk_used_bytes": (int, type(None)),
    "agent_version": str,
    "last_seen_at": str,
}
GPU = {
    "index": int,
    "uuid": str,
    "name": str,
    "memory_total_bytes": int,
    "memory_used_bytes": int,
    "utilization_percent": int,
    "temperature_c": int,
    "power_w": (int, float),
    "health": str,
    "jobs": list,
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def check(found: dict[str, Any], shape: dict[str, Any], more: bool = False) -> None:
    assert set(shape) <= set(found), set(shape) - set(found)
    if not more:
        assert set(found) == set(shape), set(found) - set(shape)
    for key, kind in shape.items():
        assert isinstance(found[key], kind), (key, found[key])
        assert kind is bool or not isinstance(found[key], bool), key
        if key.endswith("_at") and found[key] is not None:
            assert TIME.fullmatch(found[key]), found[key]


def check_coded(found: dict[str, Any]) -> None:
    check(found, {"code": str, "text": str})


def test_a_job_through_its_life(cluster: Cluster) -> None:
    queued = cluster.submit("-H", "-G", "2", "-J", "q", "echo", "a b")
    running = cluster.sh("sleep 1000", "-G", "1")
    failed, killed, done = cluster.sh("exit 3"), cluster.sh("kill -9 $$"), cluster.submit("true")
    cluster.becomes(running, "RUNNING")
    for id in (failed, killed, done):
        cluster.becomes(id, *FINAL)
    listing = cluster.json("queue")
    check(listing, {"items": list, "next": (str, type(None))})
    by_id = {job["id"]: job for job in listing["items"]}
    assert set(by_id) == {queued, running}
    history = cluster.json("history")
    check(history, {"items": list, "next": (str, type(None))})
    by_id |= {job["id"]: job for job in history["items"]}
    for job in by_id.values():
        check(job, JOB)
        detail = cluster.json("show", job["id"])
        check(detail, JOB, more=True)
        assert {key: detail[key] for key in JOB} == job
    job = by_id[queued]
    assert (job["state"], job["command"], job["gpus"], job["cwd"]) == (
        "QUEUED",
        ["echo", "a b"],
        2,
        str(cluster.folder),
    )
    check_coded(job["reason"])
    assert (job["nodes"], job["attempt"], job["started_at"], job["finished_at"]) == ([], 0, None, None)
    job = by_id[running]
    (place,) = job["nodes"]
    check(place, {"node": str, "gpus": list})
    assert len(place["gpus"]) == 1
    assert isinstance(place["gpus"][0], int)
    assert (job["state"], job["reason"], job["finished_at"]) == ("RUNNING", None, None)
    assert job["started_at"] >= job["submitted_at"]
    assert (by_id[failed]["exit_code"], by_id[failed]["signal"]) == (3, None)
    assert (by_id[killed]["exit_code"], by_id[killed]["signal"]) == (None, 9)
    check_coded(by_id[failed]["cause"])
    assert (by_id[done]["exit_code"], by_id[done]["cause"], len(by_id[done]["nodes"])) == (0, None, 1)
    (node,) = cluster.json("nodes")["items"]
    assert [gpu["jobs"] for gpu in node["gpus"] if gpu["index"] in place["gpus"]] == [[running]]
    cluster.ok("cancel", running, queued)
    cluster.ended(running)


def test_arrays_are_one_item_unless_expanded(cluster: Cluster) -> None:
    id = cluster.submit("-H", "-a", "0-4", "true")
    (job,) = cluster.json("queue")["items"]
    check(job, {**JOB, "elements": dict})
    assert job["id"] == id
    check(job["elements"], {"size": int, "counts": dict})
    assert job["elements"] == {"size": 5, "counts": {"QUEUED": 5}}
    expanded = cluster.json("queue", "--expand")["items"]
    assert [item["id"] for item in expanded] == [f"{id}_{i}" for i in range(5)]
    for item in expanded:
        check(item, JOB)
    detail = cluster.json("show", id)
    check(detail["array"], {"text": str, "size": int, "max_running": (int, type(None)), "counts": dict})
    cluster.ok("release", id)
    assert cluster.ended(id)["state"] == "SUCCEEDED"
    ended = next(job for job in cluster.json("history")["items"] if job["id"] == id)
    assert ended["elements"] == {"size": 5, "counts": {"SUCCEEDED": 5}}
    check(cluster.json("show", f"{id}_3"), JOB, more=True)


def test_nodes_and_gpus(cluster: Cluster) -> None:
    listing = cluster.json("nodes")
    check(listing, {"items": list, "next": type(None)})
    (node,) = listing["items"]
    check(node, NODE, more=True)
    assert (node["state"], node["simulated"], len(node["gpus"])) == ("up", True, 8)
    for index, gpu in enumerate(node["gpus"]):
        check(gpu, GPU, more=True)
        assert (gpu["index"], gpu["health"]) == (index, "ok")
    document = cluster.json("gpus")
    assert len(document["items"]) == 8


def test_status_of_this_machine(cluster: Cluster) -> None:
    found = cluster.json("status")
    check(found, {"controller": dict, "agents": list})
    check(found["controller"], {"url": str, "pid": int, "version": str})
    assert found["controller"]["pid"] == cluster.pid("controller")
    (agent,) = found["agents"]
    check(agent, {"name": str, "pid": int})
    assert agent["pid"] == cluster.pid("agent")


def test_submit_wait_and_events(cluster: Cluster) -> None:
    made = json.loads(cluster.ok("submit", "--json", "true"))
    check(made, {"id": str, "elements": type(None)})
    array = json.loads(cluster.ok("submit", "--json", "-a", "1-3", "true"))
    assert array["elements"] == 3
    waited = cluster.json("wait", made["id"], array["id"])
    check(waited, {"items": list, "next": type(None)})
    assert [job["id"] for job in waited["items"]] == [made["id"], array["id"]]
    events = cluster.json("events")
    assert events["items"]
    for event in events["items"]:
        check(
            event,
            {
                "id": str,
                "at": str,
                "kind": str,
                "text": str,
                "job": (str, type(None)),
                "attempt": (int, type(None)),
                "node": (str, type(None)),
                "user": (str, type(None)),
                "address": (str, type(None)),
            },
        )
        assert TIME.fullmatch(event["at"])


def test_pretend_gpus_are_marked_wherever_they_show(cluster: Cluster) -> None:
    for verb in ("nodes", "gpus", "status"):
        assert "simulated" in cluster.ok(verb), verb
    assert all("(simulated)" in line for line in cluster.ok("gpus").splitlines()[1:])
    assert cluster.json("nodes")["items"][0]["simulated"] is True
    assert all(gpu["simulated"] is True for gpu in cluster.json("gpus")["items"])
    assert cluster.call("GET", "/cluster").json()["gpus"]["simulated"] == 8
    assert "simulated" in cluster.ok("up", "--detach")
