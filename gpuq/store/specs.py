"""What jobs execute. One row serves all elements of an array."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from sqlite3 import Connection
from typing import Any

from gpuq.codec import decode, encode
from gpuq.model import JobId, JobSpec
from gpuq.store.columns import array_key, job_key, plain_text, to_json

_PUT = (
    "INSERT INTO specs (job, command, cwd, rest) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (job) DO UPDATE SET command = excluded.command, cwd = excluded.cwd, rest = excluded.rest"
)


def put(conn: Connection, specs: Iterable[tuple[JobId, JobSpec]]) -> None:
    conn.executemany(_PUT, (_row(id, spec) for id, spec in specs))


def _row(id: JobId, spec: JobSpec) -> tuple[Any, ...]:
    rest = encode(replace(spec, command=(), cwd=None))
    cwd = None if spec.cwd is None else plain_text(spec.cwd)
    return job_key(id), to_json(list(spec.command)), cwd, to_json(rest)


def spec(conn: Connection, id: JobId) -> JobSpec | None:
    """What a job, array or element executes; None if there is no such job."""
    sql = "SELECT command, cwd, rest FROM specs WHERE job = ?"
    row = conn.execute(sql, (_shared_key(id),)).fetchone()
    if row is None:
        return None
    command, cwd, rest = row
    return decode(JobSpec, {**json.loads(rest), "command": json.loads(command), "cwd": cwd})


def commands(conn: Connection, ids: Iterable[JobId]) -> dict[JobId, tuple[tuple[str, ...], str | None]]:
    """Command and cwd of each of the jobs, for lists: scripts and environments are not read."""
    sql = "SELECT command, cwd FROM specs WHERE job = ?"
    found = ((id, conn.execute(sql, (_shared_key(id),)).fetchone()) for id in ids)
    return {id: (tuple(json.loads(row[0])), row[1]) for id, row in found if row is not None}


def _shared_key(id: JobId) -> int | None:
    key = job_key(id)
    return None if key is None else array_key(key)
