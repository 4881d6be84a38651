"""The verbs about machines: nodes and nodes remove, gpus, cordon, uncordon, drain."""

from __future__ import annotations

from typing import Any

import click

from gpuq.cli.command import command, group
from gpuq.cli.connect import connect, connection
from gpuq.cli.params import JSON, examples
from gpuq.cli.table import table
from gpuq.cli.terminal import note, say, say_json, stdout_width, table_time, visible
from gpuq.units import format_size, plural

NODE_HEADER = ("NODE", "STATE", "GPUS", "BUSY", "CPUS", "CPU%", "MEMORY", "DISK", "AGENT", "SEEN", "NOTE")
GPU_HEADER = ("NODE", "GPU", "NAME", "MEMORY", "UTIL", "TEMP", "POWER", "HEALTH", "JOBS")
_TEXT = click.option("--text", "--reason", "text", default="", metavar="TEXT", help="Why, for those who wonder.")
_NODE = click.argument("node", metavar="NODE")


@group(name="nodes", invoke_without_command=True)
@JSON
@connection
@click.pass_context
def nodes(ctx: click.Context, as_json: bool) -> None:
    """List nodes: their state, what they have, and how much of it is used. '-' means not known."""
    if ctx.invoked_subcommand is not None:
        return
    items = connect().get("/nodes")["items"]
    if as_json:
        say_json({"items": items, "next": None})
        return
    say(table(NODE_HEADER, [_node_cells(n) for n in items], stdout_width(), cut="NODE", right=("GPUS", "BUSY", "CPUS")))
    if not items:
        note("no nodes yet; 'gpuq up' brings one, and 'gpuq token create --role join' says how others join")


@nodes.command(name="remove", epilog=examples("gpuq nodes remove n3"))
@_NODE
@click.option("--force", is_flag=True, help="The machine is gone for good: what runs there counts as dead.")
@JSON
@connection
def remove(node: str, force: bool, as_json: bool) -> None:
    """Take a node out of the cluster, and revoke its token.

    With --force its jobs are queued again, or FAILED, at once: that their processes are gone is your word alone. An
    agent that still answers is told to end them; one that does not goes on with them until its machine joins again.
    """
    removed = connect().post(f"/nodes/{node}/remove", {"force": force})
    if as_json:
        say_json(removed)
    else:
        say(f"node {visible(node)} is no longer part of the cluster")


def _node_cells(node: dict[str, Any]) -> tuple[str, ...]:
    state = node["state"]
    for flag in ("draining", "cordoned"):  # a draining node is cordoned too
        if node[flag]:
            state += f",{flag}"
            break
    if node["simulated"]:
        state += ",simulated"
    gpus = node["gpus"]
    busy = sum(1 for gpu in gpus if gpu["jobs"])
    return (
        visible(node["name"]),
        state,
        str(len(gpus)),
        str(busy),
        _number(node["cpus"]),
        _number(node["cpu_percent"], "%"),
        _share(node["memory_used_bytes"], node["memory_total_bytes"]),
        _share(node["disk_used_bytes"], node["disk_total_bytes"]),
        visible(node["agent_version"] or "-"),
        table_time(node["last_seen_at"]),
        visible(node.get("trouble") or _closed(node) or node.get("gpu_note") or "-"),
    )


def _closed(node: dict[str, Any]) -> str:
    """Who closed it and why, and how far it is emptied."""
    if not node["draining"]:
        return str(node.get("cordon_text") or "")
    left = len(node.get("jobs", ()))
    return ", ".join((f"{left} {plural(left, 'job')} left" if left else "empty", node.get("cordon_text") or "drained"))


@command(name="gpus")
@JSON
@connection
def gpus(as_json: bool) -> None:
    """List GPUs, one a line: what they are, what they do, and for which jobs. '-' means not known."""
    items = [
        {"node": node["name"], "node_state": node["state"], "simulated": node["simulated"], **gpu}
        for node in connect().get("/nodes")["items"]
        for gpu in node["gpus"]
    ]
    if as_json:
        say_json({"items": items, "next": None})
        return
    say(table(GPU_HEADER, [_gpu_cells(g) for g in items], stdout_width(), right=("GPU", "UTIL", "TEMP", "POWER")))
    if not items:
        note("no GPUs; 'gpuq nodes' shows which machines are there")


def _gpu_cells(gpu: dict[str, Any]) -> tuple[str, ...]:
    health = visible(": ".join(text for text in (gpu["health"], gpu.get("health_text")) if text))
    if gpu.get("foreign"):
        health += f", since {table_time(gpu['foreign']['since'])}"
    elif gpu.get("throttled"):
        health += f", slowed by {', '.join(gpu['throttled'])}"
    if gpu["node_state"] != "up":
        health += f", node {gpu['node_state']}"
    return (
        visible(gpu["node"]),
        str(gpu["index"]),
        visible(gpu["name"]) + (" (simulated)" if gpu["simulated"] else ""),
        _share(gpu["memory_used_bytes"], gpu["memory_total_bytes"]),
        _number(gpu["utilization_percent"], "%"),
        _number(gpu["temperature_c"], "C"),
        _number(gpu["power_w"], "W"),
        health,
        ",".join(gpu["jobs"]) or "-",
    )


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _share(used: int | None, total: int | None) -> str:
    return "-" if used is None and total is None else f"{format_size(used)}/{format_size(total)}"


@command(name="cordon")
@_NODE
@_TEXT
@JSON
@connection
def cordon(node: str, text: str, as_json: bool) -> None:
    """Give a node no new work; what runs there goes on."""
    _change("cordon", node, {"text": text}, "gets no new work", as_json)


@command(name="uncordon", epilog=examples("gpuq uncordon n3", "gpuq uncordon n3 --gpu 2"))
@_NODE
@click.option("--gpu", type=int, metavar="N", help="Only this GPU, which is quarantined for a fault.")
@JSON
@connection
def uncordon(node: str, gpu: int | None, as_json: bool) -> None:
    """Give a node work again, after cordon or drain; or one of its GPUs, after a fault."""
    if gpu is None:
        _change("uncordon", node, {}, "gets work again", as_json)
    else:
        _change("uncordon", node, {"gpu": gpu}, f"is told that its GPU {gpu} may work again", as_json)


@command(name="drain", epilog=examples("gpuq drain n3 --reason 'new power supply'", "gpuq drain n3 --requeue"))
@_NODE
@_TEXT
@click.option("--requeue", is_flag=True, help="Stop what runs there, and queue it again to run elsewhere.")
@JSON
@connection
def drain(node: str, text: str, requeue: bool, as_json: bool) -> None:
    """Give a node no new work, because it is to be emptied; what runs there comes to its own end.

    With --requeue it is stopped, as by a cancel, and queued again at no cost to its retries, but for jobs that were
    submitted with --no-requeue: they come to their own end. 'gpuq nodes' shows how many are left.
    """
    if requeue:
        then = "what runs there is stopped and queued again, unless it was submitted with --no-requeue"
        _change("drain", node, {"text": text, "requeue": True}, f"gets no new work; {then}", as_json)
    else:
        _change("drain", node, {"text": text}, "gets no new work; what runs there comes to its own end", as_json)


def _change(verb: str, node: str, body: dict[str, Any], said: str, as_json: bool) -> None:
    changed = connect().post(f"/nodes/{node}/{verb}", body)
    if as_json:
        say_json(changed)
    else:
        say(f"node {visible(node)} {said}")
