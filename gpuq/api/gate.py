"""The way in: no request reaches a handler but through here. Unknown paths, callers and roles end here.

Plain ASGI, because this runs for each of a thousand submits a second. A request to a fixed path without a query has
nothing FastAPI would parse, so its handler is called from here; any other goes on to FastAPI.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpuq.api.auth import MAY, check_role
from gpuq.api.calls import CALL_KEY, NOBODY, Call, Judge, Site
from gpuq.api.failures import MethodNotAllowed, refusal, unexpected
from gpuq.errors import GpuqError, Incompatible, InvalidRequest, NotFound, Unavailable
from gpuq.protocol import API_PREFIX, MAX_BODY_BYTES, PROTOCOL, PROTOCOL_HEADER, REQUEST_ID_HEADER
from gpuq.service.commands import Actor

logger = logging.getLogger(__name__)

Role = Literal["open", "viewer", "user", "admin", "node", "join"]
Handler = Callable[..., Awaitable[Response]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_PROTOCOL_HEADER = PROTOCOL_HEADER.encode()
_REQUEST_ID_HEADER = REQUEST_ID_HEADER.encode()
_DRAIN_BYTES = 64 << 20  # read and dropped of a body that is too large, so that its sender gets to read why


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the routes table. role is the least that may call it; mutates says whether a request id is due."""

    method: str
    path: str  # below API_PREFIX
    role: Role
    handler: Handler
    mutates: bool = False
    body: type[BaseModel] | None = None  # what the handler parses the body as, for the API's own description
    max_body: int = MAX_BODY_BYTES
    status: int = 200
    parameters: frozenset[str] = field(init=False)  # names a query may hold: those of the handler

    def __post_init__(self) -> None:
        if self.role != "open" and self.role not in MAY:
            raise ValueError(f"{self.method} {self.path} has no role")
        names = set(inspect.signature(self.handler).parameters) - set(re.findall(r"{(\w+)}", self.path)) - {"call"}
        object.__setattr__(self, "parameters", frozenset(names))


class Gate:
    """The ASGI application around FastAPI's."""

    def __init__(self, routes: Sequence[Route], site: Site, inner: ASGIApp) -> None:
        self._site = site
        self._inner = inner
        self._fixed: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            table = patterns if "{" in route.path else self._fixed
            table.setdefault(API_PREFIX + route.path, {})[route.method] = route
        self._patterns = [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), table) for path, table in patterns.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websockets, and the server runs no lifespan
        try:
            await self._answer(scope, receive, send)
        except ClientDisconnect:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            route = self._route(scope["method"], scope["path"])
            call = await self._admit(route, scope, receive)
            if route.method == "GET":  # what was done is said even to who revoked the very token it was asked with
                send = _while_good(send, call)
            if scope["query_string"] or "{" in route.path:
                _check_query(route, scope["query_string"])
                scope[CALL_KEY] = call
                await self._inner(scope, receive, send)
                return
            try:
                response = await route.handler(call)
            except GpuqError as error:
                response = await refused(call, error)
        except ClientDisconnect:
            raise
        except GpuqError as error:
            response = refusal(error)
        except Exception:
            logger.exception("request.failed method=%s path=%s", scope["method"], scope["path"])
            if CALL_KEY in scope:
                return  # FastAPI has answered already, in our shape
            response = unexpected()
        await response(scope, receive, send)

    def _route(self, method: str, path: str) -> Route:
        table = self._fixed.get(path)
        if table is None:
            table = next((table for pattern, table in self._patterns if pattern.fullmatch(path)), None)
        if table is None:
            raise NotFound(f"there is nothing at {path[:200]}", f"{API_PREFIX}/docs lists what there is")
        route = table.get(method)
        if route is None:
            raise MethodNotAllowed.at(path[:200], method[:20], sorted(table))
        return route

    def _judge(self, route: Route, scope: Scope) -> Judge:
        """Says who the caller is, each time as of then; raises where that is nobody, or nobody who may call this."""
        if route.role == "open":
            return lambda: NOBODY
        header = _header(scope, b"authorization")
        authorization = None if header is None else header.decode("latin-1")
        address = scope["client"][0] if scope["client"] else None

        def judge() -> Actor:
            actor = self._site.tokens.actor(authorization, address)
            check_role(actor, route.role)
            return actor

        return judge

    async def _admit(self, route: Route, scope: Scope, receive: Receive) -> Call:
        """The call, or who, what or how large it is raised as an error. The token is judged before a body is read."""
        judge = self._judge(route, scope)
        if route.role == "open":
            return Call(self._site, NOBODY, judge)
        protocol = _header(scope, _PROTOCOL_HEADER)
        if protocol is not None and protocol != b"%d" % PROTOCOL:
            theirs = protocol[:20].decode("latin-1")
            raise Incompatible(f"this controller speaks protocol {PROTOCOL}, the client {theirs}", "use one version")
        actor = judge()
        if route.method == "GET":
            return Call(self._site, actor, judge)
        length = _header(scope, b"content-length")
        body = await _read(receive, route.max_body, int(length) if length and length.isdigit() else 0)
        actor = judge()  # again: whoever sends slowly enough would act on rights that were taken away meanwhile
        if not route.mutates:
            return Call(self._site, actor, judge, body)
        request_id = _header(scope, _REQUEST_ID_HEADER)
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            raise InvalidRequest(
                f"the header {REQUEST_ID_HEADER} is missing or malformed",
                "send 8 to 64 of A-Z a-z 0-9 _ -, new each time",
            )
        return Call(self._site, actor, judge, body, request_id.decode(), _digest(route.method, scope["path"], body))


async def refused(call: Call, error: GpuqError) -> Response:
    """A refusal, when what it says of the cluster is durable: that a job has ended may have been decided just now."""
    try:
        await call.controller.settled()
    except Unavailable as unavailable:
        error = unavailable
    return refusal(error)


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    """The last header of this name; names are in lower case."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == wanted:
            found = value
    return found


def _while_good(send: Send, call: Call) -> Send:
    """Sends as long as the caller is who was let in: who waits for news, or reads a stream, does so for long.

    Otherwise says why, if nothing was said yet, ends the answer, and raises ClientDisconnect to whoever makes it.
    """
    began = False

    async def guarded(message: Message) -> None:
        nonlocal began
        try:
            if call.judge() != call.actor:
                raise Unavailable("what this token may do was changed meanwhile", "ask again")
        except GpuqError as error:
            if began:
                await send({"type": "http.response.body", "body": b""})
            else:
                await _send_whole(refusal(error), send)
            raise ClientDisconnect from error
        began = True
        await send(message)

    return guarded


async def _send_whole(response: Response, send: Send) -> None:
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})


def _digest(method: str, path: str, body: bytes) -> str:
    """What is asked, in 16 characters: enough to tell a request that is repeated from another with its id."""
    return hashlib.sha256(b"%s %s\n%s" % (method.encode(), path.encode("utf-8", "surrogatepass"), body)).hexdigest()[
        :16
    ]


async def _read(receive: Receive, limit: int, announced: int) -> bytes:
    """The whole body; raises InvalidRequest when it is larger than `limit`, without keeping what is beyond."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= _DRAIN_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        more = message.get("more_body", False)
        if max(size, announced) <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
    if max(size, announced) > limit:
        raise InvalidRequest(f"the body is larger than {limit:,} bytes")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_query(route: Route, query: bytes) -> None:
    """A misspelt filter must not quietly become no filter."""
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in route.parameters:
            known = ", ".join(sorted(route.parameters)) or "none"
            raise InvalidRequest(f"there is no parameter '{name[:40]}' here", f"known: {known}")
