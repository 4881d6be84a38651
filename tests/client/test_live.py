"""The dashboard's client, against a real controller where that matters and a scripted one where it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from gpuq.client.live import LiveClient
from gpuq.errors import Conflict, NotAuthorised, NotFound, Unavailable, Unreachable
from tests.api.server import Agent, Running
from tests.api.server import start as start_real
from tests.client.conftest import Start
from tests.client.scripted import ScriptedController, answer

T = TypeVar("T")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    controller = start_real(tmp_path_factory.mktemp("home") / "controller")
    yield controller
    assert controller.stop() == 0


@pytest.fixture(scope="module")
def agent(real: Running) -> Agent:
    agent = Agent(real, "n1")
    agent.sync()
    return agent


def using(controller: Running | ScriptedController, use: Callable[[LiveClient], Awaitable[T]], user: str = "ann") -> T:
    async def run() -> T:
        if isinstance(controller, Running):
            ca_pem = (controller.home / "ca.pem").read_text()
            client = LiveClient(controller.url, controller.tokens[user], ca_pem)
        else:
            client = LiveClient(controller.url, controller.token, controller.ca_pem)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_a_change_wakes_the_poll_that_is_held_beside_it(real: Running) -> None:
    async def watch(client: LiveClient) -> tuple[dict[str, Any], str]:
        start = await client.snapshot(10)
        held = asyncio.ensure_future(client.changes(start["life"], start["at"], 20.0))
        reply = await client.post("/jobs", {"command": ["true"], "hold": True}, "live-0001")
        assert await client.post("/jobs", {"command": ["true"], "hold": True}, "live-0001") == reply
        return await held, reply["id"]

    changes, id = using(real, watch)
    assert [row[0] for row in changes["jobs"]["rows"]] == [id]


def test_pages_actions_and_reads_of_any_kind(real: Running) -> None:
    async def use(client: LiveClient) -> None:
        ids = [
            (await client.post("/jobs", {"script": "#!/bin/sh\n", "hold": True}, f"page-{n:04}"))["id"]
            for n in range(3)
        ]
        page = (await client.snapshot(1))["jobs"]
        found = []
        while page["next"] is not None:
            page = await client.snapshot_jobs(page["next"], 1)
            found += [row[0] for row in page["rows"]]
        assert found[:2] == [ids[1], ids[0]]
        assert await client.get(f"/jobs/{ids[0]}/script") == "#!/bin/sh\n"
        listed = await client.get("/jobs", {"ids": ",".join(ids), "fields": "id,reason"})
        assert listed["rows"][0] == [ids[0], {"code": "held", "text": "held by ann"}]
        dry = await client.post("/jobs", {"command": ["true"]}, "dry-00001", params={"dry_run": 1})
        assert set(dry) == {"starts_now", "nodes", "reason", "expected_start", "instead"}
        changed = await client.post(f"/jobs/{ids[0]}", {"name": "renamed"}, "name-0001", method="PATCH")
        assert changed["name"] == "renamed"
        assert client.latency_seconds is not None
        assert 0 < client.latency_seconds < 5

    using(real, use)


def test_logs_by_range_and_by_search(real: Running, agent: Agent) -> None:
    id = real.submit("ann")
    uid = agent.run(id)
    agent.shipped((uid, 0, 0, b"one\nTWO \xff\ntwo\n"))

    async def use(client: LiveClient) -> None:
        piece = await client.log_range(id, -4, 100)
        assert (piece.offset, piece.size, piece.data, piece.ended) == (10, 14, b"two\n", False)
        assert (piece.attempt, piece.rank, piece.ranks) == (1, 0, 1)
        found = await client.log_search(id, "two")
        assert (found.matches, found.next, found.size) == ([(4, "TWO \ufffd"), (10, "two")], None, 14)
        found = await client.log_search(id, "two", before=14, limit=1, ignore_case=False)
        assert found.matches == [(10, "two")]
        with pytest.raises(NotFound, match="no rank 3"):
            await client.log_range(id, 0, 1, rank=3)

    using(real, use)
    with pytest.raises(NotAuthorised):
        using(real, lambda client: client.log_range(id, 0, 1), "bob")


def test_refusals_come_back_as_what_they_were(real: Running) -> None:
    async def reuse(client: LiveClient) -> None:
        await client.post("/jobs", {"command": ["true"]}, "used-0001")
        await client.post("/jobs", {"command": ["false"]}, "used-0001")

    with pytest.raises(Conflict):
        using(real, reuse)
    with pytest.raises(NotAuthorised):
        using(real, lambda client: client.post("/jobs", {"command": ["true"]}, "view-0001"), "eve")


def test_requests_one_after_the_other_share_a_connection(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # must not be heeded
    controller = start(lambda _request: answer({}))

    async def twice(client: LiveClient) -> None:
        await client.get("/nodes")
        await client.get("/jobs", {"name": "a b&c", "user": None})

    using(controller, twice)
    assert [request.connection for request in controller.requests] == [0, 0]
    assert controller.requests[1].target == "/api/v1/jobs?name=a%20b%26c"
    assert controller.requests[0].headers["authorization"] == f"Bearer {controller.token}"


@pytest.mark.parametrize("garbage", [b"not http at all\r\n\r\n", answer(b"<html>"), answer([1]), None])
def test_an_answer_of_no_use_is_unavailable(start: Start, garbage: bytes | None) -> None:
    controller = start(lambda _request: garbage)
    for use in (lambda client: client.snapshot(1), lambda client: client.log_range("1", 0, 1)):
        with pytest.raises(Unavailable) as caught:
            using(controller, use)
        assert not isinstance(caught.value, Unreachable)


def test_a_controller_that_is_down_is_unreachable_at_once(start: Start) -> None:
    controller = start(lambda _request: None)
    controller.close_listener()
    started = time.monotonic()
    with pytest.raises(Unreachable, match="cannot reach the controller at"):
        using(controller, lambda client: client.snapshot(1))
    assert time.monotonic() - started < 5
