"""gpuq history: jobs that have ended, the newest first."""

from __future__ import annotations

import sys
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import how_it_ended
from gpuq.cli.params import JSON, PAST, examples
from gpuq.cli.rows import Filters, some_items
from gpuq.cli.selection import job_filters, whose
from gpuq.cli.table import table
from gpuq.cli.terminal import note, say, say_json, seconds_of, stdout_width, table_time, visible
from gpuq.units import format_duration

_LIMIT = 50  # jobs shown unless asked otherwise
HEADER = ("ID", "STATE", "NAME", "USER", "QUEUE", "GPU", "ELAPSED", "ENDED", "HOW")


@command(name="history", epilog=examples("gpuq history --me --since 1d -t FAILED", "gpuq history --csv > jobs.csv"))
@job_filters
@click.option("--since", "-S", type=PAST, metavar="WHEN", help="Ended since: 2h (ago), 2026-11-21, 2026-11-21T22:00.")
@click.option("--until", "-E", type=PAST, metavar="WHEN", help="Ended before: as --since.")
@click.option("--limit", type=click.IntRange(1, 10_000), metavar="N", help="Jobs to show; default 50, at most 10000.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print every job that ran on GPUs as a trace for 'gpuq simulate queue'."
)
@JSON
@connection
def history(
    user: str | None,
    me: bool,
    queue: str | None,
    states: list[str] | None,
    name: str | None,
    since: float | None,
    until: float | None,
    limit: int | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List jobs that have ended, newest first. With --json, `next` is there if there are more."""
    if as_csv and (as_json or limit is not None):
        raise click.UsageError("--csv prints all there are, as CSV: it goes with neither --json nor --limit")
    client = connect()
    filters: Filters = {
        "user": whose(client, user, me),
        "queue": queue,
        "state": states,
        "name": name,
    }
    if as_csv:
        from gpuq.cli.trace import write

        if not write(client, filters, since, until, sys.stdout):
            note("nothing that was asked for has run on GPUs and ended: the trace is empty")
        return
    filters |= {"since": since, "until": until}
    items, more = some_items(client, "/history", filters, limit or _LIMIT)
    if as_json:
        say_json({"items": items, "next": more})
        return
    say(table(HEADER, [_cells(job) for job in items], stdout_width(), right=("GPU", "ELAPSED")))
    if more is not None and sys.stderr.isatty():
        note(f"there are more: --limit {(limit or _LIMIT) * 10} shows more of them, --since and -u fewer")


def _cells(job: dict[str, Any]) -> tuple[str, ...]:
    elapsed = None
    if job["started_at"] and job["finished_at"]:
        elapsed = seconds_of(job["finished_at"]) - seconds_of(job["started_at"])
    return (
        job["id"],
        job["state"],
        visible(job["name"]),
        visible(job["user"]),
        job["queue"],
        str(job["gpus"]),
        format_duration(elapsed),
        table_time(job["finished_at"]),
        how_it_ended(job) or "-",
    )
