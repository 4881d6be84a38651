"""Whoever does what is advised starts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gpuq.changes import PutJob, PutSettings
from gpuq.document import read
from gpuq.model import Job, JobId, Now
from gpuq.scheduler import instead, plan
from gpuq.units import parse_duration
from gpuq.view import Policy
from tests.scheduler.virtual import START, Line, an_odd_line, odd_work
from tests.service.builders import ADA, Desk, a_node

HOUR = 3_600


def as_advised(job: Job, advice: str) -> Job:
    """The job as its owner would submit it anew."""
    number = int(found[0]) if (found := re.findall(r"\d+", advice)) else 0
    if advice.startswith("with -t "):
        return replace(job, time_limit_seconds=parse_duration(advice.removeprefix("with -t ")))
    if advice.startswith("with "):
        return replace(job, request=replace(job.request, gpus_per_node=number))
    if re.fullmatch(r"on \d+ nodes?", advice):
        return replace(job, request=replace(job.request, nodes=number))
    if advice.startswith("on GPUs other than "):
        return replace(job, request=replace(job.request, gpu_type=None))
    assert advice == "without --exclusive"
    return replace(job, request=replace(job.request, exclusive=False))


def starts_as_advised(line: Line, job: Job, advice: str) -> bool:
    """Whether it starts, 20 s later, if it is submitted anew like this and the one that waits is held."""
    view, now = line.cluster, Now(line.now + 20, START + line.now + 20)
    view.apply([PutJob(replace(job, held_by=job.user))])
    number = view.next_number
    anew = replace(as_advised(job, advice), id=JobId(str(number)), number=number, submitted_at=now.wall)
    try:
        with view.as_if(replace(anew, queued_at=now.wall)):
            return any(placement.job == anew.id for placement in plan(view, now, Policy()).placements)
    finally:
        view.apply([PutJob(job)])


@pytest.mark.parametrize("limits", [True, False])
def test_whoever_does_what_is_advised_starts(limits: bool) -> None:
    advised = set()
    for seed in range(25):
        line = an_odd_line(seed)
        work = odd_work(seed)
        line.run(work if limits else [replace(each, limit=None) for each in work], until=4_000 + 200 * seed)
        now = Now(line.now, START + line.now)
        waiting = [job for lanes in line.cluster.ready().values() for _, jobs in lanes for job in jobs]
        for job in waiting:
            for advice in instead(line.cluster, job, now, Policy()):
                assert starts_as_advised(line, job, advice), (seed, job.id, advice)
                advised.add(re.sub(r"[\dhms]+$|\d+", "N", advice).split(" on each")[0].rstrip("s"))
    assert len(advised) > 4, advised


def test_a_job_kept_from_a_gap_is_told_the_time_limit_with_which_it_fills_it() -> None:
    desk = Desk(a_node(gpus=4))
    desk.submit(gpus=3, time_limit_seconds=HOUR)
    desk.plan()
    desk.submit(gpus=4, time_limit_seconds=HOUR)
    late = desk.submit(gpus=1, time_limit_seconds=3 * HOUR)
    desk.plan()
    assert instead(desk.cluster, desk.job(late), desk.now, desk.policy) == ["with -t 54m"]


def test_nothing_is_advised_that_a_quota_or_the_room_kept_for_another_forbids() -> None:
    desk = Desk(a_node(gpus=4))
    desk.submit(gpus=1, time_limit_seconds=60)
    desk.plan()
    desk.submit(gpus=4, time_limit_seconds=HOUR)
    job = desk.submit(gpus=4, time_limit_seconds=HOUR)
    desk.plan()
    assert instead(desk.cluster, desk.job(job), desk.now, desk.policy) == []
    desk.cancel("2")
    desk.plan()
    assert instead(desk.cluster, desk.job(job), desk.now, desk.policy) == ["with 3 GPUs"]
    desk.cluster.apply([PutSettings(read({"quotas": {ADA.user: {"gpus": 2}}})[0])])
    assert instead(desk.cluster, desk.job(job), desk.now, desk.policy) == ["with 1 GPU"]
