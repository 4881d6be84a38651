from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from gpuq.client import http
from gpuq.client.connection import Address, parse_url
from gpuq.client.http import Client, fetch_ca
from gpuq.errors import Conflict, InvalidRequest, NotFound, Unavailable, Unreachable
from tests.client.conftest import Start
from tests.client.scripted import Request, ScriptedController, answer


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE_SECONDS", 0.01)


def client_of(controller: ScriptedController) -> Client:
    return Client(controller.url, controller.token, controller.ca_pem)


def test_several_requests_share_one_connection(start: Start) -> None:
    controller = start(lambda request: answer({"target": request.target}))
    client = client_of(controller)
    assert client.get("/jobs", {"state": ["RUNNING", "LOST"], "name": "a b&c", "user": None, "all": True}) == {
        "target": "/api/v1/jobs?state=RUNNING&state=LOST&name=a%20b%26c&all=1"
    }
    assert client.get("/jobs/1042 7/why")["target"] == "/api/v1/jobs/1042%207/why"
    client.close()
    assert [request.connection for request in controller.requests] == [0, 0]
    assert controller.requests[0].headers["authorization"] == f"Bearer {controller.token}"
    assert controller.requests[0].headers["gpuq-protocol"] == "1"


def test_a_kept_connection_that_was_dropped_is_replaced_unnoticed(start: Start) -> None:
    # The server answers once a connection, as one that closes idle connections does at the worst moment.
    seen: set[int] = set()

    def reply(request: Request) -> bytes | None:
        if request.connection in seen:
            return None
        seen.add(request.connection)
        return answer({"id": "1"}, 201)

    controller = start(reply)
    client = client_of(controller)
    for _ in range(3):
        assert client.post("/jobs", {}) == {"id": "1"}
    client.close()
    ids = [request.headers["gpuq-request-id"] for request in controller.requests]
    assert ids == [ids[0], ids[1], ids[1], ids[3], ids[3]]
    assert len(set(ids)) == 3


def test_a_lost_answer_is_asked_for_again_under_the_same_request_id(start: Start) -> None:
    attempts = count()
    controller = start(lambda _request: None if next(attempts) < 3 else answer({"id": "1042"}, 201))
    client = client_of(controller)
    assert client.post("/jobs", {"name": "x"}) == {"id": "1042"}
    client.close()
    assert len(controller.requests) == 4
    assert len({request.headers["gpuq-request-id"] for request in controller.requests}) == 1
    assert len({request.body for request in controller.requests}) == 1


def test_a_503_is_repeated_under_the_same_request_id(start: Start) -> None:
    replies = [answer(Unavailable("the disk is full").to_json(), 503), answer({"ok": 1})]
    controller = start(lambda _request: replies.pop(0))
    client = client_of(controller)
    assert client.patch("/jobs/1", {"priority": 3}, request_id="chosen-id") == {"ok": 1}
    client.close()
    assert [request.headers["gpuq-request-id"] for request in controller.requests] == ["chosen-id", "chosen-id"]


def test_a_mutation_that_never_gets_an_answer_ends_as_unknown(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WRITE_PATIENCE_SECONDS", 0.2)
    controller = start(lambda _request: None)
    with pytest.raises(Unavailable, match="the outcome is unknown: lost the controller at"):
        client_of(controller).delete("/nodes/a")
    assert len(controller.requests) > 1


def test_a_read_that_gets_no_answer_is_not_called_unknown(start: Start) -> None:
    controller = start(lambda _request: None)
    with pytest.raises(Unavailable, match=r"^lost the controller at"):
        client_of(controller).raw("/jobs", patience=0.05)


def test_a_mutation_survives_a_restart_of_the_controller(start: Start) -> None:
    first = start(lambda _request: None)
    client = client_of(first)
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(client.post("/jobs", {})))
    thread.start()
    deadline = time.monotonic() + 20
    while not first.requests and time.monotonic() < deadline:
        time.sleep(0.005)
    first.close_listener()
    second = start(lambda _request: answer({"id": "7"}, 201), port=first.port)
    thread.join(30)
    client.close()
    assert outcome == [{"id": "7"}]
    assert second.requests[0].headers["gpuq-request-id"] == first.requests[0].headers["gpuq-request-id"]


