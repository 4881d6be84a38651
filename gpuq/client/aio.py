"""The agent's side of its exchange with the controller, over httpx."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx

from gpuq.client.connection import CONNECT_SECONDS, parse_url
from gpuq.client.tls import pinned
from gpuq.codec import decode, encode
from gpuq.errors import GpuqError, Unavailable, Unreachable, from_json
from gpuq.protocol import LogReply, LogShipment, SyncReply, SyncRequest
from gpuq.wire import API_PREFIX, PROTOCOL, PROTOCOL_HEADER, TLS_NAME

T = TypeVar("T")

# httpcore asks for sniffio, which is not packed, several times a request, and each time Python searches the disk for
# it: a quarter of a request's processor time. This is how Python itself notes that there is no such module.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]

ANSWER_SECONDS = 20.0  # beyond what a sync asks the controller to wait; later, the agent had better ask afresh
KEPT_CONNECTIONS = 3  # a held poll, a sync with news beside it, a log shipment
IDLE_SECONDS = 60.0  # several polls: an idle agent then never sets up TLS again


class AgentClient:
    """One node's connections to its controller. Nothing is repeated here: each sync says afresh what holds.

    Methods raise Unreachable when the controller was not reached, Unavailable when the answer was lost or is unusable,
    and otherwise the error that the controller's answer stands for.
    """

    def __init__(self, url: str, token: str, ca_pem: str) -> None:
        address = parse_url(url)
        self._url = address.url
        self._base = httpx.URL(f"{address.url}{API_PREFIX}")
        self._headers = {
            "host": self._base.netloc.decode(),
            "authorization": f"Bearer {token}",
            PROTOCOL_HEADER: str(PROTOCOL),
        }
        # The transport, not AsyncClient: without redirects, cookies and authentication flows, of which there are none
        # here, a request takes 0.15 ms less processor time, and an agent with short jobs makes 200 a second. Nor does
        # it know of proxies, whatever a shell profile says.
        self._http = httpx.AsyncHTTPTransport(
            verify=pinned(ca_pem),
            limits=httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        )

    async def sync(self, request: SyncRequest) -> SyncReply:
        content = json.dumps(encode(request), separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        answer = await self._post("/agent/sync", content, headers, request.wait_seconds + ANSWER_SECONDS)
        return _decoded(SyncReply, answer)

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
        """body: the bytes of the shipment's chunks, one after the other."""
        header = json.dumps(encode(shipment), separators=(",", ":")).encode()
        headers = {"content-type": "application/octet-stream"}
        answer = await self._post("/agent/logs", b"".join((header, b"\n", body)), headers, ANSWER_SECONDS)
        return _decoded(LogReply, answer)

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, path: str, content: bytes, headers: Mapping[str, str], timeout: float) -> Any:
        """The JSON of the answer."""
        timeouts = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        request = httpx.Request(
            "POST",
            self._base.copy_with(raw_path=f"{API_PREFIX}{path}".encode()),
            headers={**self._headers, **headers},
            content=content,
            extensions={"sni_hostname": TLS_NAME, "timeout": timeouts.as_dict()},  # also the name that is verified
        )
        try:
            answer = await self._http.handle_async_request(request)
            await answer.aread()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(f"cannot reach the controller at {self._url}: {str(error) or 'no answer'}") from error
        except httpx.RequestError as error:
            raise Unavailable(f"lost the controller at {self._url}: {str(error) or type(error).__name__}") from error
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code >= 400:
            raise from_json(answer.status_code, body)
        return body


def _decoded(cls: type[T], body: object) -> T:
    try:
        return decode(cls, body)
    except GpuqError as error:
        raise Unavailable(f"the controller's answer cannot be read: {error.message}") from error
