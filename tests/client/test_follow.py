from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from gpuq.client import follow
from gpuq.client.follow import follow_events, follow_log, wait_final
from gpuq.client.http import Client
from gpuq.errors import NotFound, Unavailable
from gpuq.wire import POLL_SECONDS
from tests.client.conftest import Start
from tests.client.scripted import Request, ScriptedController, answer


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_PAUSE_SECONDS", 0.01)


class LoggedJob:
    """Answers as the controller does about one job; `interfere` may take a request's answer away."""

    def __init__(self) -> None:
        self.state = "RUNNING"
        self.logs: list[bytes] = []  # one an attempt
        self.ended: list[bool] = []
        self.interfere: Callable[[Request], bool] = lambda _request: False
        self.asked: list[dict[str, list[str]]] = []
        self.owed = 0  # bytes that have not come from the node

    def __call__(self, request: Request) -> bytes | None:
        if self.interfere(request):
            return None
        target = urlsplit(request.target)
        query = parse_qs(target.query)
        if target.path == "/api/v1/jobs/7":
            return answer({"id": "7", "state": self.state, "attempt": len(self.logs)})
        self.asked.append(query)
        number = int(query.get("attempt", [str(len(self.logs))])[0])
        headers = {"gpuq-job-state": self.state}
        if number:
            log, offset = self.logs[number - 1], int(query.get("offset", ["0"])[0])
            if "tail" in query:
                offset = len(log) - len(b"".join(log.splitlines(True)[-int(query["tail"][0]) :]))
            body = log[offset : offset + 4][: max(0, len(log) - self.owed - offset)]
            headers |= {"gpuq-log-attempt": str(number), "gpuq-log-offset": str(offset)}
            headers |= {"gpuq-log-end": str(len(log))} if self.ended[number - 1] else {}
        else:
            body = b""
        return answer(body, headers=headers)

    def end(self, state: str) -> None:
        self.state, self.ended[-1] = state, True


def client_of(controller: ScriptedController) -> Client:
    return Client(controller.url, controller.token, controller.ca_pem)


def test_a_log_is_followed_to_its_recorded_end(start: Start) -> None:
    job = LoggedJob()
    job.logs, job.ended = [b"one\ntwo\n"], [False]
    client = client_of(start(job))
    pieces = follow_log(client, "7")
    assert next(pieces) + next(pieces) == b"one\ntwo\n"
    job.logs[0] += b"three"
    job.end("SUCCEEDED")
    assert b"".join(pieces) == b"three"
    client.close()


def test_following_goes_on_where_it_was_after_the_controller_went_away(start: Start) -> None:
    job = LoggedJob()
    job.logs, job.ended = [b"0123456789abcdef"], [True]
    job.state = "FAILED"
    taken: set[str] = set()

    def once_each(request: Request) -> bool:
        # Twice, as the first loss of a kept connection is made up for without anyone hearing of it.
        key = f"{request.target} {len([r for r in controller.requests if r.target == request.target]) <= 2}"
        fresh = key.endswith("True")
        taken.add(key)
        return fresh

    job.interfere = once_each
    controller = start(job)
    outages: list[Unavailable] = []
    client = client_of(controller)
    assert b"".join(follow_log(client, "7", reconnecting=outages.append)) == job.logs[0]
    client.close()
    assert len(outages) == 4  # one for each of the four pieces, however often it was tried


def test_a_log_follows_its_job_through_a_retry(start: Start) -> None:
    job = LoggedJob()
    job.logs, job.ended, job.state = [b"first\n"], [True], "QUEUED"
    controller = start(job)
    client = client_of(controller)
    pieces = follow_log(client, "7")
    assert next(pieces) + next(pieces) == b"first\n"
    job.logs.append(b"second\n")
    job.ended.append(True)
    job.state = "SUCCEEDED"
    assert b"".join(pieces) == b"second\n"
    client.close()


def test_a_named_attempt_ends_with_its_own_log(start: Start) -> None:
    job = LoggedJob()
    job.logs, job.ended = [b"first\n", b"second\n"], [True, False]
    client = client_of(start(job))
    assert b"".join(follow_log(client, "7", attempt=1)) == b"first\n"
    client.close()


def test_a_tail_starts_at_its_lines_and_goes_on_from_there(start: Start) -> None:
    job = LoggedJob()
    job.logs, job.ended, job.state = [b"aaa\nbbb\nccccc\n"], [True], "SUCCEEDED"
    client = client_of(start(job))
    assert b"".join(follow_log(client, "7", tail=1)) == b"ccccc\n"
    client.close()
    assert [query.get("tail") for query in job.asked] == [["1"], None]
    assert job.asked[1]["offset"] == ["12"]


