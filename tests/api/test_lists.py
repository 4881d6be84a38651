"""Lists of jobs: filters, pages that neither lose nor repeat anything, arrays, history."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from gpuq.model import EndReason, ExitRecord
from tests.api.server import Agent, Running, until

JOB_FIELDS = {
    "id", "name", "user", "queue", "state", "reason", "command", "cwd", "gpus", "nodes", "attempt", "exit_code",
    "signal", "cause", "submitted_at", "started_at", "finished_at",
}  # fmt: skip


def all_pages(running: Running, path: str) -> list[Any]:
    found: list[Any] = []
    after = ""
    while True:
        page = running.get(path + after)
        found += page.get("items", page.get("rows"))
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def ids(items: list[Any]) -> list[str]:
    return [item["id"] for item in items]


@pytest.fixture(scope="module")
def ended(running: Running, new_node: Callable[[], Agent]) -> list[str]:
    """Jobs of bob that have ended: exit 0, exit 3, by a signal, canceled."""
    agent = new_node()
    made = []
    for record in (
        ExitRecord(EndReason.EXITED, time.time(), exit_code=0),
        ExitRecord(EndReason.EXITED, time.time(), exit_code=3),
        ExitRecord(EndReason.EXITED, time.time(), signal=11),
    ):
        id = running.submit("bob", name="ended", gpus=1)
        agent.end(agent.run(id), record)
        assert running.get(f"/jobs/{id}?wait=5&seen=RUNNING")["finished_at"]
        made.append(id)
    id = running.submit("bob", name="ended", hold=True)
    running.ask("POST", "/jobs/cancel", "bob", {"ids": [id]})
    return [*made, id]


def test_an_item_has_the_fields_of_the_contract(running: Running) -> None:
    id = running.submit("ann", name="fields")
    (item,) = running.get("/jobs?name=fields", "ann")["items"]
    assert set(item) == JOB_FIELDS
    assert item["id"] == id
    assert item["submitted_at"].endswith("Z")
    assert item["reason"] is None or set(item["reason"]) == {"code", "text"}


def test_a_list_shows_active_jobs_in_submit_order(running: Running) -> None:
    made = [running.submit("ann", name="ordered", hold=True) for _ in range(3)]
    running.ask("POST", "/jobs/cancel", "ann", {"ids": [made[1]]})
    assert ids(running.get("/jobs?name=ordered")["items"]) == [made[0], made[2]]
    assert ids(running.get("/jobs?name=ordered&all=1")["items"]) == made


def test_filters_must_all_hold(running: Running) -> None:
    mine = running.submit("ann", name="filtered", hold=True)
    running.submit("bob", name="filtered", hold=True)
    assert ids(running.get("/jobs?name=filtered&user=ann")["items"]) == [mine]
    assert ids(running.get("/jobs?name=filtered&user=ann&state=QUEUED&state=RUNNING&queue=main")["items"]) == [mine]
    assert running.get("/jobs?name=filtered&user=ann&state=RUNNING")["items"] == []
    assert running.get("/jobs?name=filtered&queue=other")["items"] == []


def test_final_states_are_listed_when_asked_for(running: Running, ended: list[str]) -> None:
    assert ids(running.get("/jobs?name=ended&state=FAILED")["items"]) == ended[1:3]
    assert ids(running.get("/jobs?name=ended&state=SUCCEEDED&state=QUEUED")["items"]) == ended[:1]
    assert running.get("/jobs?name=ended")["items"] == []


def test_an_ended_job_shows_how_and_where(running: Running, ended: list[str]) -> None:
    good, bad, signalled, canceled = running.get("/jobs?name=ended&all=1")["items"]
    assert (good["state"], good["exit_code"], good["signal"]) == ("SUCCEEDED", 0, None)
    assert (bad["state"], bad["exit_code"], bad["cause"]["code"]) == ("FAILED", 3, "exit_code")
    assert (signalled["state"], signalled["exit_code"], signalled["signal"]) == ("FAILED", None, 11)
    assert (canceled["state"], canceled["cause"]["code"], canceled["nodes"]) == ("CANCELED", "canceled", [])
    assert len(good["nodes"][0]["gpus"]) == 1
    assert good["reason"] is None
    detail = running.get(f"/jobs/{bad['id']}")
    assert detail["attempts"][0]["exit_code"] == 3
    assert detail["attempts"][0]["nodes"] == bad["nodes"]


@pytest.mark.parametrize("extra", ["", "&all=1", "&state=QUEUED&state=FAILED", "&fields=id"])
def test_pages_neither_lose_nor_repeat_a_job(running: Running, extra: str) -> None:
    name = f"paged{extra.replace('&', '-').replace('=', '-')}"
    made = [running.submit("ann", name=name, hold=True) for _ in range(7)]
    found = all_pages(running, f"/jobs?name={name}&limit=3{extra}")
    assert [row[0] if isinstance(row, list) else row["id"] for row in found] == made


def test_ids_name_jobs_whatever_their_state(running: Running, ended: list[str]) -> None:
    live = running.submit("ann", hold=True)
    found = running.get(f"/jobs?ids={live},{ended[0]},987654,{live}")["items"]
    assert ids(found) == sorted([live, ended[0]], key=int)


def test_rows_hold_the_fields_asked_for_in_that_order(running: Running) -> None:
    id = running.submit("ann", name="rows", gpus=2, hold=True)
    page = running.get("/jobs?name=rows&fields=gpus,id,state,elements")
    assert page == {"fields": ["gpus", "id", "state", "elements"], "rows": [[2, id, "QUEUED", None]], "next": None}


def test_an_array_expands_into_its_elements_across_pages(running: Running) -> None:
    id = running.submit("ann", name="expanded", array="0-6", hold=True)
    other = running.submit("ann", name="expanded", hold=True)
    wanted = [f"{id}_{n}" for n in range(7)] + [other]
    for extra in ("", "&all=1"):
        items = all_pages(running, f"/jobs?name=expanded&expand=1&limit=3{extra}")
        assert ids(items) == wanted
    assert "elements" not in items[0]
    assert ids(running.get(f"/jobs?ids={id}_3,{id}_99&expand=1")["items"]) == [f"{id}_3"]


def test_elements_show_their_own_states(running: Running, new_node: Callable[[], Agent]) -> None:
    agent = new_node()
    id = running.submit("ann", name="elements", array="0-3%1", gpus=1, only_nodes=[agent.name])
    uid = agent.run(f"{id}_0")
    shown = {item["id"]: item["state"] for item in running.get("/jobs?name=elements&expand=1")["items"]}
    assert shown == {f"{id}_0": "RUNNING", f"{id}_1": "QUEUED", f"{id}_2": "QUEUED", f"{id}_3": "QUEUED"}
    (row,) = running.get("/jobs?name=elements&state=RUNNING")["items"]
    assert (row["state"], row["elements"]) == ("RUNNING", {"size": 4, "counts": {"RUNNING": 1, "QUEUED": 3}})
    assert running.get(f"/jobs/{id}_2")["state"] == "QUEUED"
    assert running.get(f"/jobs/{id}_2/why")["reason"] is not None
    agent.end(uid, ExitRecord(EndReason.EXITED, time.time(), exit_code=0))
    until(lambda: running.get(f"/jobs/{id}_0")["state"] == "SUCCEEDED")
    assert ids(running.get("/jobs?name=elements&expand=1")["items"])[0] == f"{id}_1"
    assert ids(running.get("/jobs?name=elements&expand=1&all=1")["items"])[0] == f"{id}_0"
    named = f"/jobs?ids={id}&expand=1"
    assert ids(running.get(f"{named}&state=SUCCEEDED")["items"]) == [f"{id}_0"]
    assert ids(running.get(f"{named}&state=SUCCEEDED&state=QUEUED")["items"])[0] == f"{id}_0"
    assert running.get(f"{named}&state=FAILED&state=LOST")["items"] == []
    running.ask("POST", "/jobs/cancel", "ann", {"ids": [f"{id}_3"]})
    assert running.get(f"/jobs/{id}_3")["state"] == "CANCELED"
    running.ask("GET", f"/jobs/{id}_4").refused(404)


def test_history_is_newest_first_and_paged(running: Running, ended: list[str]) -> None:
    newest = list(reversed(ended))
    assert ids(running.get("/history?name=ended")["items"]) == newest
    assert ids(all_pages(running, "/history?name=ended&limit=1")) == newest
    assert ids(running.get("/history?name=ended&state=FAILED")["items"]) == [ended[2], ended[1]]
    assert running.get("/history?name=ended&until=1000")["items"] == []
    assert len(running.get("/history?name=ended&since=1000")["items"]) == 4


def test_an_update_answers_with_the_changed_job(running: Running) -> None:
    id = running.submit("ann", hold=True)
    changes = {"name": "renamed", "priority": -3, "time_limit_seconds": 90, "comment": "why", "max_retries": 2}
    answer = running.ask("PATCH", f"/jobs/{id}", "ann", changes)
    assert answer.status == 200
    assert {key: answer.json[key] for key in changes} == changes
    for wrong in ({}, {"gpus": 1}, {"priority": "high"}):
        running.ask("PATCH", f"/jobs/{id}", "ann", wrong).refused(400)
    running.ask("PATCH", f"/jobs/{id}", "bob", {"name": "x"}).refused(403)
    running.ask("PATCH", "/jobs/987654", "ann", {"name": "x"}).refused(404)


def test_verbs_say_what_became_of_each_job(running: Running) -> None:
    held, free = running.submit("ann", hold=True), running.submit("ann", hold=True)
    assert running.ask("POST", "/jobs/release", "ann", {"ids": [free]}).json["items"][0]["outcome"] == "done"
    outcomes = running.ask("POST", "/jobs/hold", "ann", {"ids": [held, "987654"]}).json["items"]
    assert [(o["id"], o["outcome"]) for o in outcomes] == [(held, "already"), ("987654", "not_found")]
    repeated = [
        running.ask("POST", "/jobs/cancel", "ann", {"ids": [held]}, request_id="cancel-once").body for _ in range(2)
    ]
    assert repeated[0] == repeated[1]


def test_a_verb_that_names_nothing_touches_nothing(running: Running) -> None:
    assert "no job is named" in running.ask("POST", "/jobs/cancel", "root", {}).refused(400)
    assert "no job is named" in running.ask("POST", "/jobs/cancel", "root", {"force": True}).refused(400)
    running.ask("POST", "/jobs/cancel", "root", {"ids": ["1;DROP"]}).refused(400)
    running.ask("POST", "/jobs/hold", "root", {"ids": ["1"], "force": True}).refused(400)


def test_filters_select_jobs_for_a_verb(running: Running) -> None:
    made = [running.submit("ann", name="selected", hold=True) for _ in range(2)]
    answer = running.ask("POST", "/jobs/cancel", "ann", {"user": "ann", "name": "selected", "state": "QUEUED"})
    assert sorted(item["id"] for item in answer.json["items"]) == sorted(made)
