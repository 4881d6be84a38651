"""gpuq queue (ls): jobs that have not ended, one a line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import how_it_ended, progress, reason_text
from gpuq.cli.params import JSON, examples
from gpuq.cli.rows import Filters, all_items, all_rows
from gpuq.cli.selection import job_filters, parse_ids, whose
from gpuq.cli.table import table
from gpuq.cli.terminal import note, now_seconds, say, say_json, seconds_of, stdout_width, table_time, visible
from gpuq.client.http import Client
from gpuq.units import format_duration

HEADER = ("ID", "STATE", "NAME", "USER", "QUEUE", "GPU", "TIME", "NODE/REASON")
START_HEADER = ("ID", "NAME", "USER", "QUEUE", "GPU", "EXPECTED", "BY", "REASON")
START_FIELDS = ("id", "name", "user", "queue", "gpus", "reason", "expected_start")
FIELDS = ("id", "state", "name", "user", "queue", "gpus", "started_at", "nodes", "reason", "elements")
ENDED_FIELDS = ("finished_at", "cause", "exit_code", "signal")  # left out where no job has them: 10,000 nulls take 6 ms


@command(
    name="queue",
    epilog=examples("gpuq queue --me", "gpuq queue -t RUNNING,QUEUED -u ana", "gpuq queue -j 1042 --expand"),
)
@click.option("-j", "--jobs", "jobs", metavar="ID[,ID]", help="Only these jobs, ended ones too.")
@job_filters
@click.option("--start", is_flag=True, help="Only what waits for room, with when it is expected to start.")
@click.option("--all", "everything", is_flag=True, help="Ended jobs too.")
@click.option("--expand", is_flag=True, help="One line for each element of an array.")
@JSON
@connection
def queue(
    jobs: str | None,
    user: str | None,
    me: bool,
    queue: str | None,
    states: list[str] | None,
    name: str | None,
    start: bool,
    everything: bool,
    expand: bool,
    as_json: bool,
) -> None:
    """List jobs that have not ended, in submit order.

    TIME is how long a job has been running. The last column says where it runs, why it waits, or how it
    ended.
    """
    client = connect()
    ids = parse_ids([jobs]) if jobs is not None else []
    ended = everything or bool(ids) or bool(set(states or ()) & {"SUCCEEDED", "FAILED", "CANCELED"})
    params: Filters = {
        "user": whose(client, user, me),
        "queue": queue,
        "state": states,
        "name": name,
        "ids": ",".join(ids) or None,
        "all": 1 if ended else None,
        "expand": 1 if expand else None,
    }
    if start:
        _starts(client, params, as_json)
        return
    if as_json:
        say_json({"items": all_items(client, "/jobs", params), "next": None})
        return
    rows = all_rows(client, "/jobs", params, FIELDS + ENDED_FIELDS if ended else FIELDS)
    now = now_seconds()
    say(table(HEADER, [_cells(row, now) for row in rows], stdout_width(), right=("GPU", "TIME")))
    if not rows and sys.stderr.isatty():
        note("no jobs" + (" match" if any(params.values()) else "; 'gpuq history' shows those that ended"))


def _starts(client: Client, params: Filters, as_json: bool) -> None:
    """Jobs that wait for room, the first to start first; those of which nothing can be said at the end."""
    rows = all_rows(client, "/jobs", {**params, "state": ["QUEUED"]}, START_FIELDS)
    rows.sort(key=lambda row: seconds_of(row[-1]["at"]) if row[-1] else float("inf"))
    if as_json:
        say_json({"items": [dict(zip(START_FIELDS, row, strict=True)) for row in rows], "next": None})
        return
    cells = [
        (id, visible(name), visible(user), queue, str(gpus), *_start(expected), reason_text(reason) if reason else "-")
        for id, name, user, queue, gpus, reason, expected in rows
    ]
    say(table(START_HEADER, cells, stdout_width(), right=("GPU",)))


def _start(expected: dict[str, Any] | None) -> tuple[str, str]:
    if expected is None:
        return "-", "-"
    return table_time(expected["at"]), "limits" if expected["by_limits"] else "history"


def _cells(row: Sequence[Any], now: float) -> tuple[str, ...]:
    id, state, name, user, queue, gpus, started_at, nodes, reason, elements = row[: len(FIELDS)]
    end = dict(zip(ENDED_FIELDS, row[len(FIELDS) :], strict=False))
    finished_at = end.get("finished_at")
    if started_at is None or state == "QUEUED":
        time = "-"
    else:
        time = format_duration((seconds_of(finished_at) if finished_at else now) - seconds_of(started_at))
    if finished_at:
        where = how_it_ended({**end, "elements": elements}) or "-"
    elif elements is not None:
        where = progress(elements)
        if reason and elements["counts"].get("QUEUED"):
            where += f": {reason_text(reason)}"
    elif nodes:
        where = ",".join([node["node"] for node in nodes])
    else:
        where = reason_text(reason) if reason else "-"
    return (id, state, visible(name), visible(user), queue, str(gpus), time, where)
