"""Rights that are taken away while a request is on its way: what is under way ends as what comes after."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gpuq import codec
from gpuq.api import serve as serving
from gpuq.api.app import make_app
from gpuq.api.auth import new_token
from gpuq.api.calls import Site
from gpuq.api.certificates import ensure_certificates
from gpuq.api.follow import Check, Follow
from gpuq.model import NodeName
from gpuq.node import Inventory
from gpuq.protocol import API_PREFIX, PROTOCOL, REQUEST_ID_HEADER, Submission, SyncReply, SyncRequest
from gpuq.service.commands import (
    Actor,
    AddUser,
    ChangeSettings,
    DisableUser,
    EnrolNode,
    SetRole,
    StoreToken,
    Submit,
    UserCommand,
)
from gpuq.service.live import LiveController
from gpuq.settings import ClusterSettings, Settings, Visibility
from gpuq.store.logfiles import Log
from tests.api.server import DEADLINE, Answer, Running, start

ROOT = Actor("root", "admin")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    controller = start(tmp_path_factory.mktemp("home") / "controller")
    yield controller
    assert controller.stop() == 0


@pytest.fixture
def leaver(running: Running) -> tuple[str, str]:
    """A new administrator's name and token."""
    name = f"u{secrets.token_hex(4)}"
    assert running.ask("POST", "/users", "root", {"name": name, "role": "admin"}).status == 201
    return name, str(running.ask("POST", "/tokens", "root", {"user": name}).json["token"])


def disable(running: Running, name: str) -> None:
    assert running.ask("POST", f"/users/{name}/disable", "root", {"cancel_jobs": True}).status == 200


def lower(running: Running, name: str) -> None:
    assert running.ask("POST", f"/users/{name}/role", "root", {"role": "viewer"}).status == 200


@contextmanager
def half_sent(running: Running, token: str, path: str, body: Any) -> Iterator[http.client.HTTPConnection]:
    """A POST of which all is there but the last byte, which a '}' will be; the controller waits for it."""
    content = json.dumps(body).encode()
    connection = running.connect()
    try:
        connection.putrequest("POST", API_PREFIX + path)
        connection.putheader("authorization", f"Bearer {token}")
        connection.putheader(REQUEST_ID_HEADER, f"slow-{secrets.token_hex(8)}")
        connection.putheader("content-length", str(len(content)))
        connection.putheader("expect", "100-continue")
        connection.endheaders()
        # It asks for the body once it has let the caller in: what happens from here on happens in between.
        assert connection.sock.recv(64).startswith(b"HTTP/1.1 100 Continue")
        connection.send(content[:-1])
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "body"), [("/jobs", {"command": ["id"]}), ("/tokens", {"role": "admin"}), ("/users", {"name": "another"})]
)
@pytest.mark.parametrize(("withdraw", "status"), [(disable, 401), (lower, 403)])
def test_a_request_that_is_still_being_sent_does_nothing_any_more(
    running: Running,
    leaver: tuple[str, str],
    path: str,
    body: Any,
    withdraw: Callable[[Running, str], None],
    status: int,
) -> None:
    name, token = leaver
    before = running.get("/jobs?all=true")["items"], running.get("/tokens")["items"], running.get("/users")["items"]
    with half_sent(running, token, path, body) as connection:
        withdraw(running, name)
        connection.send(b"}")
        answered = connection.getresponse()
        Answer(answered.status, {}, answered.read()).refused(status)
    now = running.get("/jobs?all=true")["items"], running.get("/tokens")["items"], running.get("/users")["items"]
    assert len(now[0]) == len(before[0])
    assert {token["id"] for token in now[1]} <= {token["id"] for token in before[1]}
    assert len(now[2]) == len(before[2])


@pytest.mark.parametrize("withdraw", [disable, lower])
def test_a_stream_of_events_ends_before_it_tells_of_anything_later(
    running: Running, leaver: tuple[str, str], withdraw: Callable[[Running, str], None]
) -> None:
    name, token = leaver
    connection = running.connect()
    try:
        connection.request("GET", f"{API_PREFIX}/events/stream?after=0", headers={"authorization": f"Bearer {token}"})
        stream = connection.getresponse()
        assert stream.readline()
        withdraw(running, name)
        job = running.submit("ann", name="told-to-others-only")
        told = stream.read()
    finally:
        connection.close()
    assert f'"job":"{job}"'.encode() not in told


# ---------------------------------------------------------------- polls, without a server around them


class Watched(Follow):
    """Says when somebody waits."""

    def __init__(self, live: LiveController) -> None:
        super().__init__(live.changed, lambda: live.durable)
        self.entered = asyncio.Event()

    async def until(self, check: Check, seconds: float, log: Log | None = None) -> None:
        self.entered.set()
        await super().until(check, seconds, log)