def test_nothing_listening_is_unreachable_at_once(start: Start) -> None:
    controller = start(lambda _request: None)
    client = client_of(controller)
    controller.close_listener()
    with pytest.raises(Unreachable, match="nothing answers at https://127") as caught:
        client.post("/jobs", {})
    assert caught.value.exit_status == 5
    assert "gpuq up" in caught.value.one_line()


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 okay\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno length",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut",
        b"x" * 100_000,
        b"\x00\xff\n\n\n",
    ],
)
def test_an_answer_that_is_not_http_is_a_lost_answer(start: Start, garbage: bytes) -> None:
    sent: set[int] = set()

    def reply(request: Request) -> bytes | None:
        if request.connection in sent:
            return None
        sent.add(request.connection)
        return garbage

    controller = start(reply)
    client = client_of(controller)
    threading.Timer(0.05, controller.drop_connections).start()
    with pytest.raises(Unavailable, match="lost the controller"):
        client.raw("/jobs", patience=0.0)


def test_an_answer_that_is_not_json_is_said_to_be(start: Start) -> None:
    controller = start(lambda _request: answer(b"<html>"))
    client = client_of(controller)
    with pytest.raises(Unavailable, match="not JSON"):
        client.get("/jobs")
    client.close()


def test_a_slow_answer_is_given_up(start: Start) -> None:
    release = threading.Event()

    def reply(_request: Request) -> bytes | None:
        release.wait(20)
        return None

    controller = start(reply)
    with pytest.raises(Unavailable, match="it does not answer"):
        client_of(controller).raw("/jobs", timeout=0.1, patience=0.0)
    release.set()


def test_errors_come_back_as_what_they_were(start: Start) -> None:
    replies = [
        answer(NotFound("no job 9", "see gpuq history").to_json(), 404),
        answer(Conflict("it ended").to_json(), 409),
        answer(b"nginx", 502),
        answer({"detail": "?"}, 422),
    ]
    controller = start(lambda _request: replies.pop(0))
    client = client_of(controller)
    with pytest.raises(NotFound, match="no job 9") as caught:
        client.get("/jobs/9")
    assert caught.value.hint == "see gpuq history"
    with pytest.raises(Conflict, match="it ended"):
        client.post("/jobs/cancel", {"ids": ["9"]})
    with pytest.raises(Unavailable, match="502"):
        client.get("/jobs")
    with pytest.raises(InvalidRequest, match="422"):
        client.get("/jobs")
    client.close()


def test_chunks_interim_answers_and_empty_bodies_are_read(start: Start) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n[1,\r\n2\r\n2]\r\n0\r\ntrailer: 1\r\n\r\n"
    replies = [
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + chunked,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        answer({}, headers={"Connection": "close"}),
        answer({}),
    ]
    controller = start(lambda _request: replies.pop(0))
    client = client_of(controller)
    assert client.get("/x") == [1, 2]
    assert client.delete("/x") is None
    assert client.get("/x") == {}
    assert client.get("/x") == {}
    client.close()
    assert [request.connection for request in controller.requests] == [0, 0, 0, 1]


def test_bytes_stream_as_they_come(start: Start) -> None:
    body = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\na\n\r\n2\r\nb\n\r\n"
    controller = start(lambda _request: body)
    stream: Iterator[bytes] = client_of(controller).stream("/events/stream", {"after": "5"})
    got = b""
    while len(got) < 4:
        got += next(stream)
    assert got == b"a\nb\n"
    controller.drop_connections()
    with pytest.raises(Unavailable, match="lost the controller"):
        next(stream)


