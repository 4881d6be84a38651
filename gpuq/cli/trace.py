"""The cluster's own past as a trace, which `gpuq simulate queue` replays."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from gpuq.cli.rows import Filters, all_rows
from gpuq.cli.terminal import seconds_of, visible
from gpuq.client.http import Client

COLUMNS = ("job_id", "submit_time_s", "duration_s", "gpus", "vc", "user", "name", "status", "wait_recorded_s")
_FIELDS = ("id", "submitted_at", "started_at", "finished_at", "gpus", "queue", "user", "name", "state")
_ENDED = ("SUCCEEDED", "FAILED", "CANCELED")


def write(client: Client, filters: Filters, since: float | None, until: float | None, out: TextIO) -> int:
    """Writes a line for each job that ran on GPUs and has ended, an array's elements one by one, in submit order.

    since and until bound the end of a job, in wall seconds. Gives the number of lines below the header.
    """
    wanted: Filters = {**filters, "state": filters.get("state") or _ENDED, "expand": 1, "all": 1}
    lines = list(_lines(all_rows(client, "/jobs", wanted, _FIELDS), since, until))
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(lines)
    return len(lines)


def _lines(rows: Sequence[Sequence[Any]], since: float | None, until: float | None) -> Iterator[tuple[Any, ...]]:
    """Times count from the first submit. A job that ran more than once took as long as its last run."""
    ran = [row for row in rows if row[2] and row[3] and row[4] and row[8] in _ENDED]
    ran = [row for row in ran if (since or 0.0) <= seconds_of(row[3]) and (until is None or seconds_of(row[3]) < until)]
    begin = min((seconds_of(row[1]) for row in ran), default=0.0)
    for id, submitted, started, finished, gpus, queue, user, name, state in ran:
        at, start, end = seconds_of(submitted), seconds_of(started), seconds_of(finished)
        yield id, _ms(at - begin), _ms(end - start), gpus, queue, visible(user), visible(name), state, _ms(start - at)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds), 3)
