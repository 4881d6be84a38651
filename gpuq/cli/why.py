"""gpuq why: the reason a job waits, and what each node is short of."""

from __future__ import annotations

import click

from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import reason_text
from gpuq.cli.params import JSON
from gpuq.cli.selection import one_id
from gpuq.cli.table import table
from gpuq.cli.terminal import say, say_json, stdout_width, visible

# What no node can change: a table of nodes that fit would contradict the reason.
_NOT_OF_NODES = frozenset({"held", "dependency", "begin", "backoff", "array_limit"})


@click.command(name="why")
@click.argument("job", metavar="JOB")
@JSON
@connection
def why(job: str, as_json: bool) -> None:
    """Say why a job waits: the reason and, where nodes matter, each node with what it is short of."""
    found = connect().get(f"/jobs/{one_id(job)}/why")
    if as_json:
        say_json(found)
        return
    reason = found["reason"]
    if reason is None:
        say(f"job {found['id']} is {found['state']}: it does not wait")
        return
    say(f"job {found['id']} is {found['state']}: {reason_text(reason)}")
    if found["nodes"] and reason["code"] not in _NOT_OF_NODES:
        rows = [(n["node"], "yes" if n["fits"] else "no", visible(n["text"]) or "-") for n in found["nodes"]]
        say("\n" + table(("NODE", "FITS", "WHY"), rows, stdout_width(), cut="WHY"))
