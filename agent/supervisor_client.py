"""One connection to a supervisor, and what may be believed of what comes over it. Standard library only."""

from __future__ import annotations

import json
import socket
from typing import Any

MAX_LINE = 64 << 10  # requests are a few hundred bytes; a client that sends more is dropped


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


def finite(value: object) -> float | None:
    """A finite number from a request, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        return None
    return float(value)
