"""What people try who should not get in, or not that far: an old token, another's, a wrong name, a server of theirs."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gpuq import codec
from gpuq.api.app import describe
from gpuq.api.auth import MAY
from gpuq.client.aio import AgentClient
from gpuq.client.http import Client, fetch_ca
from gpuq.client.tls import Impostor, fingerprint_in
from gpuq.errors import Unreachable
from gpuq.model import AttemptUid, EndReason, ExitRecord, JobId, RankPhase
from gpuq.protocol import API_PREFIX, LogChunk, LogShipment, RankReport, SyncRequest
from tests.api.server import Agent, Running, start
from tests.client.scripted import Request, ScriptedController, answer

SECRET = "hunter2-planted"


@dataclass(frozen=True)
class Operation:
    """One route as the OpenAPI document has it. role: the least that may call it."""

    method: str
    path: str
    role: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def at(self, value: str = "1") -> str:
        return re.sub(r"{\w+}", value, self.path)


OPERATIONS = [
    Operation(method.upper(), path.removeprefix(API_PREFIX), operation["x-least-role"])
    for path, methods in describe()["paths"].items()
    for method, operation in methods.items()
]
CLOSED = [operation for operation in OPERATIONS if operation.role != "open"]
NAMED = [operation for operation in CLOSED if "{" in operation.path]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    controller = start(tmp_path_factory.mktemp("home") / "controller")
    yield controller
    assert controller.stop() == 0


@pytest.fixture(scope="module")
def strangers(running: Running) -> dict[str, str]:
    """Tokens that are good for nothing: revoked, expired, of a user who was disabled, of a node that was removed."""
    made = {}
    for name, asked in (("revoked", {}), ("expired", {"expires_seconds": 1}), ("disabled", {"user": "leaver"})):
        if name == "disabled":
            running.ask("POST", "/users", "root", {"name": "leaver", "role": "admin"})
        answer = running.ask("POST", "/tokens", "root", asked)
        assert answer.status == 201, answer.body
        made[name] = answer.json["token"]
        if name == "revoked":
            running.ask("POST", f"/tokens/{answer.json['id']}/revoke", "root", {})
    running.ask("POST", "/users/leaver/disable", "root", {})
    made["removed"] = Agent(running, "removed").token
    running.ask("POST", "/nodes/removed/remove", "root", {})
    made["forged"] = running.tokens["root"].replace("gpuq_admin_", "gpuq_admin_x")
    made["raised"] = running.tokens["eve"].replace("viewer", "admin")
    deadline = time.monotonic() + 20
    while running.ask("GET", "/whoami", made["expired"]).status != 401:
        assert time.monotonic() < deadline
    return made


@pytest.mark.parametrize("which", ["revoked", "expired", "disabled", "removed", "forged", "raised"])
def test_a_token_that_is_not_good_opens_no_route_at_all(
    running: Running, strangers: dict[str, str], which: str
) -> None:
    """429 once it was tried too often: that says even less."""
    for operation in CLOSED:
        answered = running.ask(operation.method, operation.at(), strangers[which], {})
        assert answered.status in (401, 429), operation
        assert SECRET not in answered.refused(answered.status)


@pytest.mark.parametrize("operation", CLOSED, ids=str)
def test_a_viewer_gets_into_nothing_that_is_not_a_viewers(running: Running, operation: Operation) -> None:
    if operation.path == "/events/stream":
        return  # a viewer's, and without end
    status = running.ask(operation.method, operation.at("999999"), "eve", {}).status
    assert (status == 403) == ("viewer" not in MAY[operation.role])


# ---------------------------------------------------------------- nodes


def test_a_nodes_token_reports_for_no_other_node(running: Running) -> None:
    mine, other = Agent(running, "mine"), Agent(running, "others")
    other.sync()
    job = running.submit("ann", only_nodes=["others"])
    order = other.order_for(job)
    stolen = other.request(sequence=10_000, holds=(), inventory=None)
    body = json.dumps(codec.encode(stolen)).encode()
    assert "the token is node mine's, the report is of others" in mine.post("/agent/sync", body).refused(403)
    said = mine.ship((order.uid, 0, 0, b"not what it wrote"))
    assert said.status == 404
    assert running.ask("GET", f"/jobs/{job}/log", "ann").body == b""
    assert running.get(f"/jobs/{job}")["nodes"][0]["node"] == "others"


@pytest.mark.parametrize("forge", ["another job", "another command", "another user"])
def test_a_node_puts_no_order_on_record_that_it_was_not_given(running: Running, forge: str) -> None:
    """Such a job would be run by other nodes next, as the user it names."""
    agent = Agent(running, f"forger-{forge.replace(' ', '-')}")
    agent.sync()
    given = agent.order_for(running.submit("bob", only_nodes=[agent.name]))
    job, spec = given.job, given.spec
    if forge == "another job":
        job = replace(job, id=JobId("777777"), number=777_777)
    elif forge == "another user":
        job = replace(job, user="ann")
    else:
        spec = replace(spec, command=("sh", "-c", SECRET))
    order = replace(given, uid=AttemptUid("ab" * 10), job=replace(job, attempt=2), spec=spec, number=2)
    agent.reports[order.uid] = RankReport(order.uid, 0, RankPhase.RUNNING, started_at=time.time(), order=order)
    agent.sync()
    assert [node["gpus"] for node in running.get(f"/jobs/{given.job.id}")["nodes"]] == [[]]
    assert running.get(f"/jobs/{given.job.id}")["attempt"] == 1
    assert running.get(f"/jobs/{given.job.id}")["user"] == "bob"
    assert running.ask("GET", "/jobs/777777").status == 404


def test_a_node_makes_no_job_larger_than_a_few_lines_by_what_it_says_of_its_end(running: Running) -> None:
    """It would be in every dashboard of its owner and of all administrators."""
    agent = Agent(running, "talker")
    agent.sync()
    job = running.submit("ann", only_nodes=["talker"])
    text = "long story " * 100_000
    agent.end(agent.run(job), ExitRecord(EndReason.LAUNCH_FAILED, time.time(), text=text))
    shown = running.ask("GET", f"/jobs/{job}")
    assert shown.json["cause"]["text"].startswith("long story ")
    assert len(shown.body) < 10_000
    assert len(running.ask("GET", f"/events?job={job}").body) < 10_000


def test_an_order_that_is_not_on_record_any_more_is_known_again_by_its_seal(running: Running, tmp_path: Path) -> None:
    """As after a restore: the home is another's, but for its CA and the node."""
    agent = Agent(running, "remembers")
    agent.sync()
    before = tmp_path / "before"
    copied(running.home, before)
    order = agent.order_for(running.submit("ann", only_nodes=["remembers"]))
    restored = start(before, running.tokens)
    try:
        elsewhere = replace(order, job=replace(order.job, user="bob"))
        for told, status in ((elsewhere, 404), (order, 200)):
            word = RankReport(order.uid, 0, RankPhase.RUNNING, started_at=time.time(), order=told)
            agent.running, agent.reports = restored, {order.uid: word}
            agent.sync()
            assert restored.ask("GET", f"/jobs/{order.job.id}").status == status
        assert restored.get(f"/jobs/{order.job.id}")["user"] == "ann"
    finally:
        assert restored.stop() == 0


