"""gpuq simulate: what a cluster would do with a trace of jobs, with the controller's own planner in virtual time."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

import click

from gpuq.cli.command import group
from gpuq.cli.params import JSON, examples, parsed
from gpuq.cli.table import table
from gpuq.cli.terminal import note, say, say_json, stdout_width
from gpuq.scheduler.placing import PLACINGS
from gpuq.scheduler.plan import OURS, SCHEMES
from gpuq.simulate import pack as packing
from gpuq.simulate import pack_trace
from gpuq.simulate import queue as replays
from gpuq.simulate.queue_trace import read
from gpuq.units import format_duration, plural

_TRACE = click.Path(exists=True, dir_okay=False, path_type=Path)


@group()
def simulate() -> None:
    """Run a trace of jobs through gpuq's planner in virtual time. No cluster is needed, and none is touched."""


@simulate.command(
    name="queue",
    epilog=examples(
        "gpuq simulate queue --trace jobs.csv --nodes 8 --gpus-per-node 8",
        "gpuq simulate queue --trace jobs.csv.gz --nodes 10 --gpus-per-node 8 --policy easy --limits over:2",
    ),
)
@click.option("--trace", required=True, type=_TRACE, metavar="FILE", help="CSV of jobs, also gzipped: see the manual.")
@click.option("--nodes", required=True, type=click.IntRange(1, 100_000), metavar="N", help="Nodes of the cluster.")
@click.option("--gpus-per-node", required=True, type=click.IntRange(1, 1_024), metavar="G", help="GPUs of each node.")
@click.option(
    "--limits",
    type=parsed(replays.parse_limits),
    default="none",
    metavar="none|exact|over:K",
    help="Time limits the jobs have: none, their run times, or K times that; default none.",
)
@click.option("--policy", type=click.Choice(list(SCHEMES)), default=OURS, help=f"Who starts first; default {OURS}.")
@click.option("--seed", type=int, metavar="S", help="Shuffle jobs that were submitted in the same second.")
@click.option("--from", "since", type=float, metavar="S", help="Only jobs submitted at S seconds or later.")
@click.option("--until", type=float, metavar="S", help="Only jobs submitted before S seconds.")
@click.option("--vc", metavar="NAME", help="Only jobs of this virtual cluster.")
@JSON
def queue(
    trace: Path,
    nodes: int,
    gpus_per_node: int,
    limits: replays.Limits,
    policy: str,
    seed: int | None,
    since: float | None,
    until: float | None,
    vc: str | None,
    as_json: bool,
) -> None:
    """How long jobs would wait: replays a trace of jobs on so many nodes."""
    jobs = read(trace, since, until, vc)
    if seed is not None:
        random.Random(seed).shuffle(jobs)
        jobs.sort(key=lambda job: job.submitted_at)
    outcome = replays.replay(jobs, replays.Machines(nodes, gpus_per_node), policy, limits)
    if outcome.too_large:
        note(f"{outcome.too_large} {plural(outcome.too_large, 'job')} left out: larger than all nodes together")
    if as_json:
        figures = asdict(outcome)
        del figures["too_large"]
        say_json(figures)
        return
    say(table(("", ""), _rows(outcome), stdout_width()))


def _rows(outcome: replays.Outcome) -> list[tuple[str, str]]:
    def span(seconds: float | None) -> str:
        return "-" if seconds is None else format_duration(round(seconds))

    return [
        ("jobs", str(outcome.jobs)),
        ("mean wait", span(outcome.wait_mean_s)),
        ("median wait", span(outcome.wait_median_s)),
        ("wait of the last 1 %", span(outcome.wait_p99_s)),
        ("longest wait", span(outcome.wait_max_s)),
        ("mean wait, 8 GPUs or more", span(outcome.wait_mean_8plus_s)),
        ("mean from submit to end", span(outcome.jct_mean_s)),
        ("from first submit to last end", span(outcome.makespan_s)),
        ("GPUs in use", f"{outcome.utilization_percent:.1f} %"),
    ]


@simulate.command(
    name="pack",
    epilog=examples(
        "gpuq simulate pack --jobs jobs.csv.gz --nodes-file nodes.csv.gz",
        "gpuq simulate pack --jobs jobs.csv.gz --nodes-file nodes.csv.gz --constraints --policy best-fit",
    ),
)
@click.option("--jobs", required=True, type=_TRACE, metavar="FILE", help="Gzipped CSV of tasks: see the manual.")
@click.option("--nodes-file", required=True, type=_TRACE, metavar="FILE", help="Gzipped CSV of the nodes.")
@click.option("--constraints", is_flag=True, help="Tasks take only the GPU models they name.")
@click.option("--seed", type=int, default=0, metavar="S", help="Decides the order of tasks; default 0.")
@click.option(
    "--until-percent",
    type=click.IntRange(1, 1_000),
    default=130,
    metavar="P",
    help="End when so many percent of all GPUs were asked for; default 130.",
)
@click.option("--policy", type=click.Choice(list(PLACINGS)), default=OURS, help=f"Which place is best; default {OURS}.")
@JSON
def pack(
    jobs: Path, nodes_file: Path, constraints: bool, seed: int, until_percent: int, policy: str, as_json: bool
) -> None:
    """How full a cluster would get: places a trace's tasks one by one until nothing more fits."""
    tasks, machines = pack_trace.tasks(jobs, constraints), pack_trace.machines(nodes_file)
    allocated = packing.pack(tasks, machines, policy, seed, until_percent).allocated_percent
    if as_json:
        say_json({f"allocated_percent_at_{asked}": percent for asked, percent in allocated.items()})
        return
    rows = [(f"{asked} %", f"{percent:.2f} %") for asked, percent in allocated.items()]
    say(table(("ASKED FOR", "ALLOCATED"), rows, stdout_width()))
