"""Streams as the wire has them: opened by one, joined by one node, carried by requests that may come twice."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gpuq.protocol import API_PREFIX, MAX_STREAM_COMMAND_BYTES, STREAM_WINDOW, StreamKind, StreamOrder
from tests.api.server import Agent, Answer, Running, until

NewNode = Callable[[], Agent]


@dataclass
class Both:
    """A stream of ann's, and the agent of its job's node."""

    running: Running
    agent: Agent
    job: str
    uid: str
    id: str
    body: dict[str, Any]

    def client(self, method: str, user: str = "ann", raw: bytes | None = None, **query: Any) -> Answer:
        return self.running.ask(method, _path(f"/streams/{self.id}", query), user, raw=raw, request_id=None)

    def node(self, method: str, agent: Agent | None = None, raw: bytes | None = None, **query: Any) -> Answer:
        token = (agent or self.agent).token
        return self.running.ask(method, _path(f"/agent/streams/{self.id}", query), token, raw=raw, request_id=None)

    def told(self) -> StreamOrder | None:
        return next((order for order in self.agent.sync().streams if order.id == self.id), None)


def _path(path: str, query: dict[str, Any]) -> str:
    return path + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else "")


@pytest.fixture
def both(running: Running, new_node: NewNode) -> Both:
    agent = new_node()
    job = running.submit(only_nodes=[agent.name])
    uid = agent.run(job)
    body = {"kind": "shell", "command": ["cat"], "pty": "24x80", "term": "xterm-256color"}
    made = Both(running, agent, job, uid, secrets.token_hex(16), body)
    answer = running.ask("POST", f"/jobs/{job}/streams", "ann", body, request_id=made.id)
    assert answer.status == 201, answer.body
    assert answer.json == {"id": made.id, "job": job, "attempt": 1, "uid": uid, "rank": 0, "node": agent.name}
    return made


def test_the_agent_is_told_what_to_open_until_it_asks(both: Both) -> None:
    order = both.told()
    assert order is not None
    assert (order.uid, order.rank, order.aim.kind) == (both.uid, 0, StreamKind.SHELL)
    assert (order.aim.command, order.aim.pty, order.aim.term) == (("cat",), "24x80", "xterm-256color")
    assert both.told() == order
    assert both.node("GET", offset=0).status == 200
    assert both.told() is None
    assert order in both.agent.sync(incarnation=2).streams, "another agent knows of none"


def test_bytes_go_both_ways_by_offset(both: Both) -> None:
    assert both.client("GET", offset=0).body == b""
    assert both.node("POST", offset=0, raw=b"from the job").json == {"taken": 12, "acked": 0}
    assert both.node("POST", offset=0, raw=b"from the job").json == {"taken": 12, "acked": 0}, "a repeated one"
    assert both.client("GET", offset=0, limit=4).body == b"from"
    assert both.client("GET", offset=4).body == b" the job"
    assert both.client("GET", offset=4).body == b" the job", "whose answer was lost"
    assert both.node("POST", offset=12, raw=b"").json == {"taken": 12, "acked": 4}
    assert both.client("POST", offset=0, raw=b"to the job").json == {"taken": None, "acked": None}
    assert both.node("GET", offset=0).body == b""
    assert both.client("POST", offset=0, raw=b"to the job").json == {"taken": 10, "acked": 0}
    assert both.node("GET", offset=0).body == b"to the job"


def test_who_waits_is_answered_when_there_is_something(both: Both) -> None:
    both.node("GET", offset=0)
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(both.node("GET", offset=0, wait=5).body))
    waiting.start()
    assert both.client("POST", offset=0, raw=b"key").json["taken"] == 3
    waiting.join(20)
    assert got == [b"key"]
    full = both.client("POST", offset=3, raw=bytes(STREAM_WINDOW - 3)).json
    assert full == {"taken": STREAM_WINDOW, "acked": 0}
    said: list[Any] = []
    waiting = threading.Thread(
        target=lambda: said.append(both.client("POST", offset=STREAM_WINDOW, acked=0, wait=5, raw=b"x").json)
    )
    waiting.start()
    assert len(both.node("GET", offset=1000).body) == STREAM_WINDOW - 1000
    waiting.join(20)
    assert said == [{"taken": STREAM_WINDOW + 1, "acked": 1000}]


def test_a_row_is_bounded_and_a_larger_body_refused(both: Both) -> None:
    both.node("GET", offset=0)
    assert "larger than" in both.client("POST", offset=0, raw=bytes(STREAM_WINDOW + 1)).refused(400)
    for _ in range(2):
        assert both.client("POST", offset=0, raw=bytes(STREAM_WINDOW)).json["taken"] == STREAM_WINDOW
    assert both.client("POST", offset=STREAM_WINDOW, raw=b"more").json["taken"] == STREAM_WINDOW


def test_nobody_else_has_any_part_in_it(both: Both, new_node: NewNode) -> None:
    for user in ("bob", "root"):
        for method in ("GET", "POST", "DELETE"):
            query = {} if method == "DELETE" else {"offset": 0}
            assert "there is no such stream" in both.client(method, user, raw=b"", **query).refused(404)
    both.client("GET", "ann-views", offset=0).refused(403)
    stranger = new_node()
    assert "there is no such stream" in both.node("GET", stranger, offset=0).refused(404)
    both.node("DELETE", stranger, text="hello").refused(404)
    assert stranger.sync().streams == ()
    again = both.running.ask("POST", f"/jobs/{both.job}/streams", "bob", both.body, request_id=both.id)
    assert "for its owner ann only" in again.refused(403)


def test_asked_for_again_it_is_the_same_and_in_another_way_refused(both: Both) -> None:
    path = f"/jobs/{both.job}/streams"
    events = _kinds(both)
    assert both.running.ask("POST", path, "ann", both.body, request_id=both.id).status == 201
    assert _kinds(both) == events
    other = both.running.ask("POST", path, "ann", {"kind": "shell"}, request_id=both.id)
    assert "was used for another request" in other.refused(409)


def test_bytes_that_wait_for_room_go_no_further_once_their_token_is_revoked(both: Both) -> None:
    both.node("GET", offset=0)
    both.client("POST", offset=0, raw=bytes(STREAM_WINDOW))
    made = both.running.ask("POST", "/tokens", "root", {"user": "ann"}).json
    connection = both.running.connect()
    try:
        path = API_PREFIX + _path(f"/streams/{both.id}", {"offset": STREAM_WINDOW, "wait": 5})
        connection.request("POST", path, b"rm -rf /\n", {"authorization": f"Bearer {made['token']}"})
        assert both.running.ask("POST", f"/tokens/{made['id']}/revoke", "root", {}).status == 200
        both.node("GET", offset=STREAM_WINDOW)  # there is room now
        assert connection.getresponse().status == 401
        assert both.node("GET", offset=STREAM_WINDOW).body == b""
    finally:
        connection.close()


def _kinds(both: Both) -> list[str]:
    return [event["kind"] for event in both.running.get(f"/events?job={both.job}")["items"]]


def test_only_looking_whether_it_may_be_leaves_nothing(both: Both) -> None:
    events = _kinds(both)
    path = f"/jobs/{both.job}/streams?dry_run=1"
    assert both.running.ask("POST", path, "ann", {"kind": "port", "port": 80}).status == 200
    both.running.ask("POST", path, "bob", {"kind": "port", "port": 80}).refused(403)
    assert _kinds(both) == events
    assert [order.id for order in both.agent.sync().streams] == [both.id]


def test_who_closes_it_ends_it_for_the_agent_and_who_cannot_open_it_says_why(both: Both) -> None:
    both.node("GET", offset=0)
    waiting: list[Answer] = []
    thread = threading.Thread(target=lambda: waiting.append(both.node("GET", offset=0, wait=5)))
    thread.start()
    until(thread.is_alive)
    assert both.client("DELETE").status == 200
    thread.join(20)
    assert "the stream was closed" in waiting[0].refused(409)
    both.node("POST", offset=0, raw=b"late").refused(409)


def test_what_the_node_says_is_the_users_answer(both: Both) -> None:
    assert both.node("DELETE", text="nothing%20listens%20there").status == 200
    assert "nothing listens there" in both.client("GET", offset=0).refused(409)
    assert "nothing listens there" in both.client("POST", offset=0, raw=b"x").refused(409)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "kind"),
        ({"kind": "else"}, "kind"),
        ({"kind": "port"}, "port: is for kind port, and needed there"),
        ({"kind": "shell", "port": 80}, "port: is for kind port"),
        ({"kind": "port", "port": 0}, "port"),
        ({"kind": "port", "port": 80, "command": ["x"]}, "command and pty are for kind shell"),
        ({"kind": "terminal", "pty": "24x80"}, "command and pty are for kind shell"),
        ({"kind": "shell", "pty": "24"}, "is not rows and columns"),
        ({"kind": "shell", "term": "a b"}, "is not the name of a terminal"),
        ({"kind": "shell", "command": ["x" * (MAX_STREAM_COMMAND_BYTES + 1)]}, "longer than"),
        ({"kind": "shell", "command": ["a\0b"]}, "NUL"),
        ({"kind": "shell", "more": 1}, "more"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_cannot_be_meant_is_refused_in_a_line(both: Both, body: dict[str, Any], said: str) -> None:
    assert said in both.running.ask("POST", f"/jobs/{both.job}/streams", "ann", body).refused(400)


def test_one_person_has_32_at_most_and_the_controller_answers_others(both: Both) -> None:
    path, body = f"/jobs/{both.job}/streams", {"kind": "port", "port": 80}
    ids = [both.id]
    while True:
        id = secrets.token_hex(16)
        answer = both.running.ask("POST", path, "ann", body, request_id=id)
        if answer.status == 409:
            break
        ids.append(id)
        assert len(ids) <= 32
    assert "which is the most: close one first" in answer.refused(409)
    began = time.monotonic()
    assert both.running.ask("GET", "/version", None).status == 200
    assert time.monotonic() - began < 5
    for id in ids:
        assert both.running.ask("DELETE", f"/streams/{id}", "ann", request_id=None).status == 200
    assert both.running.ask("POST", path, "ann", body).status == 201
