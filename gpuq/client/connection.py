"""One HTTP/1.1 connection over TLS, with the standard library's ssl and nothing above it.

http.client would do all this, and importing it takes 14 ms (it parses headers as e-mail does) of the 50 ms that a whole
`gpuq submit` spends importing. gpuq's own server always sends a length or chunks, so what is needed is small.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gpuq.client.tls import Impostor
from gpuq.errors import InvalidRequest, Unreachable
from gpuq.wire import TLS_NAME

DEFAULT_PORT = 7443
CONNECT_SECONDS = 5.0  # a live controller accepts within milliseconds, over any link a person would wait on
MAX_HEAD_BYTES = 64 << 10
RECEIVE_BYTES = 256 << 10


class Lost(Exception):
    """The connection broke, timed out, or brought something that is not HTTP, after the request may have been read."""


class Closed(Lost):
    """The other end closed the connection, or had before. One kept alive that was idle is closed so sooner or later."""


class Address(NamedTuple):
    url: str  # for people, and as Host
    host: str
    port: int


def parse_url(url: str) -> Address:
    """Address of 'https://host:port', 'host:port' or 'host'; raises InvalidRequest on anything else."""
    scheme, separator, rest = url.strip().rpartition("://")
    if separator and scheme.lower() != "https":
        raise InvalidRequest(f"'{url}' is not a controller's address", "gpuq speaks https only")
    authority = rest.rstrip("/")
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        port_text = tail[1:] if tail.startswith(":") else tail
        valid = bool(bracket) and (not tail or tail.startswith(":"))
    else:
        host, _, port_text = authority.partition(":")
        valid = True
    port = int(port_text) if port_text.isascii() and port_text.isdigit() else None if port_text else DEFAULT_PORT
    plain = host.isascii() and host.isprintable() and not set(host) & set(" /@?#\\")
    if not (valid and host and plain) or port is None or not 0 < port < 65536:
        raise InvalidRequest(f"'{url}' is not a controller's address", "write https://HOST:PORT")
    shown = f"[{host}]" if ":" in host else host
    return Address(f"https://{shown}:{port}", host, port)


class Head(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case; of a repeated name, the last


class Connection:
    """A connection that carries one request at a time. Raises Unreachable until connected, Lost from then on."""

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:
        self.reused = False  # whether it has carried an answer already: then the other end may have closed it meanwhile
        self._buffer = bytearray()
        self._host = address.url.removeprefix("https://")
        self._socket = _connect(address, context)

    def close(self) -> None:
        self._socket.close()

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> None:
        """Writes the request in one piece: head and body apart would wait for each other's TCP acknowledgement."""
        lines = [f"{method} {target} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        self._socket.settimeout(30.0)
        try:
            self._socket.sendall(head + (body or b""))
        except OSError as error:
            raise _lost(error) from error

    def read_head(self, timeout: float) -> Head:
        deadline = time.monotonic() + timeout
        while True:
            parts = self._line(deadline).split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not (parts[1].isascii() and parts[1].isdigit()):
                raise Lost("the answer is not HTTP")
            headers = {}
            while line := self._line(deadline):
                name, colon, value = line.partition(":")
                if not colon:
                    raise Lost("the answer is not HTTP")
                headers[name.strip().lower()] = value.strip()
            if int(parts[1]) >= 200:  # 1xx only announces the real one
                return Head(int(parts[1]), headers)

    def read_body(self, head: Head, timeout: float) -> Iterator[bytes]:
        """The body's pieces as they come; timeout is for each. Exhausted, the connection may carry the next request."""
        if head.status in (204, 304):
            return
        length = head.headers.get("content-length", "")
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := self._chunk_size(time.monotonic() + timeout):
                yield from self._exactly(size, timeout)
                if self._line(time.monotonic() + timeout):
                    raise Lost("the answer is not HTTP")
            while self._line(time.monotonic() + timeout):
                pass  # trailers
        elif length.isascii() and length.isdigit():
            yield from self._exactly(int(length), timeout)
        else:
            raise Lost("the answer is not HTTP as gpuq speaks it")

    def _chunk_size(self, deadline: float) -> int:
        text = self._line(deadline).partition(";")[0].strip()
        if not text or len(text) > 8 or not set(text.lower()) <= set("0123456789abcdef"):
            raise Lost("the answer is not HTTP")
        return int(text, 16)

    def _exactly(self, size: int, timeout: float) -> Iterator[bytes]:
        while size:
            if not self._buffer:
                self._fill(time.monotonic() + timeout)
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            size -= len(piece)
            yield piece

    def _line(self, deadline: float) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise Lost("the answer is not HTTP")
            self._fill(deadline)
        line = self._buffer[:end].rstrip(b"\r").decode("latin-1")
        del self._buffer[: end + 1]
        return line

    def _fill(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Lost("it does not answer")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise _lost(error) from error
        if not data:
            raise Closed("the connection was closed")
        self._buffer += data


def _connect(address: Address, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        raw = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
    except ConnectionRefusedError as error:
        raise Unreachable(
            f"nothing answers at {address.url}", "is the controller running? `gpuq up` starts one"
        ) from error
    except TimeoutError as error:
        raise Unreachable(
            f"no answer from {address.url} in {CONNECT_SECONDS:.0f} s", "is the address right, and no firewall between?"
        ) from error
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"cannot connect to {address.url}: {_why(error)}", "is the address right?") from error
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(raw, server_hostname=TLS_NAME)
    except ssl.SSLCertVerificationError as error:
        raw.close()
        raise Impostor(
            f"{address.url} is not the controller this token is for ({error.verify_message})",
            "nothing was sent; is the address right?",
        ) from error
    except ssl.SSLError as error:
        raw.close()
        raise Unreachable(
            f"what answers at {address.url} is not a gpuq controller ({_why(error)})", "is the address right?"
        ) from error
    except OSError as error:
        raw.close()
        raise Unreachable(
            f"the connection to {address.url} broke before TLS was set up: {_why(error)}", "is that a gpuq controller?"
        ) from error


def _lost(error: OSError) -> Lost:
    return Closed(_why(error)) if isinstance(error, (ConnectionError, ssl.SSLEOFError)) else Lost(_why(error))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
