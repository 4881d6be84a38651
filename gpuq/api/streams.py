"""Streams to running jobs: opened by a client, joined by the agent, carried by requests that name an offset.

Either end asks for bytes from where it stands, which says that it has all before, and brings its own from where the
other's have come to. Nothing follows from a connection: any of these requests may be lost and is then repeated.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Path, Query
from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.calls import By, Call
from gpuq.api.jobs import Id, Wait
from gpuq.api.lookup import require
from gpuq.api.schemas import NewStream, parse
from gpuq.errors import Conflict, NotFound
from gpuq.model import AttemptUid, JobId, NodeName
from gpuq.protocol import POLL_SECONDS, STREAM_WINDOW, StreamAim, StreamOrder
from gpuq.service.commands import OpenStream
from gpuq.service.draft import Draft
from gpuq.service.live import clock
from gpuq.service.pipes import Pipe, Stream
from gpuq.service.streams import allow, check_may

_MAX_TEXT = 300
_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")

StreamId = Annotated[str, Path(description="as opened")]
Offset = Annotated[int, Query(ge=0, lt=1 << 62)]


async def open_stream(call: By, id: Id, dry_run: bool = False) -> Response:
    """Connect to a running job. The stream has the request id as its own; asked again, it is opened again.

    So it is after the controller was restarted, which remembers what it answered but no stream. With dry_run, only say
    whether it may be.
    """
    asked = parse(NewStream, call.body)
    aim, streams = asked.aim(), call.controller.streams
    job = require(call, id)
    check_may(call.actor, job, aim.kind)
    known = streams.find(call.request_id)
    if known is None:
        streams.check_room(call.actor.user)
    elif known.user != call.actor.user:
        raise Conflict("there is another stream of this id", "make a new request id")
    told = streams.is_one_of_many(call.actor.user, job.id, asked.rank, aim)
    command = OpenStream(call.actor, job.id, asked.rank, aim, told, {job.id: job})
    if dry_run:
        allowed = allow(Draft(call.controller.view, clock(), call.controller.policy), command)
        await call.controller.settled()
        return answer(allowed)
    reply = await call.execute(command)
    if streams.find(call.request_id) is None:
        call.controller.add_stream(_stream(call, aim, reply["job"], reply["uid"], reply["rank"], reply["node"]))
    return answer({"id": call.request_id, **reply}, 201)


def _stream(call: Call, aim: StreamAim, job: str, uid: str, rank: int, node: str) -> Stream:
    now = clock().monotonic
    order = StreamOrder(call.request_id, AttemptUid(uid), rank, aim)
    return Stream(order, JobId(job), NodeName(node), call.actor.user, now, now)


# ---------------------------------------------------------------- the client


async def from_job(
    call: By, id: StreamId, offset: Offset, limit: Annotated[int, Query(ge=1)] = STREAM_WINDOW, wait: Wait = 0
) -> Response:
    """Bytes from the job, from this offset on; all before it are not needed any more.

    A header gpuq-stream-silent names the node while that does not answer.
    """
    stream = _mine(call, id)
    return await _read(call, stream, stream.down, offset, limit, wait, lambda now: _heard_client(stream, now))


async def to_job(
    call: By,
    id: StreamId,
    offset: Offset,
    acked: Annotated[int, Query(ge=0, description="what you know the job's end to have")] = 0,
    wait: Wait = 0,
) -> Response:
    """Bytes for the job, from this offset on. Says how far they were taken, and what the job's end has.

    With wait, answers once some were taken, or the job's end has more than `acked`.
    """
    stream = _mine(call, id)
    return await _write(call, stream, stream.up, offset, acked, wait, lambda now: _heard_client(stream, now))


async def leave(call: By, id: StreamId) -> Response:
    """Close a stream. A shell is hung up."""
    _mine(call, id).end("", clock().monotonic)
    return answer({})


# ---------------------------------------------------------------- the agent


async def from_client(
    call: By, id: StreamId, offset: Offset, limit: Annotated[int, Query(ge=1)] = STREAM_WINDOW, wait: Wait = 0
) -> Response:
    """As for a client: bytes for the job. 404 means that the client may come back, 409 that it will not."""
    stream = _of_node(call, id)
    return await _read(call, stream, stream.up, offset, limit, wait, lambda now: _heard_agent(stream, now))


async def to_client(
    call: By, id: StreamId, offset: Offset, acked: Annotated[int, Query(ge=0)] = 0, wait: Wait = 0
) -> Response:
    """As for a client: bytes from the job."""
    stream = _of_node(call, id)
    return await _write(call, stream, stream.down, offset, acked, wait, lambda now: _heard_agent(stream, now))


async def fail(call: By, id: StreamId, text: Annotated[str, Query(max_length=_MAX_TEXT)]) -> Response:
    """End a stream that cannot be; text says why, to its user."""
    stream = _of_node(call, id)
    _heard_agent(stream, clock().monotonic)
    stream.end(text or "its node says so", clock().monotonic)
    return answer({})


# ---------------------------------------------------------------- both


def _mine(call: Call, id: str) -> Stream:
    stream = call.controller.streams.find(id)
    if stream is None or stream.user != call.actor.user:
        raise NotFound("there is no such stream", "open it again")
    return stream


def _of_node(call: Call, id: str) -> Stream:
    stream = call.controller.streams.find(id)
    if stream is None or stream.node != call.actor.node:
        raise NotFound("there is no such stream")
    return stream


def _heard_client(stream: Stream, now: float) -> None:
    stream.client_at = now


def _heard_agent(stream: Stream, now: float) -> None:
    stream.joined(now)


async def _read(
    call: Call,
    stream: Stream,
    pipe: Pipe,
    offset: int,
    limit: int,
    wait: float,
    heard: Callable[[float], None],
) -> Response:
    heard(clock().monotonic)
    if not (data := pipe.read(offset, limit)):
        stream.changed()  # where the reader stands may be news
        await _until(call, stream, lambda: bool(pipe.end and pipe.end > offset), wait)
        heard(clock().monotonic)
        data = pipe.read(offset, limit)
    if not data:
        _check_not_over(stream)
    stream.changed()
    silent = {"gpuq-stream-silent": stream.node} if stream.due and stream.agent_at is not None else None
    return Response(data, 200, silent, "application/octet-stream")


async def _write(
    call: Call,
    stream: Stream,
    pipe: Pipe,
    offset: int,
    acked: int,
    wait: float,
    heard: Callable[[float], None],
) -> Response:
    heard(clock().monotonic)
    body = call.body

    def took() -> bool:
        call.judge()  # what waits for room may wait for longer than the rights to bring it last
        pipe.take(offset, body)
        if pipe.end is None or pipe.base is None:
            return False
        return pipe.end != offset or pipe.base > acked

    if not took():
        await _until(call, stream, took, wait)
        heard(clock().monotonic)
    _check_not_over(stream)
    stream.changed()
    return answer({"taken": pipe.end, "acked": pipe.base})


def _check_not_over(stream: Stream) -> None:
    if stream.over is not None:
        raise Conflict(stream.over or "the stream was closed")


async def _until(call: Call, stream: Stream, check: Callable[[], bool], seconds: float) -> None:
    """Returns when check() is true, the stream is over, `seconds` have passed or the server stops."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(seconds, POLL_SECONDS)
    while not (check() or stream.over is not None or call.controller.streams.closing):
        left = deadline - loop.time()
        if left <= 0:
            return
        woken: asyncio.Future[None] = loop.create_future()
        wake = _waker(woken)
        stream.waiting.add(wake)
        timer = loop.call_later(left, wake)
        try:
            await woken
        finally:
            timer.cancel()
            stream.waiting.discard(wake)


def _waker(future: asyncio.Future[None]) -> Callable[[], None]:
    def wake() -> None:
        if not future.done():
            future.set_result(None)

    return wake
