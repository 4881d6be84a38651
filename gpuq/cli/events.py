"""gpuq events: what happened in the cluster, and what happens."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.params import JSON
from gpuq.cli.terminal import local_time, note, say, say_json, visible
from gpuq.client.follow import follow_events


@command(name="events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("-j", "--job", metavar="JOB", help="Of this job.")
@click.option("-w", "--node", metavar="NODE", help="Of this node.")
@click.option("-u", "--user", metavar="USER", help="Of this user's jobs.")
@click.option("--kind", metavar="KIND", help="Of this kind, such as job.running or node.lost.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, metavar="N", help="The newest N; default 50.")
@JSON
@connection
def events(
    follow: bool,
    job: str | None,
    node: str | None,
    user: str | None,
    kind: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the newest events, oldest first. With -f and --json, one JSON document a line."""
    client = connect()
    filters = {"job": job, "node": node, "user": user, "kind": kind, "limit": limit}
    if not follow:
        page = client.get("/events", filters)
        if as_json:
            say_json(page)
            return
        for event in page["items"]:
            say(_line(event))
        return
    for event in follow_events(client, None, filters, lambda error: note(f"{error.one_line()}; trying on")):
        if as_json:
            sys.stdout.write(json.dumps(event) + "\n")
        else:
            say(_line(event))
        sys.stdout.flush()


def _line(event: dict[str, Any]) -> str:
    about = []
    if event["job"] is not None:
        about.append(f"job {event['job']}" + (f".{event['attempt']}" if event["attempt"] else ""))
    if event["node"] is not None:
        about.append(f"node {event['node']}")
    if event["user"] is not None:
        about.append(event["user"])
    if event.get("address") is not None:
        about.append(f"from {event['address']}")
    words = [local_time(event["at"]), event["kind"], " ".join(about), event["text"]]
    return visible("  ".join(word for word in words if word))
