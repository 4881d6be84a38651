"""What is watched as it happens: logs by long poll, events by long poll or as an endless stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Query
from starlette.responses import Response, StreamingResponse

from gpuq.api.answers import answer, json_bytes
from gpuq.api.calls import By, Call
from gpuq.api.jobs import Id, Wait
from gpuq.api.lookup import shown_state
from gpuq.api.reading import Reading, readable, reading_of
from gpuq.api.show import show_event
from gpuq.model import JobId, NodeName
from gpuq.protocol import POLL_SECONDS
from gpuq.store import events as stored
from gpuq.store.logfiles import Log, LogFiles

_READ_BYTES = 1 << 20  # of a log in one answer unless asked otherwise
_MAX_READ_BYTES = 4 << 20
_EVENTS = 100
_MAX_EVENTS = 1000
_HEARTBEAT_SECONDS = 10.0  # a silent stream and a dead connection look the same
_GATHER_SECONDS = 0.05  # events of a burst go out together instead of each costing every stream a query

EventId = Annotated[int | None, Query(ge=0, lt=1 << 63, description="id of the last event you have")]


# ---------------------------------------------------------------- logs


async def log(
    call: By,
    id: Id,
    attempt: Annotated[int | None, Query(ge=1, description="the latest unless given")] = None,
    rank: Annotated[int, Query(ge=0)] = 0,
    offset: Annotated[int, Query(ge=0, lt=1 << 62, description="of the first byte wanted")] = 0,
    limit: Annotated[int, Query(ge=0, le=_MAX_READ_BYTES, description="most bytes in the answer")] = _READ_BYTES,
    tail: Annotated[int | None, Query(ge=0, description="begin so many lines before the end instead")] = None,
    wait: Wait = 0,
) -> Response:
    """Bytes of a job's log. With wait, answers once there are bytes at offset, no more will come, or the job moved."""
    job = readable(call, id)
    reading = await reading_of(call, job, attempt, rank)
    if wait and tail is None and reading.size <= offset and (reading.end is None or reading.end > offset):
        await _news(call, reading, offset, min(wait, POLL_SECONDS))
        job = readable(call, id)  # again: logs may have been closed to others meanwhile
        reading = await reading_of(call, job, attempt, rank)
    data = b""
    if reading.log is not None:
        offset, data = await asyncio.to_thread(_read, call.site.logs, reading.log, offset, limit, tail)
    headers = {
        "gpuq-log-offset": str(offset),
        "gpuq-log-size": str(max(reading.size, offset + len(data) if data else 0)),
        "gpuq-log-attempt": str(reading.attempt.number if reading.attempt else 0),
        "gpuq-job-state": shown_state(call.controller, reading.job).value,
    }
    if reading.deleted:
        headers["gpuq-log-deleted"] = "1"
    if reading.end is not None:
        headers["gpuq-log-end"] = str(reading.end)
    await call.controller.settled()
    return Response(data, 200, headers, "application/octet-stream")


def _read(files: LogFiles, log: Log, offset: int, limit: int, tail: int | None) -> tuple[int, bytes]:
    start = offset if tail is None else files.tail_offset(log, tail)
    return files.read(log, start, limit)


async def _news(call: Call, reading: Reading, offset: int, seconds: float) -> None:
    """Waits for more of this log, for its end, or for the job to be in another state or attempt."""
    files, id, log = call.site.logs, reading.job.id, reading.log
    attempt = reading.attempt if reading.attempt is not None and reading.attempt.live else None

    def happened() -> bool:
        view = call.controller.view
        if log is not None and (files.known_size(log) > offset or view.attempt(log[0]) is not attempt):
            return True
        return view.job(id) is not reading.record

    await call.site.follow.until(happened, seconds, log)


# ---------------------------------------------------------------- events


async def events(
    call: By,
    after: EventId = None,
    wait: Wait = 0,
    job: Annotated[str | None, Query(description="an array's id means its elements as well")] = None,
    node: str | None = None,
    user: str | None = None,
    kind: Annotated[str | None, Query(description="or how it begins: 'job.'")] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_EVENTS)] = _EVENTS,
) -> Response:
    """Events oldest first: those behind an id, or without one the newest."""
    where = _filter(job, node, user, kind)
    await call.controller.settled()
    reader = call.controller.store.reader
    if after is None:
        found = stored.before(reader, None, where, limit)
    else:
        deadline = asyncio.get_running_loop().time() + min(wait, POLL_SECONDS)
        while True:
            seen = call.controller.durable
            found = stored.after(reader, after, where, limit)
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0 or not await _any_change(call, seen, left):
                break
    last = str(found[-1].id) if found else str(after or 0)
    return answer({"items": [show_event(call, event) for event in found], "next": last})


async def events_stream(
    call: By,
    after: EventId = None,
    job: str | None = None,
    node: str | None = None,
    user: str | None = None,
    kind: str | None = None,
) -> Response:
    """Events as lines of JSON, without end; an empty line now and then says that the stream lives.

    Without `after` it begins with what happens next. A reader that was cut off goes on with the last id it has.
    """
    where = _filter(job, node, user, kind)
    await call.controller.settled()
    start = stored.last_id(call.controller.store.reader) if after is None else after
    return StreamingResponse(_lines(call, start, where), media_type="application/x-ndjson")


async def _lines(call: Call, after: int, where: stored.Filter) -> AsyncIterator[bytes]:
    reader, follow = call.controller.store.reader, call.site.follow
    while not follow.closing.is_set():
        seen = call.controller.durable  # before the query: what comes while a chunk is sent is news
        found = stored.after(reader, after, where, _MAX_EVENTS)
        if found:
            after = found[-1].id
            yield b"".join(json_bytes(show_event(call, event)) + b"\n" for event in found)
        if len(found) == _MAX_EVENTS:
            await asyncio.sleep(0)  # a long past is sent in pieces, with everyone else served between them
        elif await _any_change(call, seen, _HEARTBEAT_SECONDS):
            await asyncio.sleep(_GATHER_SECONDS)
        elif not follow.closing.is_set():
            yield b"\n"


async def _any_change(call: Call, seen: int, seconds: float) -> bool:
    """Waits for a change behind `seen` to be durable; False when the time is up or the server stops."""
    await call.site.follow.until(lambda: call.controller.durable > seen, seconds)
    return call.controller.durable > seen


def _filter(job: str | None, node: str | None, user: str | None, kind: str | None) -> stored.Filter:
    return stored.Filter(None if job is None else JobId(job), None if node is None else NodeName(node), user, kind)
