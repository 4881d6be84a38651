"""The verbs that change jobs: cancel, hold, release, requeue, update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.params import BEGIN, DURATION, JSON, examples
from gpuq.cli.rows import all_rows
from gpuq.cli.selection import job_filters, one_id, parse_ids, whose
from gpuq.cli.terminal import note, say, say_json, visible
from gpuq.client.http import Client
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound

# Of several failures the one that says most about the command as it was typed gives the exit status.
_STATUS = {
    "not_found": NotFound.exit_status,
    "not_allowed": NotAuthorised.exit_status,
    "refused": Conflict.exit_status,
}
_FORCE = click.option(
    "--force", is_flag=True, help="Of a LOST job: act now, without proof that its processes are gone."
)
_JOBS = click.argument("jobs", nargs=-1, metavar="JOB...")


@command(name="cancel", epilog=examples("gpuq cancel 1042 1043_7", "gpuq cancel --me -t QUEUED"))
@_JOBS
@job_filters
@click.option(
    "--all", "everything", is_flag=True, help="Every job that has not ended: an admin everyone's, others their own."
)
@_FORCE
@JSON
@connection
def cancel(
    jobs: tuple[str, ...],
    user: str | None,
    me: bool,
    queue: str | None,
    states: list[str] | None,
    name: str | None,
    everything: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Stop jobs, or take them out of the queue: by id (1042, 1042_7, 1042_3-5), or all that meet every filter."""
    ids = parse_ids(jobs)
    filtered = bool(user or me or queue or states or name)
    if not (ids or filtered or everything):
        raise InvalidRequest("no job is named", "give ids, a filter such as --me or -t QUEUED, or --all")
    if ids and (filtered or everything):
        raise InvalidRequest("ids and filters together are ambiguous", "give one of them")
    client = connect()
    bodies: list[dict[str, Any]]
    if ids:
        bodies = [{"ids": ids}]
    elif everything and not filtered:
        bodies = _of_everything(client)
    else:
        wanted: Sequence[str | None] = states or [None]
        mine = {"user": whose(client, user, me), "queue": queue, "name": name}
        bodies = [{**mine, "state": state} for state in wanted]
    items = [item for body in bodies for item in _act(client, "cancel", {**body, "force": force})]
    return _report(items, as_json)


@command(name="hold")
@_JOBS
@JSON
@connection
def hold(jobs: tuple[str, ...], as_json: bool) -> int:
    """Keep queued jobs from starting until they are released."""
    return _on_ids("hold", jobs, {}, as_json)


@command(name="release")
@_JOBS
@JSON
@connection
def release(jobs: tuple[str, ...], as_json: bool) -> int:
    """Let held jobs start again."""
    return _on_ids("release", jobs, {}, as_json)


@command(name="requeue")
@_JOBS
@_FORCE
@JSON
@connection
def requeue(jobs: tuple[str, ...], force: bool, as_json: bool) -> int:
    """Stop running jobs and put them into the queue again."""
    return _on_ids("requeue", jobs, {"force": force}, as_json)


@command(name="update", epilog=examples("gpuq update 1042 --time 8h --comment 'needs longer'"))
@click.argument("job", metavar="JOB")
@click.option("--priority", type=int, metavar="INT", help="Higher starts first; owners may only lower it.")
@click.option("-t", "--time", "--time-limit", "time_limit", type=DURATION, metavar="TIME", help="Longest run time.")
@click.option("-J", "--job-name", "--name", "name", metavar="NAME", help="New name.")
@click.option("--comment", metavar="TEXT", help="New note; '' takes it away.")
@click.option("-b", "--begin", type=BEGIN, metavar="WHEN", help="Not before: now+2h, 22:00, tomorrow.")
@click.option("--max-retries", type=click.IntRange(min=0), metavar="N", help="Run again this often if it fails itself.")
@JSON
@connection
def update(
    job: str,
    priority: int | None,
    time_limit: int | None,
    name: str | None,
    comment: str | None,
    begin: float | None,
    max_retries: int | None,
    as_json: bool,
) -> None:
    """Change a job that waits. Of a running job only the comment can change."""
    job = one_id(job)
    values = {
        "priority": priority,
        "time_limit_seconds": time_limit,
        "name": name,
        "comment": comment,
        "begin_at": begin,
        "max_retries": max_retries,
    }
    changes = {key: value for key, value in values.items() if value is not None}
    if not changes:
        raise InvalidRequest("nothing to change was given", "for example --priority -5 or --time 2h")
    changed = connect().patch(f"/jobs/{job}", changes)
    if as_json:
        say_json(changed)
    else:
        say(f"Updated job {job}")


def _on_ids(verb: str, jobs: tuple[str, ...], more: dict[str, Any], as_json: bool) -> int:
    ids = parse_ids(jobs)
    if not ids:
        raise InvalidRequest("no job is named", f"write for example gpuq {verb} 1042")
    return _report(_act(connect(), verb, {"ids": ids, **more}), as_json)


def _of_everything(client: Client) -> list[dict[str, Any]]:
    me = client.get("/whoami")
    if me["role"] != "admin":
        return [{"user": me["user"]}]
    ids = [row[0] for row in all_rows(client, "/jobs", {}, ("id",))]
    return [{"ids": ids}] if ids else []


def _act(client: Client, verb: str, body: dict[str, Any]) -> list[dict[str, str]]:
    sent = {key: value for key, value in body.items() if value is not None and value is not False}
    items: list[dict[str, str]] = client.post(f"/jobs/{verb}", sent)["items"]
    return items


def _report(items: list[dict[str, str]], as_json: bool) -> int:
    """One line a job: on stdout what was done or was so already, on stderr what was not; the exit status."""
    if as_json:
        say_json({"items": items, "next": None})
    else:
        for item in items:
            (note if item["outcome"] in _STATUS else say)(visible(item["text"]))
        if not items:
            note("no jobs match")
    outcomes = {item["outcome"] for item in items}
    return next((status for outcome, status in _STATUS.items() if outcome in outcomes), 0)
