"""Plans as stories: a file of scenarios/ says what a cluster is and what happens, what then starts, why the rest waits.

Lines that begin at the margin happen, indented ones below `plan` are what is expected. `python -m
tests.scheduler.test_scenarios` writes them anew from what comes of each story today: read the difference.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuq.changes import PutSettings
from gpuq.config import parse_toml
from gpuq.document import read
from gpuq.model import Dependency, DependencyKind, JobId, NodeName, Rank, RankPhase
from gpuq.scheduler import plan
from gpuq.service.commands import Actor, Drain, Uncordon
from gpuq.settings import span
from gpuq.states import JobState
from gpuq.units import parse_duration, parse_size
from gpuq.view import Plan
from tests.service.builders import REQUEUED, ROOT, Desk, a_node, an_inventory, exited

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
_KINDS = {"H100": "NVIDIA H100 80GB", "A100": "NVIDIA A100 40GB", "CPU": ""}


def _options() -> argparse.ArgumentParser:
    """Those of `gpuq submit` that matter to a plan, under their names there."""
    words = argparse.ArgumentParser(prog="a job", add_help=False)
    for names, to, kind in (
        ("-N --nodes", "nodes", int),
        ("-G --gpus", "gpus", int),
        ("--gpus-per-node", "gpus_per_node", int),
        ("--gpu-type", "gpu_type", str),
        ("--gpu-mem", "gpu_memory_bytes", parse_size),
        ("-c --cpus", "cpus", int),
        ("--mem", "memory_bytes", parse_size),
        ("-t --time", "time_limit_seconds", parse_duration),
        ("-p --partition", "queue", str),
        ("--priority", "priority", int),
        ("-a --array", "array", str),
        ("-d --dependency", "dependencies", _dependencies),
        ("-b --begin", "begin_at", parse_duration),
        ("-C --constraint", "constraint", str),
        ("-w --nodelist", "only_nodes", _names),
        ("-x --exclude", "not_nodes", _names),
    ):
        words.add_argument(*names.split(), dest=to, type=kind, default=argparse.SUPPRESS)
    for names, to in (("-H --hold", "hold"), ("--shared", "shared"), ("--exclusive", "exclusive")):
        words.add_argument(*names.split(), dest=to, action="store_true", default=argparse.SUPPRESS)
    return words


def _dependencies(text: str) -> tuple[Dependency, ...]:
    kind, _, id = text.partition(":")
    return (Dependency(DependencyKind(kind), JobId(id)),)


def _names(text: str) -> tuple[NodeName, ...]:
    return tuple(map(NodeName, text.split(",")))


class Story:
    """A cluster to which the lines of a scenario happen."""

    def __init__(self, nodes: list[str], settings: list[str]) -> None:
        self.desk = Desk(*map(_node, nodes))
        document, _ = read(parse_toml("\n".join(settings), "settings"))
        self.desk.cluster.apply([PutSettings(document)])

    def happen(self, line: str) -> None:
        desk, (first, *rest) = self.desk, line.split()
        if first.endswith(":"):
            self._submit(first[:-1], rest)
        elif first == "after":
            desk.tick(parse_duration(rest[0]))
        elif first in ("cancel", "hold", "release"):
            getattr(desk, first)(rest[0], actor=ROOT)
        elif first == "drain":
            desk.do(Drain(ROOT, NodeName(rest[0]), requeue="--requeue" in rest))
        elif first == "uncordon":
            desk.do(Uncordon(ROOT, NodeName(rest[0])))
        else:
            (what,) = rest
            for rank in range(len(desk.attempt(first).ranks)):
                desk.word(first, RankPhase.ENDED, {"ends": exited(), "fails": exited(1), "goes": REQUEUED}[what], rank)

    def _submit(self, user: str, words: list[str]) -> None:
        fields: dict[str, Any] = vars(_options().parse_args(words))
        if "begin_at" in fields:
            fields["begin_at"] += self.desk.wall
        self.desk.submit(ROOT if user == "root" else Actor(user, "user"), **fields)

    def plan(self) -> Iterator[str]:
        """What the next plan does, and why those wait that it leaves; all it starts runs from then on."""
        desk = self.desk
        planned = plan(desk.cluster, desk.now, desk.policy)
        yield from self._decided(planned)
        desk.plan()
        for attempt in list(desk.cluster.attempts.values()):
            if desk.state(attempt.job) is JobState.ALLOCATED:
                for rank in range(len(attempt.ranks)):
                    desk.word(attempt.job, RankPhase.RUNNING, rank=rank, started_at=desk.wall)
        for job in desk.cluster.live_jobs():
            reason = desk.reason(job.id)
            if reason is not None:
                yield f"{job.id} waits: {reason.text}"

    def _decided(self, planned: Plan) -> Iterator[str]:
        for placement in planned.placements:
            id = placement.job if placement.index is None else f"{placement.job}_{placement.index}"
            yield f"{id} starts on {_places(placement.ranks)}"
        for preemption in planned.preemptions:
            stopped = ", ".join(sorted(self.desk.cluster.attempts[uid].job for uid in preemption.victims))
            yield f"{stopped} to end, so that {preemption.job} gets {_places(preemption.ranks)}"
        for kept in planned.reserved:
            latest = " at the latest" if kept.bounded else ""
            yield f"{kept.job} has room kept, free in {span(round(kept.at - self.desk.wall))}{latest}"


def _node(line: str) -> Any:
    """'n1 4xH100 32 CPUs rack=7'."""
    name, what, *rest = line.split()
    count, _, kind = what.partition("x") if "x" in what else ("0", "", "CPU")
    labels = {key: value for key, _, value in (word.partition("=") for word in rest if "=" in word)}
    cpus = next((int(word) for word in rest if word.isdigit()), 16)
    inventory = an_inventory(int(count), cpus, kind=_KINDS[kind])
    return a_node(name, inventory=replace(inventory, labels=labels))


def _places(ranks: Iterable[Rank]) -> str:
    return ", ".join(f"{rank.node} GPU {_ranges(rank.gpus)}" if rank.gpus else str(rank.node) for rank in ranks)


def _ranges(indices: tuple[int, ...]) -> str:
    return re.sub(r"(\d),(?:\d,)*(\d)", lambda m: _short(m[0]), ",".join(map(str, indices)))


def _short(text: str) -> str:
    found = [int(word) for word in text.split(",")]
    return f"{found[0]}-{found[-1]}" if found == list(range(found[0], found[-1] + 1)) else text


def told(text: str) -> str:
    """The scenario with what comes of it below each `plan`."""
    lines, out, bodies = text.splitlines(), [], {"cluster": [], "settings": []}  # type: ignore[var-annotated]
    heading, story = "", None
    for line in lines:
        if line.startswith(" "):
            if heading in bodies:
                bodies[heading].append(line.strip())
                out.append(line)
            continue
        out.append(line)
        if not line or line.startswith("#"):
            continue
        heading = line
        if line in bodies:
            continue
        story = story or Story(bodies["cluster"], bodies["settings"])
        if line == "plan":
            out += [f"  {said}" for said in story.plan()] or ["  nothing"]
        else:
            story.happen(line)
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_plan_is_as_told(path: Path) -> None:
    assert told(path.read_text()) == path.read_text()


if __name__ == "__main__":
    for path in SCENARIOS:
        path.write_text(told(path.read_text()))
