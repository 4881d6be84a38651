"""What agents call: the exchange, and their logs. A node speaks only for itself."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.auth import derived_secret
from gpuq.api.calls import By, Call, Site
from gpuq.api.lookup import is_rank_on
from gpuq.codec import decode, encode
from gpuq.errors import GpuqError, InvalidRequest, NotAuthenticated, NotAuthorised, NotFound
from gpuq.holes import Hole
from gpuq.model import NodeName
from gpuq.protocol import MAX_LOG_POST_BYTES, LogAck, LogReply, LogShipment, RunOrder, SyncReply, SyncRequest
from gpuq.store.logfiles import Log, LogFiles, Piece

logger = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_CHUNKS = 10_000  # of one shipment: each costs a look-up
MAX_LOG_BYTES = 1 << 50  # more than a node writes in its life; a hole may not lead further
LOG_HEADER_BYTES = 2 << 20  # room for that many chunks ahead of the bytes


async def sync(call: By) -> Response:
    """An agent's heartbeat and report; the answer holds its orders."""
    node = _node(call)
    request = _decoded(SyncRequest, call.body)
    if request.node != node:
        raise NotAuthorised(f"the token is node {node}'s, the report is of {request.node[:60]}")
    reply = await call.controller.sync(node, _with_own_orders(call.site, request))
    try:
        call.judge()
    except NotAuthorised:  # a node that was removed meanwhile hears what to stop; a token that was replaced, of no job
        reply = replace(reply, run=())
    return answer(encode(_sealed(call.site, reply)))


async def logs(call: By) -> Response:
    """Pieces of logs, each acknowledged with the bytes that are now on disk.

    A log that is not of this node, or that nobody here knows, is left out of the answer, so that it holds up no other.
    """
    node = _node(call)
    holes: dict[Log, Hole] = {}
    shipment, body = await _unpacked(call.body)
    pieces = {log: found for log, found in _pieces(shipment, body, holes).items() if _is_of(call, node, log)}
    if not pieces:
        raise NotFound(f"none of these logs is of an attempt on node {node}")
    async with call.site.log_writes:
        sizes, failure = await asyncio.to_thread(_write, call.site.logs, pieces, holes)
    if failure is not None and not sizes:
        raise failure
    for log in sizes:
        call.site.follow.log_grew(log)
    return answer(encode(LogReply(tuple(LogAck(uid, rank, size) for (uid, rank), size in sizes.items()))))


def _sealed(site: Site, reply: SyncReply) -> SyncReply:
    return replace(reply, run=tuple(replace(order, seal=_seal(site, order)) for order in reply.run))


def _with_own_orders(site: Site, request: SyncRequest) -> SyncRequest:
    """The request without orders that no controller of this CA gave.

    An order that is not on record here goes on record as the agent has it: as a job of whom it names, which other
    nodes may run next. So it must not be a node that says what it is.
    """
    reports = tuple(
        word if word.order is None or _is_own(site, word.order) else replace(word, order=None)
        for word in request.reports
    )
    forged = sum(kept is not word for word, kept in zip(request.reports, reports, strict=True))
    if forged:  # without their names: who forges chooses these, and a line end among them would forge this log
        logger.warning("order.forged node=%s count=%d", request.node, forged)
    return replace(request, reports=reports)


def _is_own(site: Site, order: RunOrder) -> bool:
    return hmac.compare_digest(order.seal.encode(), _seal(site, order).encode())


def _seal(site: Site, order: RunOrder) -> str:
    text = json.dumps(encode(replace(order, seal="")), sort_keys=True)
    return derived_secret(site.ca_key, "order", text)


def _write(
    files: LogFiles, pieces: Mapping[Log, list[Piece]], holes: Mapping[Log, Hole]
) -> tuple[dict[Log, int], GpuqError | None]:
    """Sizes of the logs that could be written, and what went wrong with the others: they do not undo each other."""
    sizes: dict[Log, int] = {}
    failure: GpuqError | None = None
    for log, found in pieces.items():
        try:
            sizes[log] = files.append(log, found, holes.get(log))
        except GpuqError as error:
            failure = error
    return sizes, failure


def _node(call: Call) -> NodeName:
    if call.actor.node is None or call.actor.node not in call.controller.view.nodes:
        raise NotAuthenticated("the token's node is not part of this cluster", "add the node again")
    return call.actor.node


def _is_of(call: Call, node: NodeName, log: Log) -> bool:
    return is_rank_on(call.controller, *log, node)


async def _unpacked(body: bytes) -> tuple[LogShipment, memoryview]:
    """The header of a shipment, and the bytes of its pieces as they were written."""
    end = body.find(b"\n")
    if end < 0:
        raise InvalidRequest("a shipment of logs is one line of JSON and then the bytes")
    shipment, rest = _decoded(LogShipment, body[:end]), memoryview(body)[end + 1 :]
    if not shipment.packed:
        return shipment, rest
    if not 0 < shipment.packed <= MAX_LOG_POST_BYTES:
        raise InvalidRequest(f"LogShipment.packed must be at most {MAX_LOG_POST_BYTES:,}")
    unpacker = zlib.decompressobj()
    try:  # in a thread: some 10 ms, and no more than it says, whatever the bytes would become
        plain = await asyncio.to_thread(unpacker.decompress, rest, shipment.packed + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the pieces cannot be unpacked: {error}") from None
    return shipment, memoryview(plain)


def _pieces(shipment: LogShipment, body: memoryview, holes: dict[Log, Hole]) -> dict[Log, list[Piece]]:
    """The pieces of each log, in the order they were sent; adds the holes that logs have."""
    chunks = shipment.chunks
    if len(chunks) > _MAX_CHUNKS:
        raise InvalidRequest(f"a shipment of logs has at most {_MAX_CHUNKS:,} pieces")
    at = 0
    pieces: dict[Log, list[Piece]] = {}
    for chunk in chunks:
        if chunk.offset < 0 or chunk.length < 0:
            raise InvalidRequest("LogChunk.offset and LogChunk.length must be at least 0")
        if not 0 <= chunk.hole_start <= chunk.hole_end <= MAX_LOG_BYTES:
            raise InvalidRequest("LogChunk.hole_start and LogChunk.hole_end must be in order")
        if chunk.hole_start < chunk.hole_end:
            holes[chunk.uid, chunk.rank] = Hole(chunk.hole_start, chunk.hole_end)
        pieces.setdefault((chunk.uid, chunk.rank), []).append((chunk.offset, body[at : at + chunk.length]))
        at += chunk.length
    if at != len(body):
        raise InvalidRequest(f"the pieces have {at:,} bytes by their header, but {len(body):,} came")
    return pieces


def _decoded(cls: type[T], text: bytes) -> T:
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    return decode(cls, data)
