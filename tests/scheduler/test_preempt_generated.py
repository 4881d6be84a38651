"""Who is stopped, against all other choices on generated clusters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from gpuq.changes import PutSettings
from gpuq.document import read
from gpuq.model import Attempt, Job
from gpuq.scheduler import plan
from gpuq.scheduler.fit import Room, fits, rooms
from gpuq.states import JobState
from tests.scheduler.yielding import QUEUES, a_desk
from tests.service.builders import ADA, BOB, ROOT, WALL, Desk


def free_after(desk: Desk, stopped: Iterable[Attempt]) -> list[Room]:
    left = {room.name: room for room in rooms(desk.cluster, desk.policy)}
    for attempt in stopped:
        for rank in attempt.ranks:
            left[rank.node].give(rank)
    return list(left.values())


def lost(desk: Desk, stopped: Iterable[Attempt]) -> tuple[int, int]:
    found = list(stopped)
    jobs = [desk.cluster.job(attempt.job) for attempt in found]
    ran = [round(desk.wall - attempt.granted_at) for attempt in found]
    return sum(s * max(1, job.request.gpus) for s, job in zip(ran, jobs, strict=True) if job is not None), len(found)


@pytest.mark.parametrize("seed", range(80))
def test_no_other_choice_would_lose_less(seed: int) -> None:
    chance = random.Random(seed)
    nodes = [chance.choice([2, 4]) for _ in range(chance.randint(1, 3))]
    desk = a_desk(*nodes, queues={**QUEUES, "spare": {"priority": 0}})
    for _ in range(chance.randint(2, 7)):
        id = desk.submit(
            chance.choice([ADA, BOB]),
            queue=chance.choice(["spare", "spare", "main"]),
            gpus=chance.choice([0, 1, 1, 2, 4]),
            cpus=chance.choice([0, 4, 8]),
        )
        wall, desk.wall = desk.wall, WALL - chance.randint(0, 2_000)
        desk.plan()
        desk.wall = wall
        if desk.state(id) is JobState.QUEUED:
            desk.cancel(id, actor=ROOT)
    desk.cluster.apply([PutSettings(read({"queues": QUEUES})[0])])
    job: Job = desk.job(desk.submit(queue="urgent", gpus=chance.choice([1, 2, 3, 4]), cpus=chance.choice([0, 8, 16])))
    planned = plan(desk.cluster, desk.now, desk.policy)
    if any(placement.job == job.id for placement in planned.placements):
        return
    able = [
        attempt
        for attempt in desk.cluster.attempts.values()
        if desk.cluster.job(attempt.job).queue == "spare"  # type: ignore[union-attr]
    ]
    enough = [
        chosen
        for count in range(len(able) + 1)
        for chosen in itertools.combinations(able, count)
        if any(fits(room, job.request) for room in free_after(desk, chosen))
    ]
    mine = [found for found in planned.preemptions if found.job == job.id]
    if not enough:
        assert not mine, "nobody is stopped who cannot help"
        return
    (found,) = mine
    best = min(lost(desk, chosen) for chosen in enough)
    assert lost(desk, (desk.cluster.attempts[uid] for uid in found.victims)) == best
