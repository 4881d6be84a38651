"""gpuq status: what runs on this machine, and how the cluster is."""

from __future__ import annotations

import json
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import client_for, connection, context
from gpuq.cli.daemons import Daemon, Running
from gpuq.cli.up import trust_note
from gpuq.config import host_home
from gpuq.errors import GpuqError, Unreachable
from gpuq.units import format_size

NEAR = 0.8  # of the room for logs: api/retention.py warns from there on too


@command()
@connection
@click.option("--home", metavar="DIR", help="Of the `gpuq up` to look at; default: the last one here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, about this machine.")
def status(home: str | None, as_json: bool) -> int:
    """Show the daemons of this machine, and the nodes, GPUs and jobs of the cluster."""
    home = host_home(home)
    controller, agent = Daemon(home, "controller"), Daemon(home, "agent")
    head, hand = controller.running(), agent.running()
    url = controller.url or None if head else None
    if as_json:
        document = {
            "controller": head and {"url": url, "pid": head.pid, "version": head.version},
            "agents": [{"name": hand.facts.get("name"), "pid": hand.pid}] if hand else [],
        }
        click.echo(json.dumps(document))
        return 0
    click.echo(f"controller  {_daemon_text(head, url)}")
    click.echo(f"agent       {_daemon_text(hand, hand and hand.facts.get('name'))}")
    if hand:
        click.echo(f"trust       {trust_note(hand)}")
    try:
        chosen = context()
    except Unreachable:
        click.echo("cluster     none known: start one with gpuq up")
        return 0
    try:
        cluster = client_for(chosen).get("/cluster")
    except GpuqError as error:
        click.echo(f"cluster     {error.one_line()}")
        return error.exit_status
    for line in cluster_lines(cluster, chosen.url):
        click.echo(line)
    return 0


def cluster_lines(cluster: dict[str, Any], url: str) -> list[str]:
    """Nodes, GPUs and jobs in numbers, one line each."""
    nodes, gpus, jobs = cluster["nodes"], cluster["gpus"], cluster["jobs"]
    simulated = f", {gpus['simulated']} of them simulated" if gpus["simulated"] else ""
    counted = ", ".join(f"{count} {state.lower()}" for state, count in jobs.items() if count)
    return [
        f"cluster     {url} (gpuq {cluster['version']})",
        "nodes       " + ", ".join(f"{count} {state}" for state, count in nodes.items()),
        f"gpus        {gpus['busy']} of {gpus['total']} busy{simulated}",
        f"jobs        {counted or 'none'}",
        *_log_lines(cluster.get("logs") or {}),
    ]


def _log_lines(logs: dict[str, Any]) -> list[str]:
    """How much room logs take, where that is limited; with a warning from four fifths on."""
    used, limit = logs.get("bytes"), logs.get("limit_bytes")
    if used is None or limit is None:
        return []
    near = "; the oldest are deleted when it is full" if used >= NEAR * limit else ""
    return [f"logs        {format_size(used)} of {format_size(limit)}, {used / max(limit, 1):.0%}{near}"]


def _daemon_text(running: Running | None, what: str | None) -> str:
    if running is None:
        return "not running"
    return f"{what or 'starting'}, pid {running.pid}, gpuq {running.version}"
