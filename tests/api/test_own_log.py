"""What others can make the controller write about itself: its log is on the disk that its database is on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from gpuq import codec
from gpuq.model import AttemptUid, RankPhase
from gpuq.protocol import RankReport
from tests.api.server import Agent, Running, start

NOT_HTTP = b"hello, is this the controller\r\n\r\n"
UPGRADE = b"GET /api/v1/version HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


def lines_of(running: Running) -> list[str]:
    """What it logged; it is stopped for that."""
    running.process.terminate()
    _, said = running.process.communicate()
    return said.splitlines()


def test_who_speaks_no_http_leaves_no_line_in_the_log(tmp_path: Path) -> None:
    running = start(tmp_path / "controller")
    for words in (NOT_HTTP, UPGRADE, b"\x16\x03\x01\0\x05hello", b"GET / HTTP/9.9\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"):
        connection = running.connect()
        connection.connect()
        connection.sock.sendall(words)
        assert connection.sock.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 200")
        connection.close()
    assert running.ask("GET", "/whoami", "nobody-at-all").status == 401
    lines = lines_of(running)
    assert [line for line in lines if "controller.ready" in line]
    assert [line for line in lines if not line.startswith("INFO:gpuq.")] == []


def test_a_node_cannot_write_lines_of_its_own_into_the_log(tmp_path: Path) -> None:
    """Nor one for each of the orders it makes up."""
    running = start(tmp_path / "controller")
    agent = Agent(running, "forger")
    agent.sync()
    given = agent.order_for(running.submit("ann"))
    uids = [AttemptUid(f"x{n}\nINFO:gpuq:a line that never was") for n in range(20)]
    words = tuple(RankReport(uid, 0, RankPhase.RUNNING, order=replace(given, uid=uid)) for uid in uids)
    request = agent.request(reports=words, holds=tuple(uids))
    agent.post("/agent/sync", json.dumps(codec.encode(request)).encode()).refused(400)
    lines = lines_of(running)
    assert [line for line in lines if "never was" in line] == []
    assert [line for line in lines if "order.forged" in line] == [
        "WARNING:gpuq.api.agents:order.forged node=forger count=20"
    ]
