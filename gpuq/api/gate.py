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
from starlette.types import ASGIApp, Receive, Scope, Send

from gpuq.api.auth import MAY, check_role
from gpuq.api.calls import CALL_KEY, NOBODY, Call, Site
from gpuq.api.failures import refusal, unexpected
from gpuq.errors import GpuqError, Incompatible, InvalidRequest, NotFound
from gpuq.protocol import API_PREFIX, MAX_BODY_BYTES, PROTOCOL, PROTOCOL_HEADER, REQUEST_ID_HEADER

logger = logging.getLogger(__name__)

Role = Literal["open", "viewer", "user", "admin", "node"]
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
            route = self._route(scope["method"], scope["path"])
            call = await self._admit(route, scope, receive)
            if scope["query_string"] or "{" in route.path:
                _check_query(route, scope["query_string"])
                scope[CALL_KEY] = call
                await self._inner(scope, receive, send)
                return
            response = await route.handler(call)
        except ClientDisconnect:
            return
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
            raise MethodNotAllowed(f"{method[:20]} is not for {path[:200]}", f"it takes {', '.join(sorted(table))}")
        return route

    async def _admit(self, route: Route, scope: Scope, receive: Receive) -> Call:
        """The call, or who, what or how large it is raised as an error. The token is judged before a body is read."""
        authorization = protocol = request_id = length = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == _PROTOCOL_HEADER:
                protocol = value
            elif name == _REQUEST_ID_HEADER:
                request_id = value
            elif name == b"content-length":
                length = value
        if route.role == "open":
            return Call(self._site, NOBODY)
        if protocol is not None and protocol != b"%d" % PROTOCOL:
            theirs = protocol[:20].decode("latin-1")
            raise Incompatible(f"this controller speaks protocol {PROTOCOL}, the client {theirs}", "use one version")
        actor = self._site.tokens.actor(None if authorization is None else authorization.decode("latin-1"))
        check_role(actor, route.role)
        if route.method == "GET":
            return Call(self._site, actor)
        body = await _read(receive, route.max_body, int(length) if length and length.isdigit() else 0)
        if not route.mutates:
            return Call(self._site, actor, body)
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            raise InvalidRequest(
                f"the header {REQUEST_ID_HEADER} is missing or malformed",
                "send 8 to 64 of A-Z a-z 0-9 _ -, new each time",
            )
        return Call(self._site, actor, body, request_id.decode(), _digest(route.method, scope["path"], body))


class MethodNotAllowed(InvalidRequest):
    """A path that exists, asked in a way it does not take."""

    http_status = 405


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
