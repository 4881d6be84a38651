"""The API as somebody with curl sees it: no client of gpuq's between."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "/api/v1"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error in gpuq's one shape."""
        found = self.json()
        assert set(found) == {"error"}, found
        assert set(found["error"]) == {"code", "message", "hint", "retry"}, found
        assert "Traceback" not in self.body.decode()
        return str(found["error"]["message"])


class Wire:
    """A kept-alive connection with the administrator's token, made again when the controller was."""

    def __init__(self, controller: Path) -> None:
        self._controller = controller
        self._connection: http.client.HTTPConnection | None = None
        self.token = (controller / "admin.token").read_text().strip()

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request. body: bytes go as they are, anything else as JSON; '_' in a header's name stands for '-'."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"authorization": f"Bearer {self.token}", **given}
        if method != "GET":
            sent.setdefault("gpuq-request-id", os.urandom(12).hex())
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        fresh = self._connection is None
        try:
            return self._once(method, path, content, sent)
        except (http.client.HTTPException, OSError):
            self.close()
            if fresh or method != "GET":
                raise
            return self._once(method, path, content, sent)

    def _once(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, PREFIX + path, content, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.getheader("connection", "").lower() == "close":
            self.close()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)

    def _connect(self) -> http.client.HTTPConnection:
        host, _, port = json.loads((self._controller / "controller.json").read_text())["url"].rpartition(":")
        connection = http.client.HTTPConnection(host.removeprefix("https://"), int(port), timeout=40)
        context = ssl.create_default_context(cafile=str(self._controller / "ca.pem"))
        plain = socket.create_connection((connection.host, connection.port), timeout=40)
        try:
            connection.sock = context.wrap_socket(plain, server_hostname="controller.gpuq")
        except BaseException:
            plain.close()
            raise
        return connection
