"""A job as the dashboard keeps it."""

from __future__ import annotations

from typing import Any, NamedTuple


class JobRow(NamedTuple):
    """A job as a list shows it, in the order of the wire; times are RFC 3339 text, which sorts as it is."""

    id: str
    name: str
    user: str
    queue: str
    state: str
    priority: int
    gpus: int
    submitted_at: str
    started_at: str | None
    finished_at: str | None
    nodes: list[dict[str, Any]]  # [{"node", "gpus": [index]}]
    reason: dict[str, str] | None  # {"code", "text"}: why it waits
    cause: dict[str, str] | None  # {"code", "text"}: why it ended
    exit_code: int | None
    signal: int | None
    attempt: int
    elements: dict[str, Any] | None  # of an array: {"size", "counts": {state: n}}
    time_limit_seconds: int | None
