"""The snapshot: its shape, its pages, and who sees what of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from gpuq.model import EndReason, ExitRecord
from tests.api.server import Agent, Running

FIELDS = (
    "id name user queue state priority gpus submitted_at started_at finished_at nodes reason cause exit_code signal "
    "attempt elements time_limit_seconds"
)


def items(page: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row[0]: dict(zip(page["fields"], row, strict=True)) for row in page["rows"]}


def whole(running: Running, user: str = "root", limit: int = 5_000) -> dict[str, dict[str, Any]]:
    """All jobs of a snapshot, page by page, in the order in which they come."""
    page = running.get(f"/snapshot?limit={limit}", user)["jobs"]
    found = items(page)
    while page["next"] is not None:
        page = running.get(f"/snapshot/jobs?after={page['next']}&limit={limit}", user)
        assert not found.keys() & items(page).keys()
        found |= items(page)
    return found


def test_a_snapshot_has_the_shape_of_the_contract(running: Running, new_node: Callable[[], Agent]) -> None:
    agent = new_node()
    id = running.submit("ann", hold=True, priority=0, time_limit_seconds=60)
    body = running.get("/snapshot", "ann")
    assert set(body) == {"life", "at", "now", "cluster", "you", "counts", "jobs", "nodes", "events"}
    assert body["you"] == {"user": "ann", "role": "user"}
    assert set(body["cluster"]) == {"id", "version"}
    assert body["jobs"]["fields"] == FIELDS.split()
    assert body["counts"]["QUEUED"] >= 1
    row = items(body["jobs"])[id]
    assert (row["state"], row["reason"]["code"], row["time_limit_seconds"]) == ("QUEUED", "held", 60)
    (node,) = (node for node in body["nodes"] if node["name"] == agent.name)
    whole = running.get(f"/nodes/{agent.name}", "ann")
    for gpu, in_detail in zip(node["gpus"], whole["gpus"], strict=True):
        assert gpu.items() <= in_detail.items()
        assert "processes" not in gpu
    assert node | {"gpus": []} == whole | {"gpus": []}
    assert body["events"] == running.get("/events", "ann")["items"]


def test_rows_say_what_lists_say(running: Running, new_node: Callable[[], Agent]) -> None:
    agent = new_node()
    ended = running.submit("bob", only_nodes=[agent.name], gpus=1)
    agent.end(agent.run(ended), ExitRecord(EndReason.EXITED, time.time(), exit_code=3))
    array = running.submit("ann", array="0-2", hold=True)
    running.ask("POST", "/jobs/cancel", "ann", {"ids": [f"{array}_1"]})
    runs = running.submit("ann", only_nodes=[agent.name], gpus=2)
    agent.run(runs)
    for user in ("ann", "bob", "root"):
        shown = items(running.get("/snapshot?limit=5000", user)["jobs"])
        listed = running.get(f"/jobs?ids={ended},{array},{runs}", user)["items"]
        assert len(listed) == 3
        for item in listed:
            row = shown[item["id"]]
            assert {field: row[field] for field in item if field not in ("command", "cwd")} == {
                field: item[field] for field in item if field not in ("command", "cwd")
            }
    assert shown[ended]["nodes"][0]["node"] == agent.name


def test_pages_go_from_the_newest_to_the_oldest_and_lose_none(running: Running) -> None:
    made = [running.submit("ann", hold=True) for _ in range(7)]
    found = list(whole(running, limit=3))
    assert found == sorted(found, key=int, reverse=True)
    assert set(made) <= set(found)
    assert found == list(whole(running))


def test_counts_are_those_of_all_rows_whatever_the_limit(running: Running) -> None:
    running.submit("ann", array="0-9", hold=True)
    total: dict[str, int] = {}
    for row in whole(running).values():
        for state, count in (row["elements"]["counts"] if row["elements"] else {row["state"]: 1}).items():
            total[state] = total.get(state, 0) + count
    assert running.get("/snapshot?limit=1")["counts"] == total


def test_a_viewer_may_look(running: Running) -> None:
    assert running.get("/snapshot", "eve")["you"] == {"user": "eve", "role": "viewer"}
    assert running.ask("GET", "/snapshot", None).status == 401


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/snapshot?limit=0", "limit"),
        ("/snapshot?limit=100000", "limit"),
        ("/snapshot/jobs?after=x", "not a place in a list"),
        ("/snapshot/jobs?after=-1", "not a place in a list"),
        ("/snapshot?fields=id", "there is no parameter 'fields'"),
    ],
)
def test_a_malformed_request_is_refused_in_one_line(running: Running, path: str, said: str) -> None:
    assert said in running.ask("GET", path).refused(400)
