"""Traces of jobs with submit times and run times: read, and cut to what a replay is to have."""

from __future__ import annotations

import csv
import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from gpuq.errors import InvalidRequest
from gpuq.simulate.cells import ENCODING, UNREADABLE, number

_GZIP = b"\x1f\x8b"
_COLUMNS = ("job_id", "submit_time_s", "duration_s", "gpus")


@dataclass(frozen=True, slots=True)
class TracedJob:
    """One line of a trace. user and name are empty where the trace has none."""

    id: str
    submitted_at: float
    seconds: float
    gpus: int
    user: str
    name: str


def read(path: Path, since: float | None = None, until: float | None = None, vc: str | None = None) -> list[TracedJob]:
    """The jobs of a trace by submit time, those with since <= submit time < until, of one virtual cluster if named.

    Columns: job_id, submit_time_s, duration_s, gpus; vc, user, name or model if there are any. Raises InvalidRequest
    with the line for what cannot be read.
    """
    jobs = []
    try:
        with _open(path) as file:
            rows = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise InvalidRequest(f"{path} has no column {missing[0]}", f"it needs {', '.join(_COLUMNS)}")
            for row in rows:
                if vc is not None and row.get("vc") != vc:
                    continue
                job = _job(path, rows.line_num, row)
                if (since is None or job.submitted_at >= since) and (until is None or job.submitted_at < until):
                    jobs.append(job)
    except UNREADABLE as error:
        raise InvalidRequest(f"{path} is not text, nor a gzip file of text: {error}", "give a CSV file") from error
    if not jobs:
        raise InvalidRequest(f"{path} has no job to replay", "look at --from, --until and --vc")
    return sorted(jobs, key=lambda job: job.submitted_at)


def _open(path: Path) -> TextIO:
    """The text of a file, compressed or not."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    if compressed:
        return gzip.open(path, "rt", encoding=ENCODING, newline="")
    return path.open(encoding=ENCODING, newline="")


def _job(path: Path, line: int, row: dict[str, str]) -> TracedJob:
    try:
        job = TracedJob(
            row["job_id"],
            number(row, "submit_time_s", float),
            number(row, "duration_s", float),
            number(row, "gpus", int),
            row.get("user") or "",
            row.get("name") or row.get("model") or "",
        )
    except ValueError as error:
        raise InvalidRequest(f"{path}, line {line}: {error}", "times are seconds, gpus a whole number") from error
    if not (math.isfinite(job.submitted_at) and math.isfinite(job.seconds)):
        raise InvalidRequest(f"{path}, line {line}: a time that is not a number", "times are seconds")
    if job.seconds < 0 or job.gpus < 0:
        raise InvalidRequest(f"{path}, line {line}: a negative run time or number of GPUs", "correct the trace")
    return job
