"""A supervisor's socket: who is connected to it, and what may be believed of what they send. Standard library only.

It speaks JSON lines. The connection the launcher hands over first carries one line, what to run, and is then like any
other, watching. Requests are {"v": 1, "op": ...}: `watch` answers with the state now and at each change, `stop` takes
kind and grace (seconds), `go` starts the job of a rank that is ready, `extend` takes deadline (seconds of
CLOCK_BOOTTIME), `forget` says that the end is known and need not be kept. `stream` takes id, kind (shell, port or
terminal) and what these need: after the answer, which says how far either side has the other's bytes, the connection is
a link of that stream (channel.py); `leave` says that the client of one is gone for good. An unknown op is answered with
an error, so older and newer agents can talk to it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

VERSION = 1
MAX_CLIENTS = 16
MAX_LINE = 64 << 10  # requests are a few hundred bytes; a client that sends more is dropped
MAX_ID = 64
_STREAM_KINDS = ("shell", "port", "terminal")  # protocol.StreamKind
_STOP_KINDS = ("cancel", "requeue", "time_limit", "fence", "vanished", "gpu_fault", "sibling")  # model.StopKind


Act = Callable[[dict[str, Any]], dict[str, Any]]  # carries out a request that was understood, and gives the answer


class Client:
    """One connection. Whatever it sends or leaves unread, the worst that follows is that it is dropped."""

    __slots__ = ("buffer", "sock", "watching")

    def __init__(self, sock: socket.socket, buffer: bytes = b"", watching: bool = False) -> None:
        self.sock, self.buffer, self.watching = sock, buffer, watching
        sock.setblocking(False)

    def send(self, message: dict[str, Any]) -> bool:
        """False if it is to be dropped: gone, or not reading."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            return self.sock.send(line, socket.MSG_NOSIGNAL) == len(line)
        except OSError:
            return False

    def receive(self) -> bool:
        """Reads what there is into the buffer; False if the connection is to be dropped."""
        try:
            part = self.sock.recv(MAX_LINE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.buffer += part
        return bool(part) and len(self.buffer) <= MAX_LINE

    def lines(self) -> list[bytes]:
        *lines, self.buffer = self.buffer.split(b"\n")
        return lines


class Clients:
    """All connections of one supervisor, by the socket in the open directory folder; poll watches them.

    What carries out a request is handed in each time, not kept: it would be a circle, and nothing collects those here.
    """

    def __init__(self, poll: select.poll, folder: int, first: Client) -> None:
        self._poll = poll
        self._connected: dict[int, Client] = {}
        self._links: list[tuple[str, socket.socket]] = []  # with the id of the stream whose they are now
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(f"/proc/self/fd/{folder}/sock")  # a path in sockaddr_un ends at 108 bytes
        self._listener.listen(MAX_CLIENTS)
        poll.register(self._listener.fileno(), select.POLLIN)
        self._add(first)

    def ready(self, fd: int, act: Act) -> None:
        """Takes what has come over this descriptor, if it is one of theirs."""
        if fd == self._listener.fileno():
            self._accept()
        elif fd in self._connected:
            client = self._connected[fd]
            alive = client.receive()
            self.serve(client, act)
            if not alive:
                self._drop(client)

    def serve(self, client: Client, act: Act) -> None:
        """Answers all lines that have come."""
        for line in client.lines():
            asked = request(line)
            if asked.get("op") == "watch":
                client.watching = True
            answer = asked if "error" in asked else act(asked)
            if client.sock.fileno() >= 0 and not client.send({"v": VERSION, **answer}):
                self._drop(client)
            elif answer.get("ok") == "stream":
                self._release(client)
                self._links.append((asked["id"], client.sock))
                return

    def take_links(self) -> list[tuple[str, socket.socket]]:
        """Connections that have become links of streams since this was last asked."""
        links, self._links = self._links, []
        return links

    def announce(self, state: dict[str, Any]) -> None:
        for client in list(self._connected.values()):
            if client.watching and not client.send({"v": VERSION, **state}):
                self._drop(client)

    def close(self) -> None:
        for client in list(self._connected.values()):
            self._drop(client)
        self._listener.close()

    def _add(self, client: Client) -> None:
        self._connected[client.sock.fileno()] = client
        self._poll.register(client.sock.fileno(), select.POLLIN)

    def _drop(self, client: Client) -> None:
        if self._release(client):
            client.sock.close()

    def _release(self, client: Client) -> bool:
        fd = client.sock.fileno()
        if self._connected.pop(fd, None) is None:
            return False
        self._poll.unregister(fd)
        return True

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if len(self._connected) >= MAX_CLIENTS or uid not in (0, os.getuid()):
            sock.close()
        else:
            self._add(Client(sock))


def request(line: bytes) -> dict[str, Any]:
    """What a line asks for, with no more in it than is known and checked: op and its fields, or error."""
    try:
        asked = json.loads(line)
        op = asked["op"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {"error": "unknown request"}
    if op == "stop":
        kind, grace = asked.get("kind"), finite(asked.get("grace"))
        if kind in _STOP_KINDS and grace is not None:
            return {"op": op, "kind": kind, "grace": grace}
        return {"error": "stop needs a known kind and grace"}
    if op == "extend":
        deadline = finite(asked.get("deadline"))
        return {"error": "extend needs deadline"} if deadline is None else {"op": op, "deadline": deadline}
    if op == "stream":
        return _stream(asked)
    if op == "leave":
        return {"op": op, "id": str(asked.get("id"))}
    return {"op": op} if op in ("watch", "go", "forget") else {"error": "unknown request"}


def _stream(asked: dict[str, Any]) -> dict[str, Any]:
    id, kind, argv = asked.get("id"), asked.get("kind"), asked.get("argv", [])
    port, term, pty = asked.get("port", 0), asked.get("term", ""), asked.get("pty", "")
    if not (isinstance(id, str) and 0 < len(id) <= MAX_ID and kind in _STREAM_KINDS):
        return {"error": "stream needs an id and a known kind"}
    if not (isinstance(argv, list) and all(isinstance(word, str) and "\0" not in word for word in argv)):
        return {"error": "argv is no list of arguments"}
    if not (isinstance(port, int) and 0 <= port < 65536 and isinstance(term, str) and "\0" not in term):
        return {"error": "port or term cannot be"}
    if not isinstance(pty, str):
        return {"error": "pty is no size"}
    return {
        "op": "stream",
        "id": id,
        "kind": kind,
        "argv": argv,
        "port": port,
        "term": term,
        "pty": pty,
    }


def finite(value: object) -> float | None:
    """A finite number from a request, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        return None
    return float(value)
