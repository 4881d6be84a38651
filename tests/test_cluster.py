"""Memory and disk agree: after any sequence of decisions, what a real store gives back is the cluster in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuq.changes import PutJob, PutNode
from gpuq.cluster import Cluster
from gpuq.model import Dependency, DependencyKind, Job, JobId, NodeName, Request
from gpuq.protocol import Selection
from gpuq.service.commands import Cancel
from gpuq.service.decide import decide
from gpuq.states import FINAL, JobState
from tests.cluster_life import AS_IF, Life
from tests.service.builders import ADA, Desk, exited


@pytest.fixture
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Life]:
    life = Life(request.param, tmp_path / "c.db")
    yield life
    life.close()


@pytest.mark.parametrize("life", range(25), indirect=True)
def test_what_the_store_gives_back_is_the_cluster_in_memory(life: Life) -> None:
    for step in range(400):
        life.step()
        life.nothing_waits_for_the_dead()
        if step % 40 == 39:
            life.check()


@pytest.mark.parametrize("life", range(3), indirect=True)
def test_a_cluster_that_goes_on_from_what_was_loaded_stays_in_step(life: Life) -> None:
    for _ in range(10):
        for _ in range(40):
            life.step()
        life.cluster = life.check()
        life.left |= set(life.cluster.attempts)


@pytest.mark.parametrize("life", range(5), indirect=True)
def test_what_is_asked_as_if_leaves_no_trace(life: Life) -> None:
    for _ in range(20):
        for _ in range(15):
            life.step()
        number = life.cluster.next_number
        for request in (Request(), Request(gpus_per_node=1), Request(cpus=3, only_nodes=(NodeName("n1"),))):
            for more in AS_IF:
                job = Job(
                    JobId(str(number)), number, None, "n", "u", "main", 0, request, JobState.QUEUED, 0.0, 0.0, **more
                )
                with life.cluster.as_if(job):
                    assert life.cluster.job(job.id) == job
        with pytest.raises(RuntimeError), life.cluster.as_if(job):
            raise RuntimeError
        life.check()


def test_nothing_is_kept_of_what_has_ended() -> None:
    """A controller lives for years: what ends must leave memory altogether."""
    desk = Desk()
    for _ in range(20):
        desk.submit(gpus=1)
        array = desk.submit(array="0-3%2", gpus=1, max_retries=1)
        desk.submit(dependencies=(Dependency(DependencyKind.AFTER_ANY, JobId(f"{array}_2")),))
        desk.submit(begin_at=desk.wall + 1, scheduling_timeout_seconds=100)
    for turn in range(300):
        desk.tick(6)
        desk.plan()
        for attempt in list(desk.cluster.attempts.values()):
            desk.end(attempt.job, exited(turn % 2))
        if not desk.live():
            break
    assert {job.state for job in desk.jobs.values()} <= FINAL
    fresh = Cluster(desk)
    fresh.apply(PutNode(node) for node in desk.cluster.nodes.values())
    for name, value in vars(desk.cluster).items():
        if name not in (
            "next_number",
            "_free",
            "_on_node",
            "run_times",
            "usage",
            "spent",
        ):  # the last three learn, within bounds
            assert value == vars(fresh)[name], name
    assert not any(vars(desk.cluster)["_on_node"].values())


def test_records_of_one_decision_may_come_in_any_order() -> None:
    """An array's record and its last elements end in one decision, whichever stands first."""
    for turn in range(6):
        desk = Desk()
        desk.submit(array="0-1")
        desk.cancel("1_0")
        desk.plan(send=False)
        decision = decide(desk.cluster, Cancel(ADA, Selection((JobId("1_1"),))), desk.now, desk.policy)
        changes = list(decision.changes)
        random.Random(turn).shuffle(changes)
        desk.cluster.apply(changes)
        assert desk.cluster == Cluster.load(_Empty(desk), desk)
        assert any(isinstance(change, PutJob) and change.job.array for change in changes)


class _Empty:
    """What a store has once everything has ended."""

    def __init__(self, desk: Desk) -> None:
        self.jobs: list[Job] = []
        self.element_counts: dict[JobId, dict[JobState, int]] = {}
        self.attempts: list[Any] = []
        self.past: list[Any] = []
        self.spent: list[Any] = []
        self.nodes = list(desk.cluster.nodes.values())
        self.users, self.tokens = list(desk.cluster.users.values()), list(desk.cluster.tokens.values())
        self.settings = desk.cluster.settings
        self.promised = desk.cluster.promised
        self.next_number, self.last_seq, self.epoch = 2, 0, 1