def copied(home: Path, to: Path) -> None:
    """What a backup of a controller's home would hold."""
    to.mkdir(mode=0o700)
    for file in ("ca.pem", "ca.key", "server.pem", "server.key"):
        shutil.copy(home / file, to)
    source, copy = sqlite3.connect(home / "gpuq.db"), sqlite3.connect(to / "gpuq.db")
    with closing(source), closing(copy):
        source.backup(copy)


def test_a_join_takes_no_name_that_exists_nor_the_identity_behind_it(running: Running) -> None:
    victim = Agent(running, "victim")
    join = running.ask("POST", "/tokens", "root", {"role": "join"}).json["token"]
    refused = running.ask("POST", "/join", join, {"name": "victim"}).refused(409)
    assert "victim exists already" in refused
    assert victim.token not in refused
    victim.sync()


def test_a_shipped_log_is_written_nowhere_but_where_logs_are(running: Running) -> None:
    agent = Agent(running, "shipper")
    before = set(running.home.parent.rglob("*"))
    for uid in ("../../outside", "/etc/passwd", "..", "a/b", "a\0b", "~"):
        line = json.dumps(codec.encode(LogShipment((LogChunk(AttemptUid(uid), 0, 0, 4),)))).encode()
        assert agent.post("/agent/logs", line + b"\nboom").status in (400, 404)
    assert set(running.home.parent.rglob("*")) - before <= {running.home / "gpuq.db-wal"}


# ---------------------------------------------------------------- names


TRAVERSALS = ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%2f..%2fb", "%00", "a%0d%0aset-cookie:x", "%ff", "'--", "*"]


