"""How long jobs of the published traces would wait, under every policy: replays with the controller's own planner.

A row is a virtual cluster of the Philly trace on as many nodes as give it a load of 0.80 to 0.90, or a Muri trace on
8 nodes. EASY is told exact run times, the oracle too; the others learn from what has ended.
"""

from __future__ import annotations

from pathlib import Path

from bench.figures import Figure
from bench.spread import spread
from gpuq.scheduler.plan import OURS, SCHEMES
from gpuq.simulate.queue import Machines, Outcome, parse_limits, replay
from gpuq.simulate.queue_trace import TracedJob, read

PHILLY_UNTIL = 5_270_400.0  # October and November 2017
PHILLY = {"6214e9": 7, "6c71a0": 7, "b436b2": 5, "103959": 3, "ee9e8c": 20, "7f04ca": 9}
MURI = {"muri_trace1": 8, "muri_trace2": 8, "muri_trace3": 8}
PHILLY_JOBS = "philly_subset_jobs.csv.gz"
FILES = (PHILLY_JOBS, *(f"{row}.csv.gz" for row in MURI))
ROWS = (*(f"philly {vc}" for vc in PHILLY), *MURI)
GPUS_PER_NODE = 8
NOISE = 1.02  # two replays that differ in ties alone differ by this much
HOUR = 3_600.0


def measure(traces: Path) -> list[Figure]:
    """Waits in hours; traces is the folder with the traces' files."""
    runs = [(traces, row, scheme) for row in ROWS for scheme in SCHEMES]
    found = spread(_replayed, runs, "waits")
    return [figure for row in ROWS for figure in _row(row, {scheme: found[traces, row, scheme] for scheme in SCHEMES})]


def _replayed(run: tuple[Path, str, str]) -> Outcome:
    traces, row, scheme = run
    jobs, nodes = _trace(traces, row)
    limits = parse_limits("exact" if scheme == "easy" else "none")
    return replay(jobs, Machines(nodes, GPUS_PER_NODE), scheme, limits)


def _trace(traces: Path, row: str) -> tuple[list[TracedJob], int]:
    if row in MURI:
        return read(traces / f"{row}.csv.gz"), MURI[row]
    vc = row.removeprefix("philly ")
    return read(traces / PHILLY_JOBS, 0.0, PHILLY_UNTIL, vc), PHILLY[vc]


def _row(name: str, found: dict[str, Outcome]) -> list[Figure]:
    easy, ours = found["easy"], found[OURS]
    best = min(easy.wait_mean_s, found["first-fit"].wait_mean_s)
    others = [scheme for scheme in SCHEMES if scheme != OURS]
    return [
        *(_hours(f"{name}: mean wait, {scheme}", found[scheme].wait_mean_s) for scheme in others),
        _hours(f"{name}: mean wait, {OURS}", ours.wait_mean_s, best * NOISE, easy.wait_mean_s / 2),
        *(_hours(f"{name}: wait p99, {scheme}", found[scheme].wait_p99_s) for scheme in others),
        _hours(f"{name}: wait p99, {OURS}", ours.wait_p99_s, easy.wait_p99_s * NOISE),
        *_large(name, found, others),
    ]


def _large(name: str, found: dict[str, Outcome], others: list[str]) -> list[Figure]:
    """Of jobs with 8 GPUs or more, where the trace has any."""
    waits = {scheme: outcome.wait_mean_8plus_s for scheme, outcome in found.items()}
    if any(wait is None for wait in waits.values()):
        return []
    hours = {scheme: wait for scheme, wait in waits.items() if wait is not None}
    what = f"{name}: mean wait of 8 GPUs or more"
    figures = [_hours(f"{what}, {scheme}", hours[scheme]) for scheme in others]
    return [*figures, _hours(f"{what}, {OURS}", hours[OURS], hours["easy"] * NOISE)]


def _hours(what: str, seconds: float, must: float | None = None, aim: float | None = None) -> Figure:
    def in_hours(limit: float | None) -> float | None:
        return None if limit is None else limit / HOUR

    return Figure(what, seconds / HOUR, "h", must=in_hours(must), aim=in_hours(aim))
