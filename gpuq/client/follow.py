"""Watching a job, a log or the events for as long as it takes: through restarts of the controller and lost networks.

Everything here polls with the point it has reached, so that going on after an outage neither repeats nor skips
anything. An outage is reported once, to `reconnecting`, and never ends a watch: only its reader does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from gpuq.client.http import Answer, Client, Params, jittered
from gpuq.errors import Unavailable
from gpuq.states import FINAL
from gpuq.wire import POLL_SECONDS

Reconnecting = Callable[[Unavailable], None]
Behind = Callable[[int, bool], None]

POLL_TIMEOUT_SECONDS = POLL_SECONDS + 10.0  # the controller answers a long poll by itself after POLL_SECONDS
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
LOG_CHUNK_BYTES = 1 << 20
# What an ended run's node still has of its log is waited for as long as a node may be silent before it counts as lost
# (Policy.lost_after): one that is there has sent something by then.
ARRIVE_SECONDS = 60.0
_FINAL = frozenset(state.value for state in FINAL)


def follow_log(
    client: Client,
    job: str,
    attempt: int | None = None,
    rank: int = 0,
    offset: int = 0,
    tail: int | None = None,
    reconnecting: Reconnecting | None = None,
    behind: Behind | None = None,
) -> Iterator[bytes]:
    """The log of one rank from `offset` (or its last `tail` lines) on, as it grows, until its recorded end.

    attempt None means the job: its latest attempt first, then every later one from its start, until the job is final.
    Where the log cap released the middle, the bytes go on after it. behind is told how many bytes of a run that is over
    its node still owes when nothing has come for POLL_SECONDS, and again, with True, when they are given up: nothing
    has come for ARRIVE_SECONDS either.
    """
    pinned = attempt
    quiet = 0.0  # seconds of polls in a row that brought nothing though the run is over; an outage counts as one
    while True:
        params = {"attempt": attempt, "rank": rank, "limit": LOG_CHUNK_BYTES, "wait": POLL_SECONDS}
        params |= {"tail": tail} if tail is not None else {"offset": offset}
        asked_at = time.monotonic()
        answer = _persist(client, f"/jobs/{job}/log", params, reconnecting)
        tail = None
        attempt = int(answer.headers.get("gpuq-log-attempt") or 0) or attempt
        offset = int(answer.headers.get("gpuq-log-offset", offset)) + len(answer.body)
        end = int(answer.headers.get("gpuq-log-end", -1))
        if answer.body:
            yield answer.body
        final = answer.headers.get("gpuq-job-state") in _FINAL
        if attempt is None and final:
            return  # it never started
        waited, quiet = quiet, quiet + min(time.monotonic() - asked_at, POLL_SECONDS)
        if answer.body or not (final or end >= 0):
            quiet = 0.0
        given_up = quiet > ARRIVE_SECONDS
        if behind and end > offset and (given_up or waited < POLL_SECONDS <= quiet):
            behind(end - offset, given_up)
        if given_up or 0 <= end <= offset:
            if pinned is not None or final:
                return
            attempt, offset, quiet = _next_attempt(client, job, attempt or 0, reconnecting), 0, 0.0
            if attempt is None:
                return


def _next_attempt(client: Client, job: str, ended: int, reconnecting: Reconnecting | None) -> int | None:
    """Waits for the attempt after `ended`; None if the job becomes final without one."""
    seen: str | None = None
    while True:
        found = _job(client, job, seen, reconnecting)
        if found["attempt"] > ended:
            return int(found["attempt"])
        if found["state"] in _FINAL:
            return None
        seen = found["state"]


def watch_job(client: Client, job: str, reconnecting: Reconnecting | None = None) -> Iterator[dict[str, Any]]:
    """The job (as GET /jobs/ID has it) now, and again each time its state changed or POLL_SECONDS passed; for ever."""
    seen: str | None = None
    while True:
        found = _job(client, job, seen, reconnecting)
        yield found
        seen = found["state"]


def wait_final(client: Client, job: str, reconnecting: Reconnecting | None = None) -> dict[str, Any]:
    """The job (as GET /jobs/ID has it) once it is final; of an array, once all its elements are."""
    seen: str | None = None
    while True:
        found = _job(client, job, seen, reconnecting)
        if found["state"] in _FINAL:
            return found
        seen = found["state"]


def follow_events(
    client: Client, after: str | None, params: Params | None = None, reconnecting: Reconnecting | None = None
) -> Iterator[dict[str, Any]]:
    """Events after this id, oldest first and for ever; with None, the newest few first. params are its filters."""
    while True:
        asked = {**(params or {}), "after": after, "wait": None if after is None else POLL_SECONDS}
        page = json.loads(_persist(client, "/events", asked, reconnecting).body)
        yield from page["items"]
        after = page["next"] or after or "0"


def _job(client: Client, job: str, seen: str | None, reconnecting: Reconnecting | None) -> dict[str, Any]:
    params: Params = {"wait": POLL_SECONDS, "seen": seen} if seen else {}
    found: dict[str, Any] = json.loads(_persist(client, f"/jobs/{job}", params, reconnecting).body)
    return found


def _persist(client: Client, path: str, params: Params, reconnecting: Reconnecting | None) -> Answer:
    """Repeats one read until it is answered, however long that takes."""
    pause = FIRST_PAUSE_SECONDS
    reported = False
    while True:
        try:
            return client.raw(path, params, POLL_TIMEOUT_SECONDS, patience=0.0)
        except Unavailable as error:
            if reconnecting and not reported:
                reconnecting(error)
                reported = True
            time.sleep(jittered(pause))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
