"""The elements of an array: those at work and those that failed, each under its own id. Pure, but for the question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tui.client import Client
from tui.columns import how_it_ended
from tui.fields import Row, table
from tui.job_row import JobRow
from tui.line_pane import Line, Span, heading, line
from tui.pane import Subject
from tui.text import letter_of, seconds_of, span
from tui.theme import state_role

SHOWN = 20  # of each kind: more is a matter for `gpuq history`
_AT_WORK = ("RUNNING", "STARTING", "ALLOCATED", "STOPPING", "LOST")
_ASKED = ("id", "state", "started_at", "finished_at", "nodes", "cause", "exit_code", "signal")


async def of_array(client: Client, row: JobRow) -> Sequence[JobRow]:
    """Those at work, those that failed, and the first that wait and are done: SHOWN of each at most."""
    counts: Mapping[str, int] = row.elements["counts"] if row.elements is not None else {}
    found: list[JobRow] = []
    for states in (_AT_WORK, ("FAILED",), ("QUEUED",), ("SUCCEEDED",), ("CANCELED",)):
        if any(counts.get(state) for state in states) and len(found) < SHOWN:
            asked = {"ids": row.id, "expand": 1, "state": list(states), "limit": SHOWN, "fields": ",".join(_ASKED)}
            page = await client.get("/jobs", asked)
            found += [row._replace(**dict(zip(page["fields"], of, strict=True)), elements=None) for of in page["rows"]]
    return found


def element_lines(row: JobRow, elements: Sequence[JobRow], now: float, width: int) -> Iterator[Line]:
    """row: the array's own."""
    size: int = row.elements["size"] if row.elements is not None else 0
    yield heading("ELEMENTS", "Enter opens one, with its log")
    yield from table(
        ["ELEMENT", "S", "TIME", "NODE / HOW IT ENDED"], [_row(e, now) for e in elements], width, ("TIME",)
    )
    if more := size - len(elements):
        yield line((f"and {more:,} more: `:` and its id, such as {row.id}_7, opens any", "dim"))


def _row(element: JobRow, now: float) -> Row:
    letter = letter_of(element)
    began, ended = seconds_of(element.started_at), seconds_of(element.finished_at)
    ran = "" if began is None else span((now if ended is None else ended) - began)
    ran = "" if element.state == "QUEUED" else ran
    where = ", ".join(_place(place) for place in element.nodes)
    how = how_it_ended(element) if ended is not None else where
    cells: list[Span] = [
        element.id,
        (letter, state_role(letter)),
        ran,
        (how, "bad" if element.state == "FAILED" else ""),
    ]
    return Row(cells, Subject("job", element.id))


def _place(place: Mapping[str, Any]) -> str:
    gpus = ",".join(map(str, place["gpus"]))
    return f"{place['node']}:{gpus}" if gpus else str(place["node"])
