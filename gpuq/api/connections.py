"""What a stranger may cost: connections are counted at the door, and a request has only so much room and time.

All of this is for who has no token yet, or never sends one; what a token may do is judged behind it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from asyncio import sslproto
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 4_000  # at once: a thousand agents have at most 3 each
MAX_CONNECTIONS_FROM_ONE = 2_000  # from one address; many agents may share one behind a router
MAX_HEADER_BYTES = 64 << 10  # a list of a thousand jobs by id is the longest line of ours, 22 KB
HANDSHAKE_SECONDS = 10.0
HEADER_SECONDS = 20.0  # for all headers, and then for each BODY_STEP_BYTES of the body
BODY_STEP_BYTES = 16 << 10
_LOOK_SECONDS = 10.0  # between two looks at a connection that owes nothing
_SPARE_FILES = 256  # descriptors for the database, logs and whatever else is open
_TOLD_SECONDS = 60.0  # between two lines in the log about who was turned away
# asyncio's own is 256 KiB, zeroed and so really used, for each connection. With 16 KiB, which is a TLS record, the
# largest shipment of logs takes as long. Python 3.10 has no such buffer.
_TLS_BUFFER_BYTES = 16 << 10


def prepare() -> int:
    """Makes this process fit for many connections; gives how many there may be."""
    sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES  # type: ignore[attr-defined]
    wanted = MAX_CONNECTIONS + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            logger.warning("connections.few limit=%d: at most %d files may be open", soft - _SPARE_FILES, soft)
            return max(1, soft - _SPARE_FILES)
    return MAX_CONNECTIONS


class Listener(socket.socket):
    """A listening TCP socket that closes what is too much at once, before it costs more than the asking."""

    def __init__(self, family: int, most: int, most_from_one: int = MAX_CONNECTIONS_FROM_ONE) -> None:
        # The protocol is named because asyncio turns TCP_NODELAY on only for sockets that say they are TCP: without it
        # each answer waits 44 ms for the client's delayed acknowledgement.
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._most, self._most_from_one = most, most_from_one
        self._open: Counter[str] = Counter()  # by address
        self._refused = 0
        self._told_at = float("-inf")

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises BlockingIOError for one that was turned away: the loop then asks again."""
        plain, address = super().accept()
        peer = str(address[0])
        if self._open.total() >= self._most or self._open[peer] >= self._most_from_one:
            plain.close()
            self._tell(peer)
            raise BlockingIOError
        self._open[peer] += 1
        return _Accepted(self, peer, plain), address

    def left(self, peer: str) -> None:
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]

    def _tell(self, peer: str) -> None:
        self._refused += 1
        if time.monotonic() - self._told_at >= _TOLD_SECONDS:
            open, mine = self._open.total(), self._open[peer]
            logger.warning("connections.refused count=%d open=%d peer=%s its=%d", self._refused, open, peer, mine)
            self._refused, self._told_at = 0, time.monotonic()


class _Accepted(socket.socket):
    """A connection that its listener counts until it is closed."""

    def __init__(self, listener: Listener, peer: str, plain: socket.socket) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self._listener: Listener | None = listener
        self._peer = peer

    def close(self) -> None:
        if self._listener is not None:
            self._listener.left(self._peer)
            self._listener = None
        super().close()


class Http(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, for clients that are slow, endless or silent on purpose."""

    _since: float | None = None  # since when the client owes the rest of what it began; None: it owes nothing
    _unread = 0  # bytes of headers, trailers and the like since the last that were part of a body
    _body = 0  # bytes of body since _since
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch = self.loop.call_later(HEADER_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._since is None:
            self._since = self.loop.time()
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEADER_BYTES:
            self.part()

    def on_message_begin(self) -> None:
        self._since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unread = self._body = 0
        self._since = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        self._body += len(body)
        if self._body >= BODY_STEP_BYTES:
            self._body, self._since = 0, self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread, self._since = 0, None
        super().on_message_complete()

    def _look(self) -> None:
        if self.transport.is_closing():
            return  # TLS' own time-out for goodbyes ends it
        now = self.loop.time()
        if self._since is not None and self.flow.read_paused:
            self._since = now  # it is we who do not read
        rest = _LOOK_SECONDS if self._since is None else self._since + HEADER_SECONDS - now
        if rest > 0:
            self._watch = self.loop.call_later(rest, self._look)
        else:
            self.part()

    def part(self) -> None:
        """Says goodbye and leaves without waiting for one: idle clients never answer it."""
        if not self.transport.is_closing():  # closed twice, a TLS transport cannot even say what it still has to send
            self.transport.close()
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: who waits for nothing is left at once, others when they have their answer."""
        if not self.transport.is_closing():
            super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()
