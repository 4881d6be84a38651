"""The dashboard's client, over httpx: one snapshot, then what changes, and everything else beside the held poll."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpuq.client.http import Params, target_of
from gpuq.client.transport import Transport
from gpuq.errors import Unavailable
from gpuq.wire import REQUEST_ID_HEADER

ANSWER_SECONDS = 20.0  # beyond what a poll asks the controller to wait
KEPT_CONNECTIONS = 4  # the held poll, a log that is followed, what a pane reads, an action


class LogPiece(NamedTuple):
    """A range of a rank's log. size: what the controller has; ended: no more will come.

    attempt and ranks are 0 while the job has had no attempt.
    """

    offset: int
    size: int
    ended: bool
    attempt: int
    rank: int
    ranks: int
    data: bytes


class LogMatches(NamedTuple):
    """Lines of a log that hold a text, as (offset of the line, the line), in the order of the search.

    next: where to go on, None when there is nothing left. Up to searched_to every line was searched; size: of the log.
    """

    matches: list[tuple[int, str]]
    next: int | None
    size: int
    searched_to: int


class LiveClient:
    """One user's connections to a controller. Nothing is repeated by itself.

    Every method raises the GpuqError that the controller's answer stands for, Unreachable if it was never reached, or
    Unavailable if the answer was lost.
    """

    def __init__(self, url: str, token: str, ca_pem: str) -> None:
        self._transport = Transport(url, token, ca_pem, KEPT_CONNECTIONS)
        self.latency_seconds: float | None = None  # of the last request that was answered without being held

    @property
    def url(self) -> str:
        return self._transport.url

    async def snapshot(self, limit: int) -> dict[str, Any]:
        """Everything a dashboard shows, with the newest `limit` jobs."""
        return _object(await self.get("/snapshot", {"limit": limit}))

    async def snapshot_jobs(self, after: str, limit: int) -> dict[str, Any]:
        """Older jobs, from the `next` of the page before on. What is known of one already by changes is newer."""
        return _object(await self.get("/snapshot/jobs", {"after": after, "limit": limit}))

    async def changes(self, life: str, after: int, wait: float) -> dict[str, Any]:
        """What to lay over a snapshot of this life as of `after`; held up to `wait` seconds while there is nothing."""
        target = target_of("/changes", {"life": life, "after": after, "wait": wait})
        return _object(await self._transport.ask("GET", target, wait + ANSWER_SECONDS))

    async def get(self, path: str, params: Params | None = None) -> Any:
        """The JSON of any read, or its text where it answers with text."""
        return await self._timed("GET", target_of(path, params))

    async def post(
        self, path: str, body: object, request_id: str, method: str = "POST", params: Params | None = None
    ) -> Any:
        """Changes something. After Unavailable the outcome is unknown: the same again, by the same id, is safe."""
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {REQUEST_ID_HEADER: request_id, "content-type": "application/json"}
        return await self._timed(method, target_of(path, params), content, headers)

    async def log_range(self, job: str, offset: int, limit: int, attempt: int | None = None, rank: int = 0) -> LogPiece:
        """At most `limit` bytes of a log; an offset below 0 counts from its end. The latest attempt unless given."""
        params: Params = {"offset": offset, "limit": limit, "attempt": attempt, "rank": rank}
        body = _object(await self.get(f"/jobs/{job}/log/range", params))
        try:
            return LogPiece(data=b64decode(body.pop("text_base64")), **body)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable() from error

    async def log_search(
        self,
        job: str,
        text: str,
        after: int | None = None,
        before: int | None = None,
        limit: int = 1000,
        attempt: int | None = None,
        rank: int = 0,
        ignore_case: bool = True,
    ) -> LogMatches:
        """Lines that hold a text: those that begin at `after` or later, or backwards those that begin before `before`.

        An answer may hold fewer than there are, or none, and a `next`: the controller searches 32 MiB at a time.
        """
        where: Params = {"after": after, "before": before, "attempt": attempt, "rank": rank}
        params: Params = {**where, "text": text, "limit": limit, "ignore_case": int(ignore_case)}
        body = _object(await self.get(f"/jobs/{job}/log/search", params))
        try:
            matches = [(int(offset), str(line)) for offset, line in body["matches"]]
            return LogMatches(matches, body["next"], body["size"], body["searched_to"])
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable() from error

    async def close(self) -> None:
        await self._transport.close()

    async def _timed(
        self, method: str, target: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Any:
        started = time.monotonic()
        answer = await self._transport.ask(method, target, ANSWER_SECONDS, content, headers)
        self.latency_seconds = time.monotonic() - started
        return answer


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _unreadable()
    return body


def _unreadable() -> Unavailable:
    return Unavailable("the controller's answer cannot be read", "do both ends run one version?")