@pytest.mark.parametrize("operation", NAMED, ids=str)
def test_no_name_in_a_path_leads_anywhere_else(running: Running, operation: Operation) -> None:
    for name in TRAVERSALS:
        answered = running.ask(operation.method, operation.at(name), "root", {})
        assert answered.status in (400, 403, 404), (name, answered.body)
        answered.refused(answered.status)
        assert "set-cookie" not in answered.headers


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "..", ".", "-rf", "a b", "a\nb", "a\0b", "ü", "", "x" * 129])
@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("/nodes", "name", {}),
        ("/users", "name", {}),
        ("/tokens", "user", {}),
        ("/tokens", "node", {"role": "node"}),
        ("/users/ann/disable", "give_jobs_to", {}),
        ("/jobs", "queue", {"command": ["true"]}),
    ],
)
def test_no_name_in_a_body_is_more_than_a_word(
    running: Running, path: str, field: str, more: dict[str, Any], name: str
) -> None:
    answered = running.ask("POST", path, "root", {**more, field: name})
    assert field in answered.refused(400)


# ---------------------------------------------------------------- what belongs to others


@pytest.fixture(scope="module")
def private_job(running: Running) -> str:
    """A job of ann's that has run: its command, script, folder, variables and log hold the secret."""
    agent = Agent(running, "runner")
    agent.sync()
    job = running.submit(
        "ann",
        name="in-the-open",
        command=[SECRET],
        cwd=f"/{SECRET}",
        script=f"#!/bin/sh\n{SECRET}\n",
        environment={"PASSWORD": SECRET},
        changes={"TOKEN": SECRET},
        comment=SECRET,
        setup=[SECRET],
        only_nodes=["runner"],
    )
    uid = agent.run(job)
    agent.shipped((uid, 0, 0, f"{SECRET}\n".encode()))
    return job


@pytest.mark.parametrize("user", ["bob", "eve"])
def test_no_route_shows_others_what_a_job_runs_or_writes(running: Running, private_job: str, user: str) -> None:
    assert SECRET in running.ask("GET", f"/jobs/{private_job}/log", "ann").body.decode()
    seen = 0
    for operation in CLOSED:
        if operation.method != "GET" or operation.path == "/events/stream":
            continue
        query = "?text=hunter" if operation.path.endswith("search") else ""
        for path in (operation.at(private_job) + query, operation.at("runner") + query):
            answered = running.ask("GET", path, user)
            assert SECRET not in answered.body.decode("utf-8", "replace"), path
            seen += answered.status == 200
    assert seen >= 8


def test_variables_are_shown_to_their_owner_alone(running: Running, private_job: str) -> None:
    running.ask("GET", f"/jobs/{private_job}/environment", "root").refused(403)
    assert running.get(f"/jobs/{private_job}/environment", "ann")["environment"] == {"PASSWORD": SECRET}


# ---------------------------------------------------------------- a server in between


@pytest.fixture
def between(running: Running, tmp_path: Path) -> Iterator[ScriptedController]:
    """A server of another CA that passes the real CA on to whoever asks, and would answer anything else."""
    real = (running.home / "ca.pem").read_bytes()

    def reply(request: Request) -> bytes:
        return answer(real) if request.target == f"{API_PREFIX}/ca" else answer({"user": "root", "role": "admin"})

    (tmp_path / "theirs").mkdir()
    server = ScriptedController(tmp_path / "theirs", reply)
    yield server
    server.close()


def test_a_server_in_between_never_hears_a_persons_token(running: Running, between: ScriptedController) -> None:
    token = running.tokens["ann"]
    ca_pem = fetch_ca(between.url, fingerprint_in(token))  # the real one, through them
    with pytest.raises(Impostor, match="is not the controller this token is for"):
        Client(between.url, token, ca_pem).get("/whoami")
    assert {request.target for request in between.requests} == {f"{API_PREFIX}/ca"}
    assert not any("authorization" in request.headers for request in between.requests)


def test_a_server_in_between_never_hears_a_nodes_token(running: Running, between: ScriptedController) -> None:
    agent = Agent(running, "careful")

    async def sync() -> None:
        client = AgentClient(between.url, agent.token, (running.home / "ca.pem").read_text())
        try:
            request: SyncRequest = agent.request()
            await client.sync(request)
        finally:
            await client.close()

    with pytest.raises(Unreachable):
        asyncio.run(sync())
    assert between.requests == []


def test_a_server_that_shows_a_ca_of_its_own_is_found_out(running: Running, tmp_path: Path) -> None:
    theirs: list[ScriptedController] = []
    server = ScriptedController(tmp_path, lambda request: answer(theirs[0].ca_pem.encode()))
    theirs.append(server)
    try:
        with pytest.raises(Impostor, match="its CA is another"):
            fetch_ca(server.url, fingerprint_in(running.tokens["ann"]))
    finally:
        server.close()
    assert not any("authorization" in request.headers for request in server.requests)
