"""The client behind every command: standard library only, because importing more would double a command's time.

A mutation gets a request id, and is repeated under it when the answer was lost or was 503: the controller remembers
ids for 24 hours and gives a repeated one the answer it gave before, so repeating cannot do anything twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpuq.client.connection import Closed, Connection, Head, Lost, parse_url
from gpuq.client.tls import Impostor, is_certificate, pinned, unverified
from gpuq.errors import GpuqError, InvalidRequest, NoSpace, Unavailable, Unreachable, from_json
from gpuq.wire import API_PREFIX, PROTOCOL, PROTOCOL_HEADER, REQUEST_ID_HEADER

Params = Mapping[str, "str | int | float | Sequence[str] | None"]

ANSWER_SECONDS = 30.0  # a commit behind a busy disk takes seconds, not half minutes
WRITE_PATIENCE_SECONDS = 30.0  # a controller is back from a restart, its state loaded, well within this
READ_PATIENCE_SECONDS = 5.0  # who only looks would rather hear that it is down
FIRST_PAUSE_SECONDS = 0.1
MAX_CA_BYTES = 64 << 10  # a CA certificate has under 1 KB
LONGEST_PAUSE_SECONDS = 2.0

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Client:
    """Talks to one controller as one user, over one kept-alive connection. Not for use by two threads at once.

    Paths are below /api/v1 and need no escaping. Of params, None is left out, a list repeats its name. Every method
    raises the GpuqError that the controller's answer stands for, or Unreachable if it was never reached.
    """

    def __init__(self, url: str, token: str, ca_pem: str) -> None:
        self._address = parse_url(url)
        self._context = pinned(ca_pem)
        self._headers = {"authorization": f"Bearer {token}", PROTOCOL_HEADER: str(PROTOCOL)}
        self._connection: Connection | None = None

    @property
    def url(self) -> str:
        return self._address.url

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def get(self, path: str, params: Params | None = None, timeout: float = ANSWER_SECONDS) -> Any:
        return _parsed(self.raw(path, params, timeout))

    def raw(
        self,
        path: str,
        params: Params | None = None,
        timeout: float = ANSWER_SECONDS,
        patience: float = READ_PATIENCE_SECONDS,
    ) -> Answer:
        """The answer to a GET, as bytes. patience: seconds to repeat it if the controller goes away under it."""
        return self._persist("GET", path, params, self._headers, None, timeout, patience)

    def another(self) -> Client:
        """For use by another thread: the same controller and user, a connection of its own."""
        client = Client.__new__(Client)
        client._address, client._context, client._headers = self._address, self._context, self._headers
        client._connection = None
        return client

    def once(self, method: str, path: str, params: Params | None, content: bytes | None, timeout: float) -> Answer:
        """One request with bytes for a body, which is not repeated; raises Unavailable if its answer was lost.

        For what may come twice as it is: a request without an id of its own.
        """
        return self._persist(method, path, params, self._headers, content, timeout, patience=0.0)

    def post(self, path: str, body: object = None, params: Params | None = None, request_id: str | None = None) -> Any:
        return self._mutate("POST", path, body, params, request_id)

    def patch(self, path: str, body: object = None, params: Params | None = None, request_id: str | None = None) -> Any:
        return self._mutate("PATCH", path, body, params, request_id)

    def delete(
        self, path: str, body: object = None, params: Params | None = None, request_id: str | None = None
    ) -> Any:
        return self._mutate("DELETE", path, body, params, request_id)

    def stream(self, path: str, params: Params | None = None, silence: float = ANSWER_SECONDS) -> Iterator[bytes]:
        """The pieces of a GET's body as they arrive, over a connection of its own.

        Raises Unavailable when it breaks off or nothing comes for `silence` seconds: whoever reads knows where to go
        on from.
        """
        connection = Connection(self._address, self._context)
        try:
            connection.send("GET", target_of(path, params), self._headers, None)
            head = connection.read_head(silence)
            if head.status >= 400:
                raise _failure(_collect(connection, head, silence))
            yield from connection.read_body(head, silence)
        except Lost as lost:
            raise Unavailable(f"lost the controller at {self.url}: {lost}") from lost
        finally:
            connection.close()

    def _mutate(self, method: str, path: str, body: object, params: Params | None, request_id: str | None) -> Any:
        headers = {**self._headers, REQUEST_ID_HEADER: request_id or os.urandom(16).hex()}
        try:
            content = b"" if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("an argument or variable is not UTF-8 text, which is all gpuq can pass on") from error
        if content:
            headers["content-type"] = "application/json"
        try:
            return _parsed(
                self._persist(method, path, params, headers, content, ANSWER_SECONDS, WRITE_PATIENCE_SECONDS)
            )
        except _Vanished as vanished:
            raise Unavailable(
                f"the outcome is unknown: {vanished.one_line()}", "look whether it was done before you repeat it"
            ) from vanished

    def _persist(
        self,
        method: str,
        path: str,
        params: Params | None,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout: float,
        patience: float,
    ) -> Answer:
        """Repeats one request until there is an answer, for as long as `patience` from the first trouble."""
        target = target_of(path, params)
        give_up_at: float | None = None
        pause = FIRST_PAUSE_SECONDS
        trouble: GpuqError
        while True:
            try:
                answer = self._once(method, target, headers, content, timeout)
                if answer.status < 400:
                    return answer
                trouble = _failure(answer)
                # Without space nothing was changed, now or before: there is nothing to be found out by repeating.
                if answer.status != 503 or isinstance(trouble, NoSpace):
                    raise trouble
            except Unreachable as error:
                if give_up_at is None:  # never got through: nothing can have happened
                    raise
                trouble = error
            except Lost as lost:
                trouble = Unavailable(f"lost the controller at {self.url}: {lost}")
            now = time.monotonic()
            give_up_at = give_up_at or now + patience
            if now >= give_up_at:
                raise _Vanished(trouble.message, trouble.hint) from trouble
            time.sleep(min(jittered(pause), give_up_at - now))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _once(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes | None, timeout: float
    ) -> Answer:
        connection = self._connection or Connection(self._address, self._context)
        self._connection = None  # put back only when it is known to be good for another request
        try:
            connection.send(method, target, headers, content)
            head = connection.read_head(timeout)
            answer = _collect(connection, head, timeout)
        except Closed:
            connection.close()
            if connection.reused:  # closed as idle, most likely: a new one, at once
                return self._once(method, target, headers, content, timeout)
            raise
        except BaseException:
            connection.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            connection.reused = True
            self._connection = connection
        return answer


class _Vanished(Unavailable):
    """The controller saw, or may have seen, the request, and no answer came for as long as we had patience."""


def fetch_ca(url: str, sha256_hex: str) -> str:
    """The CA certificate (PEM) that the controller at `url` shows, if it has this fingerprint; else raises Unreachable.

    Nothing secret is sent: this connection is the one that cannot be verified, and only its outcome is.
    """
    address = parse_url(url)
    connection = Connection(address, unverified())
    try:
        connection.send("GET", f"{API_PREFIX}/ca", {PROTOCOL_HEADER: str(PROTOCOL)}, None)
        body = _strangers_answer(connection)
    except Lost as lost:
        raise Unreachable(f"what answers at {address.url} is not a gpuq controller: {lost}") from lost
    finally:
        connection.close()
    try:
        ca_pem = body.decode("ascii")
    except UnicodeDecodeError:
        ca_pem = ""
    if not is_certificate(ca_pem, sha256_hex):
        raise Impostor(
            f"{address.url} is not the controller this token is for (its CA is another)",
            "the token was not sent; is the address right?",
        )
    return ca_pem


def _strangers_answer(connection: Connection) -> bytes:
    """What a server says that may be anybody's: not for long, not much, and not in the words of an error of its own."""
    deadline = time.monotonic() + ANSWER_SECONDS
    head = connection.read_head(ANSWER_SECONDS)
    if head.status != 200:
        raise Lost(f"it answers with HTTP status {head.status}")
    body = bytearray()
    for piece in connection.read_body(head, ANSWER_SECONDS):
        body += piece
        if len(body) > MAX_CA_BYTES or time.monotonic() > deadline:
            raise Lost("its answer has no end")
    return bytes(body)


