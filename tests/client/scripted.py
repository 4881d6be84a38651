"""A real TLS server that answers as a test tells it to: whole answers, halves, garbage, or nothing at all."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpuq.api.certificates import ensure_certificates


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int  # 0 for the first one accepted, 1 for the next, ...


Reply = Callable[[Request], "bytes | None"]  # None: close the connection without a word


class ScriptedController:
    """Listens on 127.0.0.1 until closed. `reply` may be changed at any time; `requests` are those read so far."""

    def __init__(self, home: Path, reply: Reply, port: int = 0) -> None:
        self.certificates = ensure_certificates(home, time.time())
        self.reply = reply
        self.requests: list[Request] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificates.certificate, self.certificates.key)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca_pem(self) -> str:
        return self.certificates.ca_pem()

    @property
    def token(self) -> str:
        return f"gpuq_admin_{'s' * 32}_{self.certificates.ca_sha256()}"

    def close(self) -> None:
        self.close_listener()
        self.drop_connections()
        for thread in self._threads:
            thread.join(10)

    def close_listener(self) -> None:
        """Frees the port; open connections stay."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)

    def drop_connections(self) -> None:
        for connection in list(self._open):
            self._shut(connection)

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(raw)
            thread = threading.Thread(target=self._serve, args=(raw, number), daemon=True)
            self._threads.append(thread)
            thread.start()
            number += 1

    def _serve(self, raw: socket.socket, number: int) -> None:
        connection = raw
        try:
            connection = self._context.wrap_socket(raw, server_side=True)
            self._open.discard(raw)
            self._open.add(connection)
            reader = connection.makefile("rb")
            while line := reader.readline():
                method, target, _ = line.decode().split(" ")
                headers = {}
                while field := reader.readline().strip():
                    name, _, value = field.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = reader.read(int(headers.get("content-length", "0")))
                request = Request(method, target, headers, body, number)
                self.requests.append(request)
                answer = self.reply(request)
                if answer is None:
                    break
                connection.sendall(answer)
            reader.close()
        except OSError:
            pass
        finally:
            self._shut(connection)

    def _shut(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A whole answer, JSON unless body is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {status} x\r\n{fields}content-length: {len(content)}\r\n\r\n".encode() + content
