"""The agents' side: the exchange and shipped logs, through the real wire."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gpuq import codec
from gpuq.model import AttemptUid, EndReason, ExitRecord
from gpuq.protocol import MAX_HOLDS, MAX_LOG_POST_BYTES, LogChunk, LogShipment
from tests.api.server import DEADLINE, Agent, Running, until


@pytest.fixture(scope="module")
def agent(new_node: Callable[[], Agent]) -> Agent:
    return new_node()


@pytest.fixture
def uid(running: Running, agent: Agent) -> str:
    """An attempt that runs on the agent's node."""
    return agent.run(running.submit("ann", name="logged", only_nodes=[agent.name]))


def test_a_submitted_job_reaches_its_agent_and_its_state_the_user(running: Running, agent: Agent) -> None:
    id = running.submit("ann", command=["python", "x.py"], gpus=2, only_nodes=[agent.name])
    order = agent.order_for(id)
    assert order.spec.command == ("python", "x.py")
    assert running.get(f"/jobs/{id}")["state"] == "ALLOCATED"
    uid = agent.run(id)
    job = running.get(f"/jobs/{id}")
    assert (job["state"], job["nodes"]) == ("RUNNING", [{"node": agent.name, "gpus": list(order.ranks[0].gpus)}])
    (node,) = [node for node in running.get("/nodes")["items"] if node["name"] == agent.name]
    assert [gpu["index"] for gpu in node["gpus"] if id in gpu["jobs"]] == list(order.ranks[0].gpus)
    assert running.get("/cluster")["gpus"]["busy"] >= 2
    agent.end(uid, ExitRecord(EndReason.EXITED, time.time(), exit_code=0))
    assert until(lambda: running.get(f"/jobs/{id}")["state"] == "SUCCEEDED")


def test_a_held_exchange_is_answered_as_soon_as_there_is_an_order(running: Running, agent: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(agent.sync, wait_seconds=5.0)
        id = running.submit("ann", only_nodes=[agent.name])
        reply = held.result(DEADLINE)
    assert id in {order.job.id for order in reply.run}


def test_a_node_speaks_only_for_itself(running: Running, new_node: Callable[[], Agent]) -> None:
    one, other = new_node(), new_node()
    sent = json.dumps(codec.encode(one.request(node=other.name))).encode()
    assert f"node {one.name}" in one.post("/agent/sync", sent).refused(403)


def test_a_report_that_is_none_is_refused(agent: Agent) -> None:
    for sent in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"protocol": "1"}', b"{}"):
        agent.post("/agent/sync", sent).refused(400)


def test_a_report_larger_than_any_node_is_refused_in_one_line(agent: Agent) -> None:
    many = agent.request(holds=tuple(AttemptUid(f"{n:020x}") for n in range(MAX_HOLDS + 1)))
    assert "10,001 attempts" in agent.post("/agent/sync", json.dumps(codec.encode(many)).encode()).refused(400)
    gpus = (replace(agent.inventory.gpus[0], index=2**40),)
    odd = agent.request(inventory=replace(agent.inventory, gpus=gpus))
    assert "has the index 1099511627776" in agent.post("/agent/sync", json.dumps(codec.encode(odd)).encode()).refused(
        400
    )
    assert not agent.sync().superseded


def test_an_agent_of_another_protocol_is_told_so(agent: Agent) -> None:
    agent.post("/agent/sync", json.dumps(codec.encode(agent.request(protocol=2))).encode()).refused(426)


def test_shipped_bytes_are_acknowledged_and_readable(running: Running, agent: Agent, uid: str) -> None:
    assert agent.shipped((uid, 0, 0, b"one\n"), (uid, 0, 4, b"two\n")) == {(uid, 0): 8}
    id = agent.orders[uid].job.id  # type: ignore[index]
    answer = running.ask("GET", f"/jobs/{id}/log", "ann")
    assert answer.body == b"one\ntwo\n"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["gpuq-log-offset"] == "0"
    assert answer.headers["gpuq-log-size"] == "8"
    assert answer.headers["gpuq-log-attempt"] == "1"
    assert answer.headers["gpuq-job-state"] == "RUNNING"
    assert "gpuq-log-end" not in answer.headers
    detail = running.get(f"/jobs/{id}", "ann")
    assert detail["log_bytes"] == detail["attempts"][0]["log_bytes"] == 8


def test_late_and_repeated_pieces_get_the_true_size(agent: Agent, uid: str) -> None:
    assert agent.shipped((uid, 0, 5, b"late")) == {(uid, 0): 0}
    assert agent.shipped((uid, 0, 0, b"abc")) == {(uid, 0): 3}
    assert agent.shipped((uid, 0, 0, b"abcdef")) == {(uid, 0): 6}
    assert agent.shipped((uid, 0, 99, b"x")) == {(uid, 0): 6}


