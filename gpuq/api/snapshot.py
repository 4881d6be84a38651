"""Everything a dashboard shows, as of one moment: the start that `changes` goes on from."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from gpuq.api.answers import answer, answer_with
from gpuq.api.calls import By, Call
from gpuq.api.show import JobLens, show_event, show_node
from gpuq.errors import InvalidRequest
from gpuq.node import Node
from gpuq.units import format_time
from gpuq.version import VERSION

FIELDS = (
    *("id", "name", "user", "queue", "state", "priority", "gpus", "submitted_at", "started_at", "finished_at"),
    *("nodes", "reason", "cause", "exit_code", "signal", "attempt", "elements", "time_limit_seconds"),
)
_ROWS = 1_000
_MAX_ROWS = 5_000  # of one answer: making them holds everyone else up, 5 ms for 1,000
_EVENTS = 100
REASONS_AGE = 1.0  # seconds: a reason depends on other jobs, so it is out of date soon after anyway

Limit = Annotated[int, Query(ge=1, le=_MAX_ROWS, description="most rows in the answer")]


async def snapshot(call: By, limit: Limit = _ROWS) -> Response:
    """The cluster now: nodes, the latest events, counts, and the newest jobs, an array in one row.

    Jobs are those that have not ended and those that ended in the last 24 hours, of these at most 5,000.
    """
    board = await call.controller.recalled()
    await call.controller.settled()
    nodes = sorted(call.controller.view.nodes.values(), key=attrgetter("name"))
    body = {
        **stamp(call, board.at),
        "cluster": {"id": call.site.cluster_id, "version": VERSION},
        "you": {"user": call.actor.user, "role": call.actor.role},
        "counts": counts(call),
        "jobs": _page(call, None, limit),
        "events": [show_event(call, event) for event in board.latest_events(_EVENTS)],
    }
    response = answer_with(body, {"nodes": [node_json(call, node) for node in nodes]})
    await call.controller.settled()
    return response


async def snapshot_jobs(
    call: By,
    after: Annotated[str | None, Query(description="'next' of the snapshot's jobs, or of the page before")] = None,
    limit: Limit = _ROWS,
) -> Response:
    """The jobs of a snapshot that are older than those it had. What changed meanwhile is in here already."""
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 20):
        raise InvalidRequest(f"after: '{after[:40]}' is not a place in a list")
    board = await call.controller.recalled()
    await call.controller.settled()
    body = {**stamp(call, board.at), **_page(call, None if after is None else int(after), limit)}
    await call.controller.settled()
    return answer(body)


def stamp(call: Call, at: int) -> dict[str, Any]:
    """Which moment an answer is of."""
    return {"life": call.controller.life, "at": at, "now": format_time(time.time())}


def counts(call: Call) -> dict[str, int]:
    """Jobs of the whole snapshot by state, elements of arrays counted one each."""
    return {state.value: count for state, count in call.controller.board.counts.items() if count}


def node_json(call: Call, node: Node) -> bytes:
    version = call.controller.board.node_version(node.name)
    return call.site.fragments.get(("node", node.name), version, lambda: show_node(call, node))


def _page(call: Call, below: int | None, limit: int) -> dict[str, Any]:
    jobs = [job for job in call.controller.view.live_jobs() if job.index is None]
    jobs += (ended.job for ended in call.controller.board.ended.values())
    if below is not None:
        jobs = [job for job in jobs if job.number < below]
    jobs.sort(key=attrgetter("number"), reverse=True)
    more = len(jobs) > limit
    del jobs[limit:]
    rows = JobLens(call, REASONS_AGE).rows(jobs, FIELDS)
    return {"fields": FIELDS, "rows": rows, "next": str(jobs[-1].number) if more else None}
