"""What could ever run, against looking at every node; and what could not changes nothing for others."""

from __future__ import annotations

import pytest

from gpuq.model import Now
from gpuq.scheduler.fit import empty, fits, rooms
from gpuq.scheduler.order import backlog_seconds, by_expectation
from gpuq.scheduler.possible import impossible
from tests.scheduler.test_plan_generated import a_generated_desk
from tests.scheduler.virtual import START, Line, Work

HOUR = 3_600.0


@pytest.mark.parametrize("seed", range(40))
def test_impossible_is_what_all_nodes_together_could_not_meet_if_they_were_empty(seed: int) -> None:
    desk = a_generated_desk(seed)
    requests = {job.request for job in desk.cluster.live_jobs()}
    nodes = [empty(room, desk.policy) for room in rooms(desk.cluster, desk.policy)]
    never = {request for request in requests if sum(fits(node, request) for node in nodes) < request.nodes}
    assert impossible(desk.cluster, requests) == never


@pytest.mark.parametrize(("gpus", "nodes"), [(4, 9), (64, 1)])
def test_an_impossible_job_is_no_part_of_the_backlog_nor_of_a_fair_share(gpus: int, nodes: int) -> None:
    learned = [Work(0, HOUR, 2, user="ada"), Work(0, HOUR, 1, user="bob")]
    waiting = [Work(HOUR, HOUR, 4, user=user) for user in ("cara", "ada", "bob")]
    keys, backlogs = [], []
    for more in ([], [Work(HOUR, HOUR, gpus, nodes, user="eve", limit=86_400) for _ in range(50)]):
        line = Line(1, 4)
        line.run([*learned, *waiting, *more], until=HOUR)
        view, now = line.cluster, Now(HOUR, START + HOUR)
        key = by_expectation(view, now)
        backlogs.append(backlog_seconds(view, now))
        jobs = [job for lanes in view.ready().values() for lane, members in lanes for job in members]
        keys.append({job.number: key(job.lane, job) for job in jobs if job.user != "eve"})
    assert backlogs[0] == backlogs[1]
    assert keys[0] == keys[1]
    assert keys[0]
