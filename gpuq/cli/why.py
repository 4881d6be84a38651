"""gpuq why: the reason a job waits, and what each node is short of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import reason_text
from gpuq.cli.params import JSON
from gpuq.cli.selection import one_id
from gpuq.cli.table import table
from gpuq.cli.terminal import local_time, say, say_json, stdout_width, table_time, visible
from gpuq.units import plural

_SHOWN = 4  # holders of one node

# What no node can change: a table of nodes that fit would contradict the reason.
_NOT_OF_NODES = frozenset({"held", "dependency", "begin", "backoff", "array_limit", "quota", "preempting"})


@command(name="why")
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
    for line in outlook(found):
        say(line)
    if found["nodes"] and reason["code"] not in _NOT_OF_NODES:
        rows = [
            (n["node"], "yes" if n["fits"] else "no", visible(n["text"]) or "-", _held_by(n.get("held_by", [])) or "-")
            for n in found["nodes"]
        ]
        say("\n" + table(("NODE", "FITS", "WHY", "HELD BY"), rows, stdout_width(), cut="HELD BY"))


def outlook(found: dict[str, Any]) -> Iterator[str]:
    """When it is expected to start, and what would start now in its place; nothing from an older controller."""
    if start := found.get("expected_start"):
        latest = "at the latest" if start["by_limits"] else "by what such jobs took before"
        yield f"expected start: {local_time(start['at'])}, {latest}"
    if found.get("instead"):
        yield f"would start now: {' or '.join(found['instead'])}"


def _held_by(holders: list[dict[str, Any]]) -> str:
    return ", ".join(_holder(holder) for holder in holders[:_SHOWN]) + (
        f" and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else ""
    )


def _holder(holder: dict[str, Any]) -> str:
    gpus = f" ({holder['gpus']} {plural(holder['gpus'], 'GPU')})" if holder["gpus"] else ""
    if holder["until"] is None:
        return f"{holder['job']}{gpus}"
    about = "until" if holder["by_limit"] else "until about"
    return f"{holder['job']}{gpus} {about} {table_time(holder['until'])}"
