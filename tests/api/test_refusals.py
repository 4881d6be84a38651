"""Refusals tell of the cluster as answers do: they leave when what they say is durable."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gpuq.api.app import make_app
from gpuq.api.calls import Call
from gpuq.api.gate import Gate
from gpuq.model import JobId
from gpuq.protocol import API_PREFIX, Selection
from gpuq.service.commands import Cancel, RemoveNode
from tests.api.churn import ANN, ROOT
from tests.api.test_unwritten import NODE, Cluster, play

Ask = Callable[[str, str, bytes], Awaitable[tuple[int, Any]]]


def asker(cluster: Cluster, patch: pytest.MonkeyPatch) -> Ask:
    """Asks through the whole API, but for the token, which is taken to be good."""

    async def admitted(self: Gate, route: object, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]]) -> Call:
        del self, route, scope
        body = (await receive())["body"]
        return Call(cluster.call.site, ANN, lambda: ANN, body, secrets.token_hex(8), "asked")

    patch.setattr(Gate, "_admit", admitted)
    served = make_app(cluster.call.site)

    async def ask(method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        path, _, query = (API_PREFIX + path).partition("?")
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
        await served(scope, receive, send)
        return said[0]["status"], json.loads(b"".join(message.get("body", b"") for message in said))

    return ask


def test_a_refusal_waits_until_what_it_says_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        ask = asker(cluster, monkeypatch)
        id = await cluster.submit("true", hold=True)
        holder = sqlite3.connect(tmp_path / "gpuq.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        done = [
            asyncio.ensure_future(cluster.live.execute(command, secrets.token_hex(8)))
            for command in (Cancel(ANN, Selection((JobId(id),))), RemoveNode(ROOT, NODE))
        ]
        await asyncio.sleep(0)
        asked = {
            asyncio.ensure_future(ask("GET", f"/nodes/{NODE}", b"")): 404,
            asyncio.ensure_future(ask("POST", f"/jobs/{id}/streams?dry_run=true", b'{"kind": "shell"}')): 409,
        }
        for _ in range(100):
            await asyncio.sleep(0)
        assert not any(answering.done() for answering in asked)
        holder.execute("ROLLBACK")
        holder.close()
        for answering, status in asked.items():
            assert (await answering)[0] == status
        await asyncio.gather(*done)

    play(tmp_path, scenario)
