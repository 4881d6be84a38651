"""gpuq submit: put a job into the queue, and say its id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import client_for, connection, context
from gpuq.cli.here import this_place
from gpuq.cli.options import submit_options
from gpuq.cli.outcome import OWN_TROUBLE, exit_status, reason_text, sentence
from gpuq.cli.params import JSON, examples
from gpuq.cli.rows import all_rows
from gpuq.cli.slurm import SlurmAware
from gpuq.cli.submission import Place, Prepared, prepare
from gpuq.cli.terminal import note, say, say_json, visible
from gpuq.client.http import Client
from gpuq.errors import GpuqError, NotFound

RECENT = 1_000  # ended jobs among which the newest is looked for: it may have ended before older ones did


@command(
    name="submit",
    epilog=examples(
        "gpuq submit -G 2 -t 4h --name train python train.py --lr 0.1",
        "gpuq submit -G 1 -a 0-99%8 ./sweep.sh",
        "gpuq submit -d afterok:@ --wrap 'python report.py > report.txt'",
    ),
    cls=SlurmAware,
    context_settings={"allow_interspersed_args": False},
)
@submit_options
@click.option("-W", "--wait", is_flag=True, help="Wait for its end, and exit with its exit code.")
@click.option(
    "--dry-run", "--test-only", "dry_run", is_flag=True, help="Submit nothing; say where it would start, or why not."
)
@click.option("--parsable", is_flag=True, help="Print the id alone.")
@JSON
@connection
@click.pass_context
def submit(ctx: click.Context, /, **_options: Any) -> int:
    """Put a job into the queue and print its id.

    COMMAND is an argument list, no shell. If its first word is a readable file that begins with `#!`, the file's text
    is stored and run, with the options in its #GPUQ and #SBATCH lines; those given here win. Options end at the first
    word of the command, or at --.
    """
    client, prepared = ready(ctx)
    wanted = prepared.options.get
    if wanted("dry_run"):
        _dry_run(client, prepared, bool(wanted("as_json")))
        return 0
    reply = client.post("/jobs", prepared.fields)
    if wanted("as_json"):
        say_json(reply)
    else:
        say(reply["id"] if wanted("parsable") else f"Submitted job {reply['id']}")
    return _wait(client, reply["id"]) if wanted("wait") else 0


def ready(ctx: click.Context) -> tuple[Client, Prepared]:
    """The client and all of the submission, '@' looked up, for submit and run. Warnings are out on stderr."""
    opened: list[Client] = []

    def where() -> Place:
        chosen = context()
        opened.append(client_for(chosen))
        ctx.call_on_close(opened[0].close)
        return this_place(chosen.token)

    prepared = prepare(ctx, where)
    for line in prepared.notes:
        note(line)
    if prepared.dependencies:
        jobs = _with_newest(prepared, lambda: newest_job(opened[0]))
        prepared.fields["dependencies"] = [{"kind": d.kind, "job": job} for d, job in jobs]
    return opened[0], prepared


def _with_newest(prepared: Prepared, newest: Callable[[], str]) -> list[tuple[Any, str]]:
    mine = newest() if any(d.job == "@" for d in prepared.dependencies) else ""
    return [(d, mine if d.job == "@" else d.job) for d in prepared.dependencies]


def newest_job(client: Client) -> str:
    """The id of the job its user submitted last; of an array's element, the array's."""
    user = client.get("/whoami")["user"]
    ids = [row[0] for row in all_rows(client, "/jobs", {"user": user}, ("id",))]
    ids += [job["id"] for job in client.get("/history", {"user": user, "limit": RECENT})["items"]]
    if not ids:
        raise NotFound(f"'@' is your newest job, and {user} has none", "give an id, such as afterok:1042")
    return str(max(int(id.partition("_")[0]) for id in ids))


def _dry_run(client: Client, prepared: Prepared, as_json: bool) -> None:
    found = client.post("/jobs", prepared.fields, {"dry_run": 1})
    cwd = prepared.fields["cwd"]
    base = "login" if prepared.environment.environment is None else "submitter"
    if as_json:
        say_json({**found, "cwd": cwd, "environment": base, "changes": sorted(prepared.environment.changes)})
        return
    if found["starts_now"]:
        places = [
            f"{n['node']} (GPU {','.join(map(str, n['gpus']))})" if n["gpus"] else n["node"] for n in found["nodes"]
        ]
        say(f"would start now on {', '.join(places)}")
    else:
        reason = found["reason"]
        say(f"would be queued: {reason_text(reason)}" if reason else "would be queued")
        from gpuq.cli.why import outlook

        for line in outlook(found):
            say(line)
    say(f"folder: {visible(cwd)}")
    say(f"environment: {visible(prepared.environment.describe())}")


def _wait(client: Client, id: str) -> int:
    from gpuq.client.follow import wait_final

    try:
        job = wait_final(client, id, lambda error: note(f"{error.one_line()}; trying on"))
    except GpuqError as error:
        note(error.one_line())
        return OWN_TROUBLE
    status = exit_status(job)
    if status:
        note(sentence(job))
    return status
