"""A controller in the eyes of the command line: the API's contract over real TLS, with answers a test sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.client.scripted import Request, ScriptedController, answer


class Call(NamedTuple):
    method: str
    path: str  # below /api/v1
    params: dict[str, list[str]]
    body: Any


class Raw(NamedTuple):
    """An answer that is not JSON, with headers."""

    body: bytes
    headers: dict[str, str]


Answer = Callable[[Call], Any]


class FakeApi:
    """Answers routes set with `on`; anything else is 404. `calls` are those received, in order."""

    def __init__(self, home: Path) -> None:
        self.calls: list[Call] = []
        self._routes: dict[tuple[str, str], Answer] = {}
        self.server = ScriptedController(home, self._reply)
        self.on("GET", "/whoami", {"user": "ann", "role": "user"})

    def on(self, method: str, path: str, result: Any) -> None:
        """result: a JSON value, (status, JSON value), Raw, or a function of the Call that gives one of these."""
        self._routes[method, path] = result if callable(result) else lambda _: result

    def sent(self, method: str, path: str) -> list[Call]:
        return [call for call in self.calls if (call.method, call.path) == (method, path)]

    def _reply(self, request: Request) -> bytes:
        target = urlsplit(request.target)
        path = unquote(target.path).removeprefix("/api/v1")
        call = Call(request.method, path, parse_qs(target.query), json.loads(request.body) if request.body else None)
        self.calls.append(call)
        handler = self._routes.get((request.method, path))
        if handler is None:
            return answer(error("not_found", f"there is no {path}"), 404)
        result = handler(call)
        if isinstance(result, Raw):
            return answer(result.body, 200, result.headers)
        status, body = result if isinstance(result, tuple) else (200, result)
        return answer(body, status)


def error(code: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint, "retry": False}}


def job(id: str = "1042", **changes: Any) -> dict[str, Any]:
    """A job as GET /jobs/{id} gives it."""
    return {
        "id": id,
        "name": "train",
        "user": "ann",
        "queue": "main",
        "state": "QUEUED",
        "reason": None,
        "command": ["python", "train.py"],
        "cwd": "/data",
        "gpus": 1,
        "nodes": [],
        "attempt": 0,
        "exit_code": None,
        "signal": None,
        "cause": None,
        "submitted_at": "2026-11-21T05:53:12.042Z",
        "started_at": None,
        "finished_at": None,
        "priority": 0,
        "request": {
            "nodes": 1,
            "gpus_per_node": 1,
            "gpu_type": None,
            "gpu_memory_bytes": None,
            "cpus": 0,
            "memory_bytes": 0,
            "only_nodes": [],
            "not_nodes": [],
        },
        "time_limit_seconds": None,
        "begin_at": None,
        "held_by": None,
        "dependencies": [],
        "max_retries": 0,
        "retries_used": 0,
        "losses_used": 0,
        "requeue": True,
        "on_lost": "keep",
        "comment": "",
        "array": None,
        "script": False,
        "log_bytes": None,
        "attempts": [],
        **changes,
    }


def ended(state: str, id: str = "1042", **changes: Any) -> dict[str, Any]:
    times = {"started_at": "2026-11-21T05:53:13.000Z", "finished_at": "2026-11-21T05:54:13.000Z"}
    return job(id, **{"state": state, "attempt": 1, **times, **changes})
