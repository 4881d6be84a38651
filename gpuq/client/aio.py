"""The agent's side of its exchange with the controller, over httpx."""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import replace
from typing import TypeVar

from gpuq.client.connection import parse_url
from gpuq.client.transport import Transport
from gpuq.codec import decode, encode
from gpuq.errors import GpuqError, Unavailable
from gpuq.protocol import LogReply, LogShipment, SyncReply, SyncRequest
from gpuq.wire import API_PREFIX

T = TypeVar("T")

ANSWER_SECONDS = 20.0  # beyond what a sync asks the controller to wait; later, the agent had better ask afresh
PACK_BYTES = 1 << 10  # below it nothing is gained
_FAST = 1  # of zlib's levels: 100 MB a second, and a half to a tenth of the size for what programs print
_HERE = ("127.0.0.1", "localhost", "::1")  # hosts to which nothing is gained
KEPT_CONNECTIONS = 3  # a held poll, a sync with news beside it, a log shipment


class AgentClient:
    """One node's connections to its controller. Nothing is repeated here: each sync says afresh what holds.

    Methods raise Unreachable when the controller was not reached, Unavailable when the answer was lost or is unusable,
    and otherwise the error that the controller's answer stands for.
    """

    def __init__(self, url: str, token: str, ca_pem: str, packs: bool | None = None) -> None:
        """packs: whether logs are compressed; None: if the controller is on another machine."""
        self._transport = Transport(url, token, ca_pem, KEPT_CONNECTIONS)
        self._packs = parse_url(url).host not in _HERE if packs is None else packs

    async def sync(self, request: SyncRequest) -> SyncReply:
        content = json.dumps(encode(request), separators=(",", ":")).encode()
        return await self._post(SyncReply, "sync", request.wait_seconds + ANSWER_SECONDS, content, "application/json")

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
        """body: the bytes of the shipment's chunks, one after the other. They are compressed, if that is worth it."""
        if self._packs and len(body) >= PACK_BYTES:
            packed = await asyncio.to_thread(zlib.compress, body, _FAST)
            if len(packed) < len(body):
                shipment, body = replace(shipment, packed=len(body)), packed
        header = json.dumps(encode(shipment), separators=(",", ":")).encode()
        content = b"".join((header, b"\n", body))
        return await self._post(LogReply, "logs", ANSWER_SECONDS, content, "application/octet-stream")

    async def close(self) -> None:
        await self._transport.close()

    async def _post(self, cls: type[T], route: str, timeout: float, content: bytes, kind: str) -> T:
        target = f"{API_PREFIX}/agent/{route}"
        body = await self._transport.ask("POST", target, timeout, content, {"content-type": kind})
        try:
            return decode(cls, body)
        except GpuqError as error:
            raise Unavailable(f"the controller's answer cannot be read: {error.message}") from error