def quote(text: str, keep: str = "") -> str:
    """Percent-encoded for a URL. (urllib.parse costs 3 ms to import.)"""
    kept = _UNRESERVED.union(keep.encode())
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def target_of(path: str, params: Params | None) -> str:
    """What a request line names: path and params below /api/v1, escaped."""
    pairs = []
    for name, value in (params or {}).items():
        if value is not None:
            values = [value] if isinstance(value, (str, int, float)) else value
            pairs += [f"{quote(name)}={quote(str(int(v) if isinstance(v, bool) else v))}" for v in values]
    query = "?" + "&".join(pairs) if pairs else ""
    return f"{API_PREFIX}{quote(path, '/')}{query}"


def _collect(connection: Connection, head: Head, timeout: float) -> Answer:
    return Answer(head.status, head.headers, b"".join(connection.read_body(head, timeout)))


def _failure(answer: Answer) -> GpuqError:
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    return from_json(answer.status, body)


def _parsed(answer: Answer) -> Any:
    if not answer.body:
        return None
    try:
        return json.loads(answer.body)
    except ValueError as error:
        raise Unavailable("the controller's answer is not JSON", "is a proxy answering in its place?") from error


def jittered(pause: float) -> float:
    """A pause somewhat shorter than this, so that many clients do not come back at the same instant."""
    return pause * (0.5 + os.urandom(1)[0] / 510)