def test_text_that_is_not_utf8_is_refused_before_it_is_sent(start: Start) -> None:
    controller = start(lambda _request: answer({}))
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        client_of(controller).post("/jobs", {"name": "\udcff"})
    assert controller.requests == []


def test_another_clusters_controller_gets_neither_token_nor_request(start: Start) -> None:
    ours = start(lambda _request: answer({}))
    theirs = start(lambda _request: answer({}), home="theirs")
    with pytest.raises(Unreachable, match="is not the controller this token is for"):
        Client(theirs.url, ours.token, ours.ca_pem).get("/jobs")
    assert theirs.requests == []


def test_a_server_without_tls_is_not_mistaken_for_a_controller(start: Start) -> None:
    ours = start(lambda _request: answer({}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unreachable, match="not a gpuq controller"):
            Client(f"https://127.0.0.1:{port}", ours.token, ours.ca_pem).get("/jobs")
        thread.join(10)


def test_the_ca_is_fetched_without_the_token_and_believed_only_by_its_fingerprint(start: Start) -> None:
    controller = start(lambda _request: b"")
    controller.reply = lambda _request: answer(controller.ca_pem.encode())
    assert fetch_ca(controller.url, controller.certificates.ca_sha256()) == controller.ca_pem
    with pytest.raises(Unreachable, match="its CA is another"):
        fetch_ca(controller.url, "0" * 64)
    assert [request.target for request in controller.requests] == ["/api/v1/ca"] * 2
    assert not any("authorization" in request.headers for request in controller.requests)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_server_that_may_be_anybodys_has_no_say_in_the_line_a_person_reads(start: Start, status: int) -> None:
    """Else it could ask for the token in gpuq's name."""
    told = {"error": {"code": "conflict", "message": "paste your token here", "hint": "", "retry": False}}
    stranger = start(lambda _request: answer(told, status, {"location": "https://elsewhere/"}))
    with pytest.raises(Unreachable, match=f"not a gpuq controller: it answers with HTTP status {status}") as refused:
        fetch_ca(stranger.url, stranger.certificates.ca_sha256())
    assert "paste" not in refused.value.one_line()


def test_a_server_whose_answer_does_not_end_is_left(start: Start) -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n" + b"x" * (1 << 20)
    stranger = start(lambda _request: endless)
    with pytest.raises(Unreachable, match="its answer has no end"):
        fetch_ca(stranger.url, stranger.certificates.ca_sha256())


def test_a_controller_that_shows_no_certificate_as_ca_is_refused(start: Start) -> None:
    controller = start(lambda _request: answer(b"\xffnot a certificate"))
    with pytest.raises(Unreachable, match="its CA is another"):
        fetch_ca(controller.url, controller.certificates.ca_sha256())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://head:1234", Address("https://head:1234", "head", 1234)),
        ("https://head:1234/", Address("https://head:1234", "head", 1234)),
        ("head", Address("https://head:7443", "head", 7443)),
        ("10.0.0.1:99", Address("https://10.0.0.1:99", "10.0.0.1", 99)),
        ("https://[::1]:99", Address("https://[::1]:99", "::1", 99)),
        ("[fe80::1]", Address("https://[fe80::1]:7443", "fe80::1", 7443)),
    ],
)
def test_addresses_are_read(text: str, expected: Address) -> None:
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://head:1",
        "https://",
        "head:port",
        "head:0",
        "head:99999",
        "a b",
        "u@h",
        "h/p",
        "[::1",
        "::1",
        "h\r\nx: y",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a controller's address"):
        parse_url(text)


def test_a_body_is_compact_json(start: Start) -> None:
    controller = start(lambda _request: answer({}))
    client = client_of(controller)
    client.post("/jobs", {"name": "Müller", "command": ["a"]})
    client.post("/nodes/a/uncordon")
    client.close()
    sent, empty = controller.requests
    assert json.loads(sent.body) == {"name": "Müller", "command": ["a"]}
    assert (empty.body, empty.headers["content-length"]) == (b"", "0")
