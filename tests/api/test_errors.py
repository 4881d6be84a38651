"""Refusals have one shape, wherever they come from, and a defect never shows its traceback."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from gpuq.api.app import make_app
from gpuq.api.calls import Call
from gpuq.api.gate import Gate, Route
from gpuq.service.commands import Actor
from tests.api.server import Running


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/jobs/", "/jobs/1/2/3", "/docs/", "/../etc/passwd", "/jobs/%2e%2e/x"]
)
def test_an_unknown_path_is_not_found_in_our_shape(running: Running, path: str) -> None:
    assert "there is nothing at" in running.ask("GET", path).refused(404)


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/jobs"), ("PUT", "/jobs/1"), ("POST", "/whoami"), ("GET", "/jobs/1/cancel/x")]
)
def test_a_wrong_method_is_refused_in_our_shape(running: Running, method: str, path: str) -> None:
    status = 404 if path.endswith("/x") else 405
    running.ask(method, path).refused(status)


def test_a_wrong_method_is_told_the_right_one(running: Running) -> None:
    answered = running.ask("DELETE", "/jobs")
    assert "it takes GET, POST" in answered.refused(405)
    assert answered.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/jobs?limit=0", "limit: must be at least 1"),
        ("/jobs?limit=10001", "limit: must be at most 10000"),
        ("/jobs?limit=many", "limit: must be a valid integer"),
        ("/jobs?state=SLEEPING", "state[0]: must be 'QUEUED'"),
        ("/jobs?stat=RUNNING", "there is no parameter 'stat' here"),
        ("/jobs?after=x", "after: 'x' is not a place in a list"),
        ("/jobs?after=-1", "after: '-1' is not a place in a list"),
        ("/jobs?after=99999999999999999999", "is not a place in a list"),
        ("/jobs?fields=id,secret", "fields: there is no 'secret'"),
        ("/jobs?ids=1,x", "ids: 'x' is not a job id"),
        ("/jobs?ids=" + ",".join(map(str, range(1001))), "ids: 1,001 are too many"),
        ("/history?after=x", "'x' is not a place in a list"),
        ("/history?since=yesterday", "since: must be a valid number"),
        ("/events?after=-1", "after: must be at least 0"),
        ("/events?limit=0", "limit: must be at least 1"),
        ("/jobs/1?wait=-1", "wait: must be at least 0"),
        ("/whoami?x=1", "there is no parameter 'x' here"),
        ("/jobs?user=%00%ff", None),
    ],
)
def test_a_wrong_query_is_refused_in_one_line_that_names_it(running: Running, path: str, line: str | None) -> None:
    answer = running.ask("GET", path)
    if line is None:
        assert answer.json["items"] == []
    else:
        assert line in answer.refused(400)


@pytest.mark.parametrize(
    "path", ["/jobs/999999", "/jobs/x", "/jobs/1_", "/jobs/99999999999999999999/why", "/jobs/777_1/log"]
)
def test_a_job_that_is_not_there_is_not_found(running: Running, path: str) -> None:
    assert "there is no job" in running.ask("GET", path).refused(404)


def test_a_node_that_is_not_there_is_not_found(running: Running) -> None:
    running.ask("GET", "/nodes/none").refused(404)
    running.ask("POST", "/nodes/none/cordon", body={}).refused(404)


def test_bytes_that_are_no_http_do_not_disturb_others(running: Running) -> None:
    for junk in (
        b"\x00\xff" * 500,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    ):
        connection = running.connect()
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        connection.sock.sendall(junk)
        connection.close()
    assert running.ask("GET", "/version", None).status == 200


def test_a_defect_is_answered_in_our_shape_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(call: Call) -> Any:
        raise RuntimeError("secret detail")

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    site: Any = None
    gate = Gate((Route("GET", "/broken", "open", broken),), site, make_app(site))
    scope = {"type": "http", "method": "GET", "path": "/api/v1/broken", "query_string": b"", "headers": []}
    asyncio.run(gate(scope, receive, send))
    assert sent[0]["status"] == 500
    assert b"secret detail" not in sent[1]["body"]
    assert b'"code":"error"' in sent[1]["body"]
    assert [record.getMessage() for record in caplog.records] == ["request.failed method=GET path=/api/v1/broken"]


def test_a_defect_behind_fastapi_is_answered_in_our_shape_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("secret detail")

    class Known:
        def actor(self, *_: str | None) -> Actor:
            return Actor("root", "admin")

    site: Any = type("S", (), {"tokens": Known(), "controller": Broken()})()
    path = "/api/v1/jobs/1"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": [], "http_version": "1.1", "scheme": "https", "root_path": ""}  # fmt: skip
    asyncio.run(make_app(site)(scope, receive, send))
    assert sent[0]["status"] == 500
    assert b"secret detail" not in b"".join(message.get("body", b"") for message in sent)
    assert len(caplog.records) == 1


def test_the_docs_page_fetches_nothing_from_elsewhere(running: Running) -> None:
    page = running.ask("GET", "/docs", None)
    assert page.headers["content-type"].startswith("text/html")
    text = page.body.decode()
    assert "POST /api/v1/jobs" in text
    assert "gpu_memory_bytes" in text
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text


def test_the_document_describes_bodies_and_headers(running: Running) -> None:
    document = running.get("/openapi.json", None)
    submit = document["paths"]["/api/v1/jobs"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Submission")
    assert "gpuq-request-id" in {parameter["name"] for parameter in submit["parameters"]}
    assert document["components"]["schemas"]["Submission"]["properties"]["gpus"]
    known = document["components"]["schemas"]
    assert all(ref in known for ref in _references(document))


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].rsplit("/", 1)[-1]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()
