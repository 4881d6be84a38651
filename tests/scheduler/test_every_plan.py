"""What holds after every plan of a queue that is worked off, with gangs, shares, models, CPUs and quotas."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gpuq.changes import PutNode, PutSettings
from gpuq.document import read
from gpuq.model import Attempt, NodeName
from gpuq.scheduler.plan import SCHEMES
from gpuq.view import ClusterView
from tests.scheduler.virtual import Line, Work, an_odd_line, odd_work, some_work

QUOTA_GPUS, QUOTA_JOBS, QUEUE_JOBS = 5, 4, 6


class Watched(Line):
    """A line that is looked at after every plan."""

    plans = 0

    def _plan(self) -> None:
        super()._plan()
        self.plans += 1
        for attempt in self.cluster.attempts.values():
            gang_is_whole(self.cluster, attempt)
        for name in self.cluster.nodes:
            nothing_is_held_twice(self.cluster, name)


def gang_is_whole(view: ClusterView, attempt: Attempt) -> None:
    job = view.job(attempt.job)
    assert job is not None
    assert len({rank.node for rank in attempt.ranks}) == len(attempt.ranks) == job.request.nodes
    assert all(len(set(rank.gpus)) == job.request.gpus_per_node for rank in attempt.ranks)


def nothing_is_held_twice(view: ClusterView, name: NodeName) -> None:
    """From the records alone, without what the planner believes to be free."""
    node = view.nodes[name]
    assert node.inventory is not None
    ranks = [rank for attempt in view.attempts.values() for rank in attempt.ranks if rank.node == name]
    whole = Counter(gpu for rank in ranks if rank.gpu_share_bytes is None for gpu in rank.gpus)
    shared: Counter[int] = Counter()
    for rank in ranks:
        for gpu in rank.gpus:
            shared[gpu] += rank.gpu_share_bytes or 0
    memory = {gpu.index: gpu.memory_total_bytes or 0 for gpu in node.inventory.gpus}
    assert set(whole) | set(shared) <= set(memory)
    assert all(count == 1 and not shared[gpu] for gpu, count in whole.items())
    assert all(bytes <= memory[gpu] for gpu, bytes in shared.items())
    assert sum(rank.cpus for rank in ranks) <= node.inventory.cpus
    assert len(ranks) == 1 or not any(rank.exclusive for rank in ranks)


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_held_twice_and_every_gang_is_whole(scheme: str, seed: int) -> None:
    line = Watched(0, 0, scheme)
    line.cluster.apply(PutNode(node) for node in an_odd_line(seed).cluster.nodes.values())
    line.run(odd_work(seed))
    assert line.plans > 60
    assert line.started, "or nothing was tried"


class Rationed(Watched):
    """One user has a quota over all queues, all have that of a queue."""

    def _plan(self) -> None:
        super()._plan()
        held = [job for a in self.cluster.attempts.values() if (job := self.cluster.job(a.job)) is not None]
        assert sum(job.request.gpus for job in held if job.user == "ada") <= QUOTA_GPUS
        jobs = Counter(job.user for job in held)
        assert jobs["ada"] <= QUOTA_JOBS
        assert max(jobs.values(), default=0) <= QUEUE_JOBS


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("seed", range(4))
def test_quotas_hold_and_what_is_within_them_starts(scheme: str, seed: int) -> None:
    queues = {"main": {"default": True, "max_jobs_per_user": QUEUE_JOBS}}
    quotas = {"ada": {"gpus": QUOTA_GPUS, "jobs": QUOTA_JOBS}}
    work = [replace(each, at=each.at / 10) for each in busy_users(seed)]
    line = Rationed(3, 4, scheme)
    line.cluster.apply([PutSettings(read({"queues": queues, "quotas": quotas})[0])])
    line.run(work)
    within = [each for each in work if each.user != "ada" or each.gpus * each.nodes <= QUOTA_GPUS]
    assert len(within) < len(work), "or the quota forbids nothing for good"
    assert sorted(line.started) == sorted(
        place + 1 for place, each in enumerate(sorted(work, key=lambda each: each.at)) if each in within
    )


def busy_users(seed: int) -> list[Work]:
    return [replace(each, limit=None) if place % 3 else each for place, each in enumerate(some_work(seed))]
