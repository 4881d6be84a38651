"""gpuq wait: block until jobs have ended, and end as they did."""

from __future__ import annotations

from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import exit_status, sentence
from gpuq.cli.params import JSON, examples
from gpuq.cli.selection import parse_ids
from gpuq.cli.terminal import note, say_json
from gpuq.client.follow import wait_final
from gpuq.client.http import Client
from gpuq.errors import NotFound


@command(name="wait", epilog=examples("gpuq wait $(gpuq submit --parsable -G 1 ./train.sh) && echo it worked"))
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@JSON
@connection
def wait(jobs: tuple[str, ...], as_json: bool) -> int:
    """Wait until jobs have ended, and exit with the first exit code among theirs that is not 0 (128 + signal).

    Status 3: one of them is not known (then nothing is waited for). Trouble of gpuq's own is status 125.
    """
    ids = parse_ids(jobs)
    client = connect()
    try:
        if len(ids) > 1:
            _check_known(client, ids)
        ended = [_end_of(client, id) for id in ids]
    except NotFound as error:
        note(error.one_line())
        return error.exit_status
    if as_json:
        say_json({"items": ended, "next": None})
    return next((status for status in map(exit_status, ended) if status), 0)


def _check_known(client: Client, ids: list[str]) -> None:
    # A mistyped id should be heard of now, and not when the jobs named before it have ended.
    for id in ids:
        client.get(f"/jobs/{id}")


def _end_of(client: Client, id: str) -> dict[str, Any]:
    job = wait_final(client, id, lambda error: note(f"{error.one_line()}; trying on"))
    if exit_status(job):
        note(sentence(job))
    return job
