"""gpuq logs: a job's output, as much as there is or as it grows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import reason_text
from gpuq.cli.params import examples
from gpuq.cli.selection import one_id
from gpuq.cli.terminal import log_writer, note, say_behind
from gpuq.client.follow import LOG_CHUNK_BYTES, follow_log
from gpuq.client.http import Client
from gpuq.wire import POLL_SECONDS


@command(name="logs", epilog=examples("gpuq logs -f 1042", "gpuq logs --tail 20 1042_7"))
@click.argument("job", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, over further attempts, until the job has ended.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines.")
@click.option("--rank", type=click.IntRange(min=0), default=0, metavar="R", help="Of this node of the job; default 0.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Of this run of the job; default: the latest.")
@click.option("--raw", is_flag=True, help="All bytes reach the terminal as they are.")
@connection
def logs(job: str, follow: bool, tail: int | None, rank: int, attempt: int | None, raw: bool) -> None:
    """Print a job's output: standard output and error together, as it wrote them.

    On a terminal escape sequences are made visible, and of a progress bar only the last state of each line is shown,
    unless --raw is given. Elsewhere the bytes are passed on as they are.
    """
    job = one_id(job)
    client = connect()
    write = log_writer(raw)
    if follow:
        found = client.get(f"/jobs/{job}")
        if found["reason"]:
            note(f"job {job} is {found['state']}: {reason_text(found['reason'])}")
        pieces = follow_log(
            client,
            job,
            attempt,
            rank,
            tail=tail,
            reconnecting=lambda error: note(f"{error.one_line()}; trying on"),
            behind=say_behind(job),
        )
    else:
        pieces = _so_far(client, job, attempt, rank, tail)
    for piece in pieces:
        write(piece)


def _so_far(client: Client, id: str, attempt: int | None, rank: int, tail: int | None) -> Iterator[bytes]:
    """What there is of the log now, in pieces: of an ended run all of it, of a running one up to this moment."""
    path, fixed = f"/jobs/{id}/log", {"rank": rank}
    state, attempt, size, deleted = _arrived(client, path, attempt, fixed)
    if not size:
        note(f"job {id} is {state} and {'its log was deleted' if deleted else 'has written nothing'}")
    offset = 0
    while offset < size:
        params: dict[str, str | int | None] = {**fixed, "attempt": attempt, "limit": LOG_CHUNK_BYTES}
        params |= {"tail": tail} if tail is not None else {"offset": offset}
        answer = client.raw(path, params)
        tail = None
        offset = int(answer.headers.get("gpuq-log-offset", offset)) + len(answer.body)
        if not answer.body:
            return
        yield answer.body


class Arrived(NamedTuple):
    """state is the job's; size counts the bytes of its log to show; deleted: there were some once."""

    state: str
    attempt: int | None
    size: int
    deleted: bool


def _arrived(client: Client, path: str, attempt: int | None, fixed: dict[str, int]) -> Arrived:
    """What there is of the log; waits for what an ended run's node still has to send."""
    params: dict[str, str | int | None] = {**fixed, "attempt": attempt, "offset": 0, "limit": 1}
    while True:
        headers = client.raw(path, params).headers
        state, size, end = headers.get("gpuq-job-state", "unknown"), int(headers.get("gpuq-log-size", 0)), None
        attempt = int(headers.get("gpuq-log-attempt") or 0) or attempt
        if "gpuq-log-end" in headers:
            end = int(headers["gpuq-log-end"])
        if end is None or size >= end:
            return Arrived(state, attempt, size, "gpuq-log-deleted" in headers)
        if params["offset"] == size and "wait" in params:
            note(f"the last {end - size} bytes have not arrived from the node; logs -f waits for them")
            return Arrived(state, attempt, size, deleted=False)
        params |= {"attempt": attempt, "offset": size, "wait": int(POLL_SECONDS)}
