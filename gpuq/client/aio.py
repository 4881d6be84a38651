"""The agent's side of its exchange with the controller, over httpx."""

from __future__ import annotations

import json
from typing import TypeVar

from gpuq.client.transport import Transport
from gpuq.codec import decode, encode
from gpuq.errors import GpuqError, Unavailable
from gpuq.protocol import LogReply, LogShipment, SyncReply, SyncRequest
from gpuq.wire import API_PREFIX

T = TypeVar("T")

ANSWER_SECONDS = 20.0  # beyond what a sync asks the controller to wait; later, the agent had better ask afresh
KEPT_CONNECTIONS = 3  # a held poll, a sync with news beside it, a log shipment


class AgentClient:
    """One node's connections to its controller. Nothing is repeated here: each sync says afresh what holds.

    Methods raise Unreachable when the controller was not reached, Unavailable when the answer was lost or is unusable,
    and otherwise the error that the controller's answer stands for.
    """

    def __init__(self, url: str, token: str, ca_pem: str) -> None:
        self._transport = Transport(url, token, ca_pem, KEPT_CONNECTIONS)

    async def sync(self, request: SyncRequest) -> SyncReply:
        content = json.dumps(encode(request), separators=(",", ":")).encode()
        return await self._post(SyncReply, "sync", request.wait_seconds + ANSWER_SECONDS, content, "application/json")

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
        """body: the bytes of the shipment's chunks, one after the other."""
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
