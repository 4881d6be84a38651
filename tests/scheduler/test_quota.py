"""What one user may have at once: who is over it waits, and nobody else because of them."""

from __future__ import annotations

from typing import Any

from gpuq.changes import PutSettings
from gpuq.document import read
from gpuq.states import JobState
from tests.service.builders import ADA, BOB, Desk, a_node


def under(**document: Any) -> Desk:
    desk = Desk(*(a_node(f"n{i}", gpus=8) for i in range(2)))
    settings, _ = read(document)
    desk.cluster.apply([PutSettings(settings)])
    return desk


def said(desk: Desk, id: str) -> str:
    reason = desk.reason(id)
    assert reason is not None
    return f"{reason.code.value}: {reason.text}"


def running(desk: Desk) -> int:
    return sum(job.state is not JobState.QUEUED for job in desk.jobs.values() if job.array is None)


def test_gpus_beyond_a_users_quota_wait_while_others_start() -> None:
    desk = under(quotas={ADA.user: {"gpus": 3}})
    mine = [desk.submit(gpus=2) for _ in range(2)]
    large = desk.submit(gpus=4)
    theirs = desk.submit(actor=BOB, gpus=2)
    desk.plan()
    assert desk.states_of(*mine, large, theirs) == ["ALLOCATED", "QUEUED", "QUEUED", "ALLOCATED"]
    assert said(desk, mine[1]) == "quota: needs 2 GPUs, quota 2 of 3 GPUs"
    assert said(desk, large) == "quota: needs 4 GPUs, quota 3"
    one = desk.submit(gpus=1)
    desk.plan()
    assert desk.state(one) is JobState.ALLOCATED
    assert said(desk, mine[1]) == "quota: quota 3 of 3 GPUs"


def test_a_job_without_gpus_is_not_kept_by_a_quota_of_gpus() -> None:
    desk = under(quotas={ADA.user: {"gpus": 0}})
    held, free = desk.submit(gpus=1), desk.submit(cpus=1)
    desk.plan()
    assert desk.states_of(held, free) == ["QUEUED", "ALLOCATED"]


def test_a_queue_limits_what_each_user_runs_in_it() -> None:
    desk = under(queues={"a": {"default": True, "max_jobs_per_user": 2}, "b": {"max_gpus_per_user": 8}})
    ids = [desk.submit() for _ in range(3)]
    other, elsewhere = desk.submit(actor=BOB), desk.submit(queue="b", gpus=8)
    desk.plan()
    assert desk.states_of(*ids, other, elsewhere) == ["ALLOCATED"] * 2 + ["QUEUED"] + ["ALLOCATED"] * 2
    assert said(desk, ids[2]) == "quota: quota 2 of 2 jobs in queue a"
    more = desk.submit(queue="b", gpus=1)
    assert said(desk, more) == "quota: quota 8 of 8 GPUs in queue b"


def test_elements_of_an_array_count_one_each_and_follow_as_others_end() -> None:
    desk = under(quotas={ADA.user: {"jobs": 2}})
    array = desk.submit(array="0-4", gpus=1)
    desk.plan()
    assert running(desk) == 2
    assert said(desk, array) == "quota: quota 2 of 2 jobs"
    for element in ("0", "1"):
        desk.run(f"{array}_{element}")
        desk.end(f"{array}_{element}")
    desk.plan()
    assert desk.states_of(f"{array}_2", f"{array}_3") == ["ALLOCATED"] * 2


def test_a_raised_quota_lets_go_what_waited_for_it() -> None:
    desk = under(quotas={ADA.user: {"jobs": 0}})
    id = desk.submit()
    desk.plan()
    assert said(desk, id) == "quota: needs 1 job, quota 0"
    desk.cluster.apply([PutSettings(read({"quotas": {ADA.user: {"jobs": 1}}})[0])])
    desk.plan()
    assert desk.state(id) is JobState.ALLOCATED


HOUR, DAY = 3_600.0, 86_400.0


def test_gpu_hours_of_thirty_days_are_a_limit_for_the_next_start() -> None:
    desk = under(quotas={ADA.user: {"gpu_hours": 10}})
    first = desk.submit(gpus=4)
    desk.run(first)
    desk.wall += 2 * HOUR
    desk.run(desk.submit(gpus=4))  # eight hours so far
    desk.wall += 0.5 * HOUR
    late, cpus, theirs = desk.submit(gpus=1), desk.submit(cpus=1), desk.submit(actor=BOB, gpus=1)
    desk.plan()
    assert desk.states_of(late, cpus, theirs) == ["QUEUED", "ALLOCATED", "ALLOCATED"]
    assert said(desk, late) == "quota: quota 12 of 10 GPU-hours in 30 days"
    desk.end(first)
    desk.end("2")
    desk.wall += 30 * DAY
    desk.plan()
    assert desk.state(late) is JobState.QUEUED
    desk.wall += HOUR
    desk.plan()
    assert desk.state(late) is JobState.ALLOCATED


def test_what_runs_is_not_stopped_by_a_quota_of_gpu_hours() -> None:
    desk = under(quotas={ADA.user: {"gpu_hours": 1}})
    id = desk.submit(gpus=8)
    desk.run(id)
    desk.wall += 10 * HOUR
    desk.plan()
    assert desk.state(id) is JobState.RUNNING
