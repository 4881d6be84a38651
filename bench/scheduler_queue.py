"""How long jobs of the published traces would wait, under every policy: replays with the controller's own planner.

A row is a virtual cluster of the Philly trace on as many nodes as give it a load of 0.80 to 0.90, or a Muri trace on
8 nodes. EASY is told exact run times, the oracle too; the others learn from what has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from gpuq.scheduler.plan import OURS, SCHEMES
from gpuq.simulate.queue import Machines, Outcome, parse_limits, replay
from gpuq.simulate.queue_trace import TracedJob, read

PHILLY_UNTIL = 5_270_400.0  # October and November 2017
PHILLY = {"6214e9": 7, "6c71a0": 7, "b436b2": 5, "103959": 3, "ee9e8c": 20, "7f04ca": 9}
MURI = {"muri_trace1": 8, "muri_trace2": 8, "muri_trace3": 8}
GPUS_PER_NODE = 8
NOISE = 1.02  # two replays that differ in ties alone differ by this much
HOUR = 3_600.0


def measure(traces: Path) -> list[Figure]:
    """Waits in hours; traces is the folder with the traces' files."""
    return [figure for name, jobs, nodes in _rows(traces) for figure in _row(name, jobs, nodes)]


def _rows(traces: Path) -> Iterator[tuple[str, list[TracedJob], int]]:
    for vc, nodes in PHILLY.items():
        yield f"philly {vc}", read(traces / "philly_subset_jobs.csv.gz", 0.0, PHILLY_UNTIL, vc), nodes
    for name, nodes in MURI.items():
        yield name, read(traces / f"{name}.csv.gz"), nodes


def _row(name: str, jobs: list[TracedJob], nodes: int) -> list[Figure]:
    print(f"bench: {name}: {len(jobs)} jobs on {nodes} nodes", file=sys.stderr, flush=True)
    found = {
        scheme: replay(
            jobs, Machines(nodes, GPUS_PER_NODE), scheme, parse_limits("exact" if scheme == "easy" else "none")
        )
        for scheme in SCHEMES
    }
    easy, ours = found["easy"], found[OURS]
    best = min(easy.wait_mean_s, found["first-fit"].wait_mean_s)
    figures = [
        _hours(f"{name}: mean wait, {scheme}", found[scheme].wait_mean_s) for scheme in SCHEMES if scheme != OURS
    ]
    figures.append(_hours(f"{name}: mean wait, {OURS}", ours.wait_mean_s, best * NOISE, easy.wait_mean_s / 2))
    figures.append(_hours(f"{name}: wait p99, easy", easy.wait_p99_s))
    figures.append(_hours(f"{name}: wait p99, {OURS}", ours.wait_p99_s, easy.wait_p99_s * NOISE))
    return figures + _large(name, easy, ours)


def _large(name: str, easy: Outcome, ours: Outcome) -> list[Figure]:
    if easy.wait_mean_8plus_s is None or ours.wait_mean_8plus_s is None:
        return []
    return [
        _hours(f"{name}: mean wait of 8 GPUs or more, easy", easy.wait_mean_8plus_s),
        _hours(f"{name}: mean wait of 8 GPUs or more, {OURS}", ours.wait_mean_8plus_s, easy.wait_mean_8plus_s * NOISE),
    ]


def _hours(what: str, seconds: float, must: float | None = None, aim: float | None = None) -> Figure:
    def in_hours(limit: float | None) -> float | None:
        return None if limit is None else limit / HOUR

    return Figure(what, seconds / HOUR, "h", must=in_hours(must), aim=in_hours(aim))
