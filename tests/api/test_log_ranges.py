"""Windows into logs: bytes from either end, and lines found without reading the log over the wire."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from gpuq.model import AttemptUid, EndReason, ExitRecord
from tests.api.server import Agent, Running


@pytest.fixture(scope="module")
def agent(new_node: Callable[[], Agent]) -> Agent:
    return new_node()


def logged(running: Running, agent: Agent, *pieces: bytes) -> tuple[str, AttemptUid]:
    """A running job of ann with this log."""
    id = running.submit("ann", only_nodes=[agent.name])
    uid = agent.run(id)
    offset = 0
    for piece in pieces:
        agent.shipped((uid, 0, offset, piece))
        offset += len(piece)
    return id, uid


def read(running: Running, id: str, query: str = "") -> tuple[int, bytes]:
    body = running.get(f"/jobs/{id}/log/range{query}", "ann")
    return body["offset"], b64decode(body["text_base64"])


def search(running: Running, id: str, text: str, query: str = "") -> dict[str, Any]:
    body: dict[str, Any] = running.get(f"/jobs/{id}/log/search?text={quote(text)}{query}", "ann")
    return body


def test_a_range_counts_from_either_end(running: Running, agent: Agent) -> None:
    id, _ = logged(running, agent, b"0123456789\xff\x00")
    assert read(running, id) == (0, b"0123456789\xff\x00")
    assert read(running, id, "?offset=3&limit=4") == (3, b"3456")
    assert read(running, id, "?offset=-4&limit=2") == (8, b"89")
    assert read(running, id, "?offset=-100&limit=2") == (0, b"01")
    assert read(running, id, "?offset=100") == (100, b"")


def test_a_range_says_whether_more_will_come(running: Running, agent: Agent) -> None:
    waits = running.submit("ann", hold=True)
    body = running.get(f"/jobs/{waits}/log/range", "ann")
    state = {"offset": 0, "size": 0, "ended": False, "attempt": 0, "rank": 0, "ranks": 0, "text_base64": ""}
    assert body == state
    id, uid = logged(running, agent, b"abc")
    body = running.get(f"/jobs/{id}/log/range", "ann")
    assert (body["size"], body["ended"], body["attempt"], body["ranks"]) == (3, False, 1, 1)
    agent.end(uid, ExitRecord(EndReason.EXITED, time.time(), exit_code=0, log_size=5))
    assert not running.get(f"/jobs/{id}/log/range", "ann")["ended"]  # two bytes are still on their way
    agent.shipped((uid, 0, 3, b"de"))
    assert running.get(f"/jobs/{id}/log/range?offset=3", "ann")["ended"]


def test_a_search_gives_the_lines_and_where_to_go_on(running: Running, agent: Agent) -> None:
    lines = [b"step %d loss=%d\n" % (n, n % 3) for n in range(9)]
    id, _ = logged(running, agent, *lines)
    size = sum(map(len, lines))
    found = search(running, id, "loss=2")
    assert found["matches"] == [[28, "step 2 loss=2"], [70, "step 5 loss=2"], [112, "step 8 loss=2"]]
    assert (found["next"], found["searched_to"], found["size"]) == (None, size, size)
    found = search(running, id, "loss=2", "&limit=2")
    assert [offset for offset, _ in found["matches"]] == [28, 70]
    found = search(running, id, "loss=2", f"&limit=2&after={found['next']}")
    assert ([offset for offset, _ in found["matches"]], found["next"]) == ([112], None)
    found = search(running, id, "loss=2", f"&before={size}&limit=2")
    assert ([offset for offset, _ in found["matches"]], found["next"]) == ([112, 70], 70)
    found = search(running, id, "loss=2", f"&before={found['next']}")
    assert ([offset for offset, _ in found["matches"]], found["next"]) == ([28], None)


def test_case_is_ignored_when_asked(running: Running, agent: Agent) -> None:
    id, _ = logged(running, agent, "ok\nCUDA Error: Größe\n".encode())
    assert search(running, id, "cuda ERROR", "&ignore_case=1")["matches"] == [[3, "CUDA Error: Größe"]]
    assert search(running, id, "cuda ERROR")["matches"] == []
    assert search(running, id, "Größe")["matches"] == [[3, "CUDA Error: Größe"]]


def test_hostile_bytes_come_as_text(running: Running, agent: Agent) -> None:
    id, _ = logged(running, agent, b"\x1b[31mred\xff\x00\r\n")
    assert search(running, id, "red")["matches"] == [[0, "\x1b[31mred\ufffd\x00"]]


@pytest.mark.parametrize("route", ["range", "search?text=x"])
def test_logs_are_for_owner_and_admins(running: Running, agent: Agent, route: str) -> None:
    id, _ = logged(running, agent, b"x\n")
    assert running.ask("GET", f"/jobs/{id}/log/{route}", "root").status == 200
    for user in ("bob", "eve"):
        assert "for its owner ann" in running.ask("GET", f"/jobs/{id}/log/{route}", user).refused(403)
    array = running.submit("ann", array="0-1", hold=True)
    assert f"{array}_0" in running.ask("GET", f"/jobs/{array}/log/{route}", "ann").refused(400)
    assert running.ask("GET", f"/jobs/999999/log/{route}", "ann").status == 404


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("search?text=", "text"),
        ("search?limit=1", "text"),
        ("search?text=a%0Ab", "line end"),
        ("search?text=a&after=1&before=2", "exclude each other"),
        ("search?text=a&after=-1", "after"),
        ("search?text=a&limit=100000", "limit"),
        ("range?limit=-1", "limit"),
        ("range?limit=99999999", "limit"),
        ("range?tail=1", "there is no parameter 'tail'"),
        ("range?rank=-1", "rank"),
    ],
)
def test_a_malformed_request_is_refused_in_one_line(running: Running, agent: Agent, query: str, said: str) -> None:
    id, _ = logged(running, agent, b"x\n")
    assert said in running.ask("GET", f"/jobs/{id}/log/{query}", "ann").refused(400)


def test_a_rank_or_attempt_there_never_was_is_not_found(running: Running, agent: Agent) -> None:
    id, _ = logged(running, agent, b"x\n")
    assert "no rank 7" in running.ask("GET", f"/jobs/{id}/log/range?rank=7", "ann").refused(404)
    assert "no attempt 9" in running.ask("GET", f"/jobs/{id}/log/search?text=x&attempt=9", "ann").refused(404)
