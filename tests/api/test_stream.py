"""What is watched as it happens: long polls that wake in time, logs to their last byte, event streams that resume."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from gpuq.api import stream
from gpuq.api.stream import events_stream
from gpuq.model import AttemptUid, EndReason, ExitRecord
from gpuq.protocol import API_PREFIX
from tests.api.server import DEADLINE, Agent, Answer, Running, until
from tests.api.test_unwritten import Cluster, play


@pytest.fixture(scope="module")
def agent(new_node: Callable[[], Agent]) -> Agent:
    return new_node()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def exited(log_size: int = 0, **fields: Any) -> ExitRecord:
    return ExitRecord(EndReason.EXITED, time.time(), log_size=log_size, **{"exit_code": 0, **fields})


def started(running: Running, agent: Agent) -> tuple[str, AttemptUid]:
    """A running job of ann, and its attempt."""
    id = running.submit("ann", only_nodes=[agent.name])
    return id, agent.run(id)


def log(running: Running, id: str, query: str = "") -> Answer:
    answer = running.ask("GET", f"/jobs/{id}/log{query}", "ann")
    assert answer.status == 200, answer.body
    return answer


def followed(running: Running, id: str) -> bytes:
    """The whole log, read as a follower reads it."""
    found = b""
    while True:
        answer = log(running, id, f"?offset={len(found)}&wait=5")
        assert int(answer.headers["gpuq-log-offset"]) == len(found)
        found += answer.body
        end = answer.headers.get("gpuq-log-end")
        if end is not None and len(found) >= int(end):
            return found


# ---------------------------------------------------------------- jobs


def test_a_waiting_reader_is_told_of_the_new_state(running: Running, agent: Agent, pool: ThreadPoolExecutor) -> None:
    id, uid = started(running, agent)
    reader = pool.submit(running.get, f"/jobs/{id}?wait=5&seen=RUNNING,STARTING")
    agent.end(uid, exited(exit_code=7))
    job = reader.result(DEADLINE)
    assert (job["state"], job["exit_code"]) == ("FAILED", 7)


def test_a_state_not_seen_yet_is_answered_at_once(running: Running) -> None:
    id = running.submit("ann", hold=True)
    assert running.get(f"/jobs/{id}?wait=5&seen=RUNNING")["state"] == "QUEUED"
    assert running.get(f"/jobs/{id}?wait=0.05&seen=QUEUED")["state"] == "QUEUED"
    assert "seen: 'ASLEEP'" in running.ask("GET", f"/jobs/{id}?wait=1&seen=ASLEEP").refused(400)


def test_an_array_wakes_its_readers_when_its_elements_end(
    running: Running, agent: Agent, pool: ThreadPoolExecutor
) -> None:
    id = running.submit("ann", array="0-1", only_nodes=[agent.name])
    uids = [agent.run(f"{id}_{n}") for n in (0, 1)]
    reader = pool.submit(running.get, f"/jobs/{id}?wait=5&seen=RUNNING")
    for uid in uids:
        agent.end(uid, exited())
    assert reader.result(DEADLINE)["state"] == "SUCCEEDED"
    element = running.get(f"/jobs/{id}_1?wait=5&seen=RUNNING")
    assert element["state"] == "SUCCEEDED"


def test_many_waiting_readers_are_all_told(running: Running, agent: Agent) -> None:
    id, uid = started(running, agent)
    with ThreadPoolExecutor(40) as crowd:
        readers = [crowd.submit(running.get, f"/jobs/{id}?wait=5&seen=RUNNING") for _ in range(40)]
        agent.end(uid, exited())
        assert {reader.result(DEADLINE)["state"] for reader in readers} == {"SUCCEEDED"}


# ---------------------------------------------------------------- logs


def test_a_follower_gets_every_byte_and_ends_at_the_recorded_size(
    running: Running, agent: Agent, pool: ThreadPoolExecutor
) -> None:
    id, uid = started(running, agent)
    reader = pool.submit(followed, running, id)
    text = b"".join(b"line %d\n" % n for n in range(50))
    for at in range(0, len(text), 60):
        agent.shipped((uid, 0, at, text[at : at + 60]))
    agent.end(uid, exited(log_size=len(text)))
    assert reader.result(DEADLINE) == text
    assert followed(running, id) == text


def test_a_follower_waits_for_bytes_that_come_after_the_end(
    running: Running, agent: Agent, pool: ThreadPoolExecutor
) -> None:
    id, uid = started(running, agent)
    agent.shipped((uid, 0, 0, b"first "))
    agent.end(uid, exited(log_size=10))
    reader = pool.submit(followed, running, id)
    agent.shipped((uid, 0, 6, b"last"))
    assert reader.result(DEADLINE) == b"first last"


def test_the_log_of_a_job_that_waits_is_empty_and_wakes_when_it_starts(
    running: Running, agent: Agent, pool: ThreadPoolExecutor
) -> None:
    id = running.submit("ann", only_nodes=[agent.name], hold=True)
    empty = log(running, id)
    assert (empty.body, empty.headers["gpuq-log-attempt"], empty.headers["gpuq-job-state"]) == (b"", "0", "QUEUED")
    reader = pool.submit(log, running, id, "?wait=5")
    running.ask("POST", "/jobs/release", "ann", {"ids": [id]})
    answer = reader.result(DEADLINE)
    assert answer.headers["gpuq-job-state"] in ("QUEUED", "ALLOCATED")


def test_an_ended_log_without_bytes_is_answered_at_once(running: Running, agent: Agent) -> None:
    id, uid = started(running, agent)
    agent.end(uid, exited())
    answer = log(running, id, "?wait=5")
    assert (answer.body, answer.headers["gpuq-log-end"]) == (b"", "0")


def test_parts_and_tails_of_a_log(running: Running, agent: Agent) -> None:
    id, uid = started(running, agent)
    agent.shipped((uid, 0, 0, b"a\nbb\nccc\n"))
    assert log(running, id, "?offset=2&limit=2").body == b"bb"
    tail = log(running, id, "?tail=2")
    assert (tail.body, tail.headers["gpuq-log-offset"]) == (b"bb\nccc\n", "2")
    assert log(running, id, "?tail=0").body == b""
    assert log(running, id, "?tail=0").headers["gpuq-log-offset"] == "9"
    assert log(running, id, "?offset=999").body == b""
    assert log(running, id, "?limit=0").headers["gpuq-log-size"] == "9"


def test_each_attempt_keeps_its_own_log(running: Running, agent: Agent) -> None:
    id = running.submit("ann", only_nodes=[agent.name])
    first = agent.run(id)
    agent.shipped((first, 0, 0, b"first"))
    running.ask("POST", "/jobs/requeue", "ann", {"ids": [id]})
    agent.sync()
    agent.end(first, exited(log_size=5, exit_code=None, signal=15))
    until(lambda: running.get(f"/jobs/{id}")["state"] in ("QUEUED", "ALLOCATED"))

    def second() -> AttemptUid | None:
        agent.sync()
        return next((uid for uid, order in agent.orders.items() if order.job.id == id and order.number == 2), None)

    uid = until(second)
    agent.shipped((uid, 0, 0, b"second!"))
    assert log(running, id).body == b"second!"
    assert log(running, id, "?attempt=1").body == b"first"
    assert log(running, id, "?attempt=1").headers["gpuq-log-end"] == "5"
    assert "attempt 3" in running.ask("GET", f"/jobs/{id}/log?attempt=3", "ann").refused(404)
    assert "rank 1" in running.ask("GET", f"/jobs/{id}/log?rank=1", "ann").refused(404)
    assert [attempt["log_bytes"] for attempt in running.get(f"/jobs/{id}")["attempts"]] == [5, 7]


def test_the_log_of_a_whole_array_is_refused_with_a_hint(running: Running) -> None:
    id = running.submit("ann", array="3-5", hold=True)
    assert f"{id}_3" in running.ask("GET", f"/jobs/{id}/log", "ann").refused(400)
    assert log(running, f"{id}_4").headers["gpuq-job-state"] == "QUEUED"


# ---------------------------------------------------------------- events


def test_events_come_oldest_first_and_go_on_from_the_last_id(running: Running) -> None:
    id = running.submit("ann", hold=True)
    running.ask("POST", "/jobs/release", "ann", {"ids": [id]})
    page = running.get(f"/events?job={id}", "ann")
    kinds = [event["kind"] for event in page["items"]]
    assert kinds[:2] == ["job.submitted", "job.released"]
    assert set(page["items"][0]) == {"id", "at", "kind", "text", "job", "attempt", "node", "user", "address"}
    assert page["next"] == page["items"][-1]["id"]
    first = page["items"][0]["id"]
    assert running.get(f"/events?job={id}&after={first}", "ann")["items"] == page["items"][1:]
    assert running.get(f"/events?job={id}&after={first}&limit=1")["items"][0]["kind"] == "job.released"
    assert running.get(f"/events?after={page['next']}&kind=nothing")["next"] == page["next"]


def test_a_waiting_reader_of_events_is_told(running: Running, pool: ThreadPoolExecutor) -> None:
    last = running.get("/events?limit=1")["next"]
    reader = pool.submit(running.get, f"/events?after={last}&wait=5&kind=job.submitted&user=bob")
    running.submit("ann", hold=True)
    id = running.submit("bob", hold=True)
    assert [event["job"] for event in reader.result(DEADLINE)["items"]] == [id]


class Stream:
    """An open event stream."""

    def __init__(self, running: Running, query: str, user: str = "ann") -> None:
        self.connection = running.connect()
        send = {"authorization": f"Bearer {running.tokens[user]}"}
        self.connection.request("GET", f"{API_PREFIX}/events/stream{query}", headers=send)
        self.answer: http.client.HTTPResponse = self.connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.headers["content-type"] == "application/x-ndjson"

    def next(self) -> dict[str, Any]:
        while not (line := self.answer.readline()).strip():
            assert line, "the stream ended"
        event: dict[str, Any] = json.loads(line)
        return event

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


def test_a_stream_that_was_cut_resumes_without_a_gap_or_a_repeat(running: Running) -> None:
    after = running.get("/events?limit=1")["next"]
    made = [running.submit("ann", hold=True) for _ in range(5)]
    stream = Stream(running, f"?after={after}&kind=job.submitted")
    seen = [stream.next() for _ in range(3)]
    stream.close()
    made.append(running.submit("ann", hold=True))
    stream = Stream(running, f"?after={seen[-1]['id']}&kind=job.submitted")
    seen += [stream.next() for _ in range(3)]
    made.append(running.submit("ann", hold=True))
    seen.append(stream.next())
    stream.close()
    assert [event["job"] for event in seen] == made


def test_a_stream_without_a_place_begins_with_what_happens_next(running: Running) -> None:
    stream = Stream(running, "?user=bob", "eve")
    id = running.submit("bob", hold=True, name="hidden-text")
    event = stream.next()
    stream.close()
    assert (event["kind"], event["job"], event["text"]) == ("job.submitted", id, "")


def test_what_happens_while_a_stream_is_being_sent_is_told_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_HEARTBEAT_SECONDS", 0.01)  # what is missed would let it say that nothing happens

    async def scenario(cluster: Cluster) -> None:
        answer = await events_stream(cluster.call, after=0)
        assert isinstance(answer, StreamingResponse)
        chunks = aiter(answer.body_iterator)
        await anext(chunks)  # nothing more is asked for while the socket takes no more
        id = await cluster.submit("true", hold=True)
        chunk = await anext(chunks)
        assert isinstance(chunk, bytes)
        told = [json.loads(line) for line in chunk.splitlines() if line]
        assert [(event["kind"], event["job"]) for event in told] == [("job.submitted", id)]

    play(tmp_path, scenario)
