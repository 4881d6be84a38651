"""Windows into long logs: bytes from any offset, and lines that hold a text, without reading all of it in between."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from gpuq.api.answers import answer
from gpuq.api.calls import By
from gpuq.api.jobs import Id
from gpuq.api.reading import Reading, readable, reading_of
from gpuq.errors import InvalidRequest
from gpuq.store.logfiles import LogFiles
from gpuq.store.logsearch import Found, Wanted

_BYTES = 256 << 10
_MAX_BYTES = 4 << 20
_MATCHES = 1_000
_MAX_TEXT = 1_000

Attempt = Annotated[int | None, Query(ge=1, description="the latest unless given")]
Rank = Annotated[int, Query(ge=0)]
Place = Annotated[int | None, Query(ge=0, lt=1 << 62)]


async def log_range(
    call: By,
    id: Id,
    offset: Annotated[int, Query(gt=-1 << 62, lt=1 << 62, description="below 0 it counts from the end")] = 0,
    limit: Annotated[int, Query(ge=0, le=_MAX_BYTES, description="most bytes in the answer")] = _BYTES,
    attempt: Attempt = None,
    rank: Rank = 0,
) -> Response:
    """Bytes of a job's log from an offset, as base64 in JSON, with how long the log is and whether it will grow."""
    reading = await reading_of(call, readable(call, id), attempt, rank)
    start = offset if offset >= 0 else max(0, reading.size + offset)
    start, data = await asyncio.to_thread(_range, call.site.logs, reading, start, limit)
    await call.controller.settled()
    return answer({"offset": start, **_state(reading), "text_base64": b64encode(data).decode()})


async def log_search(
    call: By,
    id: Id,
    text: Annotated[str, Query(min_length=1, max_length=_MAX_TEXT, description="literal, within one line")],
    after: Annotated[Place, Query(description="forwards, in lines that begin here or later")] = None,
    before: Annotated[Place, Query(description="backwards, in lines that begin before this")] = None,
    limit: Annotated[int, Query(ge=1, le=_MATCHES, description="most lines in the answer")] = _MATCHES,
    attempt: Attempt = None,
    rank: Rank = 0,
    ignore_case: Annotated[bool, Query(description="of the letters A to Z")] = False,
) -> Response:
    """Lines of a job's log that hold a text, forwards from its start unless told otherwise.

    next is what to ask with next, as `after` or `before`; null when there is nothing left to search.
    """
    if after is not None and before is not None:
        raise InvalidRequest("after and before exclude each other", "forwards is after, backwards is before")
    if "\n" in text:
        raise InvalidRequest("text: a line end is in no line", "search for one line's text")
    reading = await reading_of(call, readable(call, id), attempt, rank)
    wanted = Wanted(text.encode("utf-8", "surrogateescape"), ignore_case, limit)
    found = await asyncio.to_thread(_search, call.site.logs, reading, wanted, after or 0, before)
    await call.controller.settled()
    return answer(
        {
            **_state(reading),
            "matches": [[at, line.decode("utf-8", "replace")] for at, line in found.lines],
            "next": None if found.done else found.reached,
            "searched_to": found.reached,
        }
    )


def _range(files: LogFiles, reading: Reading, offset: int, limit: int) -> tuple[int, bytes]:
    return (offset, b"") if reading.log is None else files.read(reading.log, offset, limit)


def _search(files: LogFiles, reading: Reading, wanted: Wanted, after: int, before: int | None) -> Found:
    if reading.log is None:
        return Found([], 0, done=True)
    if before is None:
        return files.search(reading.log, wanted, after)
    return files.search_back(reading.log, wanted, before)


def _state(reading: Reading) -> dict[str, Any]:
    return {
        "size": reading.size,
        "ended": reading.end is not None and reading.size >= reading.end,
        "attempt": 0 if reading.attempt is None else reading.attempt.number,
        "rank": 0 if reading.log is None else reading.log[1],
        "ranks": 0 if reading.attempt is None else len(reading.attempt.ranks),
    }