def test_a_job_that_never_started_has_a_log_that_ends_at_once(start: Start) -> None:
    job = LoggedJob()
    job.state = "CANCELED"
    client = client_of(start(job))
    assert list(follow_log(client, "7")) == []
    client.close()


def test_what_a_node_owes_of_an_ended_run_is_waited_for_however_many_polls_that_takes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.0)  # the script answers at once, as if a poll were over
    job = LoggedJob()
    job.logs, job.ended, job.state, job.owed = [b"abcdef"], [True], "FAILED", 2
    told: list[tuple[int, bool]] = []

    def arrives(_request: Request) -> bool:
        if len(job.asked) > 20:
            job.owed = 0
        return False

    job.interfere = arrives
    client = client_of(start(job))
    pieces = follow_log(client, "7", attempt=1, behind=lambda count, given_up: told.append((count, given_up)))
    assert b"".join(pieces) == b"abcdef"
    assert len(job.asked) > 20
    assert not any(given_up for _, given_up in told)
    client.close()


def test_what_a_node_owes_is_told_and_given_up_when_it_has_been_silent_for_as_long_as_one_that_is_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=lambda: now[0]))
    job = LoggedJob()
    job.logs, job.ended, job.state, job.owed = [b"abcdef"], [True], "FAILED", 2
    told: list[tuple[int, bool, float]] = []

    def poll_is_over(_request: Request) -> bool:
        now[0] += POLL_SECONDS if job.asked else 0.0
        return False

    job.interfere = poll_is_over
    client = client_of(start(job))
    pieces = follow_log(client, "7", behind=lambda count, given_up: told.append((count, given_up, now[0])))
    assert b"".join(pieces) == b"abcd"
    assert told == [(2, False, 5.0), (2, True, 65.0)]
    client.close()


def test_a_log_whose_end_nobody_knows_ends_when_nothing_more_comes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "ARRIVE_SECONDS", 0.0)
    job = LoggedJob()
    job.logs, job.ended, job.state = [b"abc"], [False], "FAILED"
    client = client_of(start(job))
    assert b"".join(follow_log(client, "7")) == b"abc"
    client.close()


def test_waiting_long_polls_with_the_state_it_saw(start: Start) -> None:
    states = ["QUEUED", "RUNNING", "SUCCEEDED"]
    controller = start(lambda _request: answer({"id": "7", "state": states.pop(0), "attempt": 1}))
    client = client_of(controller)
    assert wait_final(client, "7")["state"] == "SUCCEEDED"
    client.close()
    assert [request.target for request in controller.requests] == [
        "/api/v1/jobs/7",
        "/api/v1/jobs/7?wait=5.0&seen=QUEUED",
        "/api/v1/jobs/7?wait=5.0&seen=RUNNING",
    ]


def test_waiting_for_a_job_that_is_not_there_ends(start: Start) -> None:
    client = client_of(start(lambda _request: answer(NotFound("no job 7").to_json(), 404)))
    with pytest.raises(NotFound):
        wait_final(client, "7")
    client.close()


def test_waiting_survives_a_controller_that_was_down_for_a_while(start: Start) -> None:
    down = start(lambda _request: None)
    client = client_of(down)
    down.close_listener()
    outages: list[Unavailable] = []

    def back_again(error: Unavailable) -> None:
        outages.append(error)
        start(lambda _request: answer({"id": "7", "state": "FAILED", "attempt": 1}), port=down.port)

    started = time.monotonic()
    assert wait_final(client, "7", back_again)["state"] == "FAILED"
    client.close()
    assert len(outages) == 1
    assert time.monotonic() - started < 30


def test_events_go_on_after_the_last_one_seen(start: Start) -> None:
    pages = [
        {"items": [{"id": "4"}, {"id": "5"}], "next": "5"},
        {"items": [], "next": None},
        {"items": [{"id": "6"}], "next": "6"},
    ]
    controller = start(lambda _request: answer(pages.pop(0)) if pages else None)
    client = client_of(controller)
    events = follow_events(client, None, {"job": "7"})
    assert [next(events)["id"] for _ in range(3)] == ["4", "5", "6"]
    client.close()
    assert [request.target for request in controller.requests[:3]] == [
        "/api/v1/events?job=7",
        "/api/v1/events?job=7&after=5&wait=5.0",
        "/api/v1/events?job=7&after=5&wait=5.0",
    ]