def test_logs_of_another_node_and_of_nobody_are_left_out(
    running: Running, agent: Agent, uid: str, new_node: Callable[[], Agent]
) -> None:
    stranger = new_node()
    other = stranger.run(running.submit("bob", only_nodes=[stranger.name]))
    unknown = "f" * 20
    acknowledged = agent.shipped(
        (other, 0, 0, b"forged"), (uid, 0, 0, b"true"), (unknown, 0, 0, b"?"), (uid, 1, 0, b"?")
    )
    assert acknowledged == {(uid, 0): 4}
    assert running.ask("GET", f"/jobs/{stranger.orders[other].job.id}/log", "bob").body == b""
    agent.ship((other, 0, 0, b"forged")).refused(404)
    agent.ship(("../../../etc/cron.d/x", 0, 0, b"forged")).refused(404)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"no line end",
        b"not json\nabc",
        b'{"chunks":[{"uid":"0123456789abcdef0123","rank":0,"offset":0,"length":9}]}\nshort',
        b'{"chunks":[{"uid":"0123456789abcdef0123","rank":0,"offset":0,"length":1}]}\nlong',
        b'{"chunks":[{"uid":"0123456789abcdef0123","rank":0,"offset":-1,"length":1}]}\nx',
        b'{"chunks":[{"uid":"0123456789abcdef0123","rank":0,"offset":0,"length":-1}]}\n',
        b'{"chunks":[{"uid":7,"rank":0,"offset":0,"length":1}]}\nx',
        b'{"chunks":[' + b",".join([b'{"uid":"a","rank":0,"offset":0,"length":0}'] * 10_001) + b"]}\n",
    ],
)
def test_a_broken_shipment_is_refused(agent: Agent, sent: bytes) -> None:
    agent.post("/agent/logs", sent).refused(400)


def test_a_full_shipment_is_taken(agent: Agent, uid: str) -> None:
    assert agent.shipped((uid, 0, 0, b"x" * MAX_LOG_POST_BYTES)) == {(uid, 0): MAX_LOG_POST_BYTES}


def test_enrolling_twice_with_one_request_gives_one_token_and_a_taken_name_is_refused(running: Running) -> None:
    answers = [running.ask("POST", "/nodes", "root", {"name": "twice"}, request_id="enrol-twice") for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert answers[0].status == 201
    assert running.ask("GET", "/whoami", answers[0].json["token"]).status == 403  # known, and only an agent's
    assert "twice" in running.ask("POST", "/nodes", "root", {"name": "twice"}).refused(409)
    for name in ("", "a/b", "..", "x" * 129, "a b"):
        running.ask("POST", "/nodes", "root", {"name": name}).refused(400)


def test_a_node_that_has_not_reported_shows_nulls_not_zeros(running: Running) -> None:
    running.ask("POST", "/nodes", "root", {"name": "silent"})
    node = running.get("/nodes/silent")
    assert (node["gpus"], node["cpus"], node["memory_total_bytes"], node["last_seen_at"]) == ([], None, None, None)
    assert node["state"] == "suspect"


def test_a_node_shows_what_its_agent_said(running: Running, agent: Agent) -> None:
    agent.sync()
    node = running.get(f"/nodes/{agent.name}")
    assert (node["state"], node["simulated"], node["cpus"], node["cpu_percent"]) == ("up", True, 32, 12.5)
    assert node["gpus"][0] | {"jobs": []} == {
        "index": 0,
        "uuid": f"GPU-{agent.name}-0",
        "name": "NVIDIA H100",
        "memory_total_bytes": 80 << 30,
        "memory_used_bytes": None,
        "utilization_percent": None,
        "temperature_c": None,
        "power_w": None,
        "health": "ok",
        "health_text": "",
        "foreign": None,
        "fault": False,
        **dict.fromkeys(("clock_mhz", "memory_clock_mhz", "throttled", "ecc_corrected", "ecc_uncorrected")),
        **dict.fromkeys(("rows_remapped", "remap_pending", "remap_failed", "xid")),
        "processes": [],
        "jobs": [],
    }


def test_cordon_drain_and_uncordon_answer_with_the_node(running: Running, agent: Agent) -> None:
    cordoned = running.ask("POST", f"/nodes/{agent.name}/cordon", "root", {"text": "fan"})
    assert (cordoned.json["cordoned"], cordoned.json["draining"]) == (True, False)
    assert "fan" in cordoned.json["cordon_text"]
    assert running.ask("POST", f"/nodes/{agent.name}/drain", "root").json["draining"] is True
    assert running.ask("POST", f"/nodes/{agent.name}/uncordon", "root").json["cordoned"] is False
    running.ask("POST", f"/nodes/{agent.name}/cordon", "root", {"txt": "x"}).refused(400)


def packed(uid: str, plain: bytes, length: int | None = None, says: int | None = None) -> bytes:
    chunk = LogChunk(AttemptUid(uid), 0, 0, len(plain) if length is None else length)
    shipment = LogShipment((chunk,), len(plain) if says is None else says)
    return json.dumps(codec.encode(shipment)).encode() + b"\n" + zlib.compress(plain)


def test_compressed_logs_are_unpacked(running: Running, agent: Agent, uid: str) -> None:
    text = b"line\n" * 100_000
    assert agent.post("/agent/logs", packed(uid, text)).status == 200
    assert agent.shipped((uid, 0, len(text), b"end")) == {(uid, 0): len(text) + 3}


def test_what_unpacks_to_something_else_than_it_says_is_refused(agent: Agent, uid: str) -> None:
    bomb = bytes(64 << 20)
    for sent in (
        packed(uid, bomb, length=1 << 20, says=1 << 20),
        packed(uid, bomb),
        packed(uid, b"short", length=9, says=9),
        packed(uid, b"x" * 5000)[:-20],
        packed(uid, b"x", says=-1),
    ):
        agent.post("/agent/logs", sent).refused(400)
    assert agent.shipped((uid, 0, 0, b"fine\n")) == {(uid, 0): 5}
