"""The agent's side of its exchange with the controller, over httpx."""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import replace
from typing import TypeVar

from gpuq.client.connection import parse_url
from gpuq.client.http import target_of
from gpuq.client.transport import Transport
from gpuq.codec import decode, encode
from gpuq.errors import GpuqError, Unavailable
from gpuq.protocol import LogReply, LogShipment, SyncReply, SyncRequest
from gpuq.wire import API_PREFIX, STREAM_PIECE

T = TypeVar("T")

ANSWER_SECONDS = 20.0  # beyond what a sync asks the controller to wait; later, the agent had better ask afresh
STREAM_ANSWER_SECONDS = 5.0  # somebody sits before it: a lost network is to be noticed
KEPT_FOR_STREAMS = 64
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
        self._streams = Transport(url, token, ca_pem, KEPT_FOR_STREAMS)
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

    # Streams have connections of their own: two each, and none of the above is to wait for one.

    async def read_stream(self, id: str, offset: int, wait_seconds: float) -> bytes:
        """The client's bytes from offset on, after up to wait_seconds if there are none."""
        target = target_of(f"/agent/streams/{id}", {"offset": offset, "limit": STREAM_PIECE, "wait": int(wait_seconds)})
        return await self._streams.octets(target, wait_seconds + STREAM_ANSWER_SECONDS)

    async def write_stream(
        self, id: str, offset: int, acked: int, piece: bytes, wait_seconds: float
    ) -> tuple[int | None, int | None]:
        """Brings the job's bytes; gives how far the controller has taken them, and how many the client has.

        None: it does not know yet. acked is how many that are as far as is known here.
        """
        target = target_of(f"/agent/streams/{id}", {"offset": offset, "acked": acked, "wait": int(wait_seconds)})
        said = await self._streams.ask("POST", target, wait_seconds + STREAM_ANSWER_SECONDS, piece)
        return said["taken"], said["acked"]

    async def fail_stream(self, id: str, text: str) -> None:
        """Ends a stream that cannot be; text says why, to its user."""
        target = target_of(f"/agent/streams/{id}", {"text": text})
        await self._streams.ask("DELETE", target, STREAM_ANSWER_SECONDS)

    async def close(self) -> None:
        await self._transport.close()
        await self._streams.close()

    async def _post(self, cls: type[T], route: str, timeout: float, content: bytes, kind: str) -> T:
        target = f"{API_PREFIX}/agent/{route}"
        body = await self._transport.ask("POST", target, timeout, content, {"content-type": kind})
        try:
            return decode(cls, body)
        except GpuqError as error:
            raise Unavailable(f"the controller's answer cannot be read: {error.message}") from error
