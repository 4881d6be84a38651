"""Snapshot and changes: whatever happens, whoever lays them over each other sees the present and all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gpuq.api import changes as changes_module
from gpuq.api.changes import changes
from gpuq.model import JobId
from gpuq.protocol import Selection, Submission
from gpuq.service import board as board_module
from gpuq.service.commands import Cancel, Submit
from gpuq.service.live import LiveController
from gpuq.store import events as stored_events
from tests.api.churn import ANN, Churn, Dashboard, a_site, parsed
from tests.api.server import DEADLINE, Agent, Running

Scene = Callable[[Churn, Dashboard], Awaitable[None]]


def play(home: Path, scene: Scene, seed: int = 1) -> None:
    """A scene in a new controller with two nodes, before a dashboard that has its first snapshot."""

    async def run() -> None:
        live = await LiveController.open(home / "gpuq.db")
        site = a_site(live, home)
        try:
            churn = Churn(live, seed)
            await churn.add_machine()
            await churn.add_machine()
            dashboard = Dashboard(site, ANN)
            await dashboard.load()
            await scene(churn, dashboard)
        finally:
            site.follow.close()
            await live.close()

    asyncio.run(run())


async def fresh(dashboard: Dashboard) -> Dashboard:
    other = Dashboard(dashboard.call.site, dashboard.call.actor)
    await other.load()
    return other


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_snapshot_and_any_changes_are_the_present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(board_module, "KEPT_ENDED", 8)
    monkeypatch.setattr(changes_module, "_ROWS", 4)

    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        for _ in range(40):
            for _ in range(churn.random.randrange(1, 12)):
                await churn.step()
            await dashboard.update()
            now = await fresh(dashboard)
            assert dashboard.shown() == now.shown()
            assert dashboard.counts == dashboard.counted()
        assert dashboard.resets == 0
        assert dashboard.asked > 40  # several answers for one update
        assert dashboard.gone

    play(tmp_path, scene, seed)


def test_who_was_away_for_too_long_is_told_to_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "KEPT_TOUCHES", 16)
    monkeypatch.setattr(board_module, "_FORGOTTEN_AT_ONCE", 8)

    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        for _ in range(60):
            await churn.step()
        await dashboard.update()
        assert dashboard.resets == 1
        assert dashboard.shown() == (await fresh(dashboard)).shown()
        await dashboard.update()
        assert dashboard.resets == 1

    play(tmp_path, scene)


def test_places_of_another_life_and_places_ahead_are_reset(tmp_path: Path) -> None:
    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        for life, after in (("another", dashboard.at), (dashboard.life, dashboard.at + 1_000)):
            body = parsed(await changes(dashboard.call, life=life, after=after, wait=20))
            assert body["reset"]
            assert body["life"] == dashboard.life
            assert body["jobs"]["rows"] == body["nodes"] == body["events"] == []

    play(tmp_path, scene)


def test_what_ended_before_a_restart_is_in_the_snapshot(tmp_path: Path) -> None:
    before: dict[str, Any] = {}

    async def first(churn: Churn, dashboard: Dashboard) -> None:
        for _ in range(200):
            await churn.step()
        await dashboard.update()
        before.update(dashboard.shown())

    async def second(churn: Churn, dashboard: Dashboard) -> None:
        ended = {id: row for id, row in before["rows"].items() if row["finished_at"]}
        assert ended
        assert {id: dashboard.shown()["rows"].get(id) for id in ended} == ended
        assert dashboard.counts == dashboard.counted()
        assert [event for event in before["events"] if event in dashboard.events]
        for _ in range(30):
            await churn.step()
        await dashboard.update()
        assert dashboard.shown() == (await fresh(dashboard)).shown()
        numbers = [int(event["id"]) for event in dashboard.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[-1] == stored_events.last_id(churn.live.store.reader)

    async def restarted() -> None:
        live = await LiveController.open(tmp_path / "gpuq.db")
        site = a_site(live, tmp_path)
        try:
            churn = Churn(live, 2)
            await churn.add_machine()  # it was there before: only its agent is new
            dashboard = Dashboard(site, ANN)
            await dashboard.load()
            await second(churn, dashboard)
        finally:
            site.follow.close()
            await live.close()

    play(tmp_path, first)
    asyncio.run(restarted())


def test_jobs_leave_the_list_a_day_after_their_end(tmp_path: Path) -> None:
    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        ids = [(await churn.do(Submit(ANN, Submission(command=("true",), array="0-2", hold=True))))["id"] for _ in "ab"]
        await churn.do(Cancel(ANN, Selection(ids=(JobId(ids[0]),))))
        churn.live.board.forget_ended(time.time() + board_module.ENDED_SECONDS - 60)
        await dashboard.update()
        assert set(dashboard.rows) == set(ids)
        assert dashboard.counts == {"QUEUED": 3, "CANCELED": 3}
        churn.live.board.forget_ended(time.time() + board_module.ENDED_SECONDS + 60)
        await dashboard.update()
        assert set(dashboard.rows) == {ids[1]}
        assert dashboard.gone == {ids[0]}
        assert dashboard.counts == {"QUEUED": 3}

    play(tmp_path, scene)


def test_an_element_touches_the_row_of_its_array(tmp_path: Path) -> None:
    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        id = (await churn.do(Submit(ANN, Submission(command=("true",), array="0-2", hold=True))))["id"]
        await dashboard.update()
        await churn.do(Cancel(ANN, Selection(ids=(JobId(f"{id}_1"),))))
        body = parsed(await changes(dashboard.call, life=dashboard.life, after=dashboard.at))
        (row,) = (dict(zip(body["jobs"]["fields"], row, strict=True)) for row in body["jobs"]["rows"])
        assert (row["id"], row["elements"]) == (id, {"size": 3, "counts": {"QUEUED": 2, "CANCELED": 1}})

    play(tmp_path, scene)


def test_a_held_poll_answers_when_something_moves_and_with_samples_after_a_second(tmp_path: Path) -> None:
    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        await dashboard.update()

        def poll(wait: float) -> asyncio.Task[dict[str, Any]]:
            async def ask() -> dict[str, Any]:
                return parsed(await changes(dashboard.call, life=dashboard.life, after=dashboard.at, wait=wait))

            return asyncio.ensure_future(ask())

        held = poll(20)
        id = (await churn.do(Submit(ANN, Submission(command=("true",), hold=True))))["id"]
        assert [row[0] for row in (await asyncio.wait_for(held, DEADLINE))["jobs"]["rows"]] == [id]
        await dashboard.update()

        held, started = poll(20), time.monotonic()
        await churn.machines[0].sync()
        body = await asyncio.wait_for(held, DEADLINE)
        assert 0.9 < time.monotonic() - started < DEADLINE
        assert [sample[0] for sample in body["samples"]] == ["n1"]
        assert body["jobs"]["rows"] == body["nodes"] == []

        await dashboard.update()
        assert (await asyncio.wait_for(poll(0.05), DEADLINE))["at"] == dashboard.at

    play(tmp_path, scene)


def test_what_a_full_disk_undid_is_not_shown_on(tmp_path: Path) -> None:
    async def scene(churn: Churn, dashboard: Dashboard) -> None:
        for _ in range(40):
            await churn.step()
        await dashboard.update()
        disk = churn.live.store.write_connection
        disk.execute("PRAGMA max_page_count = 1")  # which is taken for: no more than there are
        for _ in range(300):
            await churn.step()
        await dashboard.update()
        assert dashboard.resets == 1
        assert dashboard.shown() == (await fresh(dashboard)).shown()
        assert dashboard.counts == dashboard.counted()

        disk.execute("PRAGMA max_page_count = 1000000")
        deadline = time.monotonic() + DEADLINE
        while not await churn.do(Submit(ANN, Submission(command=("true",)))):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        for _ in range(40):
            await churn.step()
        await dashboard.update()
        assert dashboard.resets == 1
        assert dashboard.shown() == (await fresh(dashboard)).shown()
        numbers = [int(event["id"]) for event in dashboard.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    play(tmp_path, scene)


# ---------------------------------------------------------------- over the wire


def test_others_see_neither_texts_nor_causes_of_what_is_not_theirs(running: Running) -> None:
    start = {user: running.get("/snapshot?limit=1", user) for user in ("ann", "bob", "root")}
    id = running.submit("ann", name="shown-to-all", hold=True)
    running.ask("POST", "/jobs/cancel", "ann", {"ids": [id]})
    for user, owner in (("ann", True), ("root", True), ("bob", False)):
        body = running.get(f"/changes?life={start[user]['life']}&after={start[user]['at']}", user)
        (row,) = (dict(zip(body["jobs"]["fields"], row, strict=True)) for row in body["jobs"]["rows"] if row[0] == id)
        assert (row["name"], row["state"], row["cause"]["code"]) == ("shown-to-all", "CANCELED", "canceled")
        assert (row["cause"]["text"] != "canceled") is owner
        texts = {event["text"] for event in body["events"] if event["job"] == id}
        assert (texts != {""}) is owner


def test_a_poll_over_the_wire_is_held_and_answered(running: Running, new_node: Callable[[], Agent]) -> None:
    agent = new_node()
    start = running.get("/snapshot")
    id = running.submit("ann", only_nodes=[agent.name], gpus=2)
    uid = agent.run(id)
    body = running.get(f"/changes?life={start['life']}&after={start['at']}&wait=20")
    rows = {row[0]: dict(zip(body["jobs"]["fields"], row, strict=True)) for row in body["jobs"]["rows"]}
    assert rows[id]["state"] == "RUNNING"
    (node,) = (node for node in body["nodes"] if node["name"] == agent.name)
    assert [gpu["jobs"] for gpu in node["gpus"]] == [[id], [id], [], []]
    assert uid


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?life=x&after=-1", "after"),
        ("?life=x&after=soon", "after"),
        ("?life=x&after=1&wait=-1", "wait"),
        ("?life=x&after=1&until=2", "there is no parameter 'until'"),
    ],
)
def test_a_malformed_poll_is_refused_in_one_line(running: Running, query: str, said: str) -> None:
    assert said in running.ask("GET", f"/changes{query}").refused(400)
