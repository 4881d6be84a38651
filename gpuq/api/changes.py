"""What changed since a snapshot, by long poll: of everything touched its present state, however often it changed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from gpuq.api.answers import answer, answer_with
from gpuq.api.calls import By, Call
from gpuq.api.show import JobLens, show_event, show_sample
from gpuq.api.snapshot import FIELDS, REASONS_AGE, counts, node_json, stamp
from gpuq.model import Job, JobId
from gpuq.service.board import Touched

_LONGEST_WAIT = 20.0
_SAMPLES_SECONDS = 1.0  # samples alone are worth no more than an answer a second
_ROWS = 2_000  # of one answer: 10 ms of everyone else's time

_NOTHING: dict[str, Any] = {
    "more": False,
    "counts": {},
    "jobs": {"fields": FIELDS, "rows": []},
    **{name: [] for name in ("gone", "nodes", "nodes_gone", "samples", "events")},
}


async def changes(
    call: By,
    life: Annotated[str, Query(description="of the snapshot")] = "",
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="'at' of the snapshot, or of the changes before")] = 0,
    wait: Annotated[float, Query(ge=0, description=f"seconds to wait, at most {_LONGEST_WAIT:g}")] = 0,
) -> Response:
    """What to lay over a snapshot to have the present. With reset it is too old for that: take a new one."""
    controller = call.controller
    board = await controller.recalled()
    if life == controller.life and board.floor <= after <= board.at:
        await _news(call, after, min(wait, _LONGEST_WAIT))
    await controller.settled()
    touched = board.since(after, _ROWS) if life == controller.life else None
    if touched is None:
        return answer({**stamp(call, board.at), "reset": True, **_NOTHING})
    response = _present(call, touched)
    await controller.settled()
    return response


async def _news(call: Call, after: int, seconds: float) -> None:
    """Waits until something moved, or for a while and then until there are samples."""
    board, follow, clock = call.controller.board, call.site.follow, asyncio.get_running_loop().time
    deadline = clock() + seconds
    while (left := deadline - clock()) > 0 and not follow.closing.is_set():
        await follow.until(lambda: board.moved > after, min(left, _SAMPLES_SECONDS))
        if board.at > after:
            return


def _present(call: Call, touched: Touched) -> Response:
    rows, gone = _rows(call, touched.rows)
    view, fragments = call.controller.view, call.site.fragments
    nodes = [node for name in touched.nodes if (node := view.nodes.get(name)) is not None]
    shown = {node.name for node in nodes}
    sampled = [node for name in touched.sampled if name not in shown and (node := view.nodes.get(name)) is not None]
    body = {
        **stamp(call, touched.at),
        "reset": False,
        "more": touched.more,
        "counts": counts(call),
        "jobs": {"fields": FIELDS, "rows": rows},
        "gone": gone,
        "nodes_gone": [name for name in touched.nodes if name not in shown],
        "events": [show_event(call, event) for event in touched.events],
    }
    version = call.controller.board.node_version
    lists = {
        "nodes": [node_json(call, node) for node in nodes],
        "samples": [
            fragments.get(("sample", node.name), version(node.name), partial(show_sample, call, node))
            for node in sampled
        ],
    }
    return answer_with(body, lists)


def _rows(call: Call, ids: list[JobId]) -> tuple[list[tuple[Any, ...]], list[JobId]]:
    """The rows of these jobs, and the ids of those that are shown no longer."""
    view, ended = call.controller.view, call.controller.board.ended
    jobs: list[Job] = []
    gone: list[JobId] = []
    for id in ids:
        job = view.job(id) or (ended[id].job if id in ended else None)
        if job is None:
            gone.append(id)
        else:
            jobs.append(job)
    return JobLens(call, REASONS_AGE).rows(jobs, FIELDS), gone