@dataclass
class Inside:
    """A controller's application, called in its own loop, with a token of ann's, who is an administrator."""

    live: LiveController
    site: Site
    follow: Watched
    token: str

    async def ask(self, method: str, target: str, token: str, body: bytes = b"") -> Answer:
        """What is answered to one request on a connection that stays open."""
        path, _, query = target.partition("?")
        scope = {"type": "http", "method": method, "path": API_PREFIX + path, "raw_path": path.encode(),
                 "query_string": query.encode(), "headers": [(b"authorization", f"Bearer {token}".encode())],
                 "http_version": "1.1", "scheme": "https", "root_path": "", "client": ("192.0.2.1", 1)}  # fmt: skip
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await make_app(self.site)(scope, receive, send)
        return Answer(sent[0]["status"], {}, b"".join(message.get("body", b"") for message in sent))


@asynccontextmanager
async def inside(home: Path) -> AsyncIterator[Inside]:
    home.mkdir(mode=0o700)
    files = ensure_certificates(home, time.time())
    live = await LiveController.open(home / "gpuq.db")
    follow = Watched(live)
    try:
        site = replace(serving._site(home, "https://x:1", live, files), follow=follow)
        await live.execute(AddUser(ROOT, "ann", "admin"), "add-ann-to-it")
        token, record = new_token("admin", "ann", site.ca_sha256, time.time())
        await live.execute(StoreToken(ROOT, record), "a-token-for-ann")
        yield Inside(live, site, follow, token)
    finally:
        follow.close()
        await live.close()


@pytest.mark.parametrize(
    "target",
    [
        "/jobs/1?wait=5&seen=QUEUED",
        "/jobs/1/log?wait=5",
        "/changes?wait=5&life={life}&after={at}",
        "/events?wait=5&after=1000000",
    ],
)
@pytest.mark.parametrize(
    ("withdraw", "status"), [(DisableUser(ROOT, "ann", cancel_jobs=True), 401), (SetRole(ROOT, "ann", "viewer"), 503)]
)
def test_a_poll_that_is_held_brings_no_news_any_more(
    tmp_path: Path, target: str, withdraw: UserCommand, status: int
) -> None:
    async def scenario() -> None:
        async with inside(tmp_path / "controller") as at:
            await at.live.execute(Submit(Actor("ann", "user"), Submission(command=("true",))), "a-job-to-look-at")
            where = target.format(life=at.live.life, at=at.live.board.at)
            poll = asyncio.create_task(at.ask("GET", where, at.token))
            await asyncio.wait_for(at.follow.entered.wait(), DEADLINE)
            await at.live.execute(withdraw, "rights-are-withdrawn")
            at.follow.close()  # all who wait are answered
            (await asyncio.wait_for(poll, DEADLINE)).refused(status)

    asyncio.run(scenario())


def test_a_poll_on_a_log_that_was_closed_to_others_meanwhile_brings_nothing_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with inside(tmp_path / "controller") as at:
            open_to_all = Settings(cluster=ClusterSettings(visibility=Visibility.OPEN))
            await at.live.execute(ChangeSettings(ROOT, open_to_all), "logs-are-open-to-all")
            await at.live.execute(AddUser(ROOT, "eve", "viewer"), "add-eve-to-it")
            token, record = new_token("viewer", "eve", at.site.ca_sha256, time.time())
            await at.live.execute(StoreToken(ROOT, record), "a-token-for-eve")
            await at.live.execute(Submit(Actor("ann", "user"), Submission(command=("true",))), "a-job-to-look-at")
            poll = asyncio.create_task(at.ask("GET", "/jobs/1/log?wait=5", token))
            await asyncio.wait_for(at.follow.entered.wait(), DEADLINE)
            await at.live.execute(ChangeSettings(ROOT, Settings()), "logs-are-private-again")
            at.follow.close()
            assert "for its owner ann and admins only" in (await asyncio.wait_for(poll, DEADLINE)).refused(403)

    asyncio.run(scenario())


def test_a_poll_with_a_nodes_token_that_was_replaced_brings_no_orders(tmp_path: Path) -> None:
    """Else whoever had found the lost token would get the environment of the next job."""

    async def scenario() -> None:
        async with inside(tmp_path / "controller") as at:
            ca, node = at.site.ca_sha256, NodeName("n1")
            lost, record = new_token("node", "root", ca, time.time(), node=node)
            await at.live.execute(EnrolNode(ROOT, node, record), "a-node-is-added")
            inventory = Inventory("n1", (), 8, 1 << 30, True, "0.1.0")
            asked = SyncRequest(PROTOCOL, node, "boot", 1, 1, inventory=inventory, inventory_hash="h", wait_seconds=5.0)
            thief = asyncio.create_task(at.ask("POST", "/agent/sync", lost, json.dumps(codec.encode(asked)).encode()))
            while at.live.last_seen(node) is None:
                await asyncio.sleep(0)
            _, another = new_token("node", "root", ca, time.time(), node=node)
            await at.live.execute(StoreToken(ROOT, another), "it-gets-another")
            submission = Submission(command=("true",), environment={"KEY": "hunter2"})
            await at.live.execute(Submit(Actor("ann", "user"), submission), "a-job-with-a-key")
            answered = await asyncio.wait_for(thief, DEADLINE)
            assert answered.status == 200
            assert codec.decode(SyncReply, answered.json).run == ()
            assert b"hunter2" not in answered.body

    asyncio.run(scenario())
