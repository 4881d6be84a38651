"""What becomes of jobs that take more memory of a GPU than their share of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.changes import AddEvent, Change, PutSettings
from gpuq.codec import decode, encode
from gpuq.errors import InvalidRequest
from gpuq.model import AttemptUid, RankPhase, StopKind
from gpuq.protocol import Overuse, RankReport, SyncRequest
from gpuq.service.bounds import check_report
from gpuq.service.nodes import orders
from gpuq.settings import ClusterSettings, Settings, SharedGpuMemory
from gpuq.states import JobState
from tests.service.builders import NEVER, REQUEUED, WALL, Desk, a_node, exited
from tests.service.machine import N1, Machine

GIB = 1 << 30
TEXT = "used 31.2G of GPU 0 of n1 for 1m, 11.2G more than it asked for: raise --gpu-mem"


class Journaled(Machine):
    """Counts how often its journal was told of overuse."""

    warnings = 0

    def enqueue(self, seq: int, changes: tuple[Change, ...]) -> None:
        self.warnings += sum(isinstance(change, AddEvent) and change.kind == "gpu.overused" for change in changes)
        super().enqueue(seq, changes)


def sharing(desk: Desk, **fields: Any) -> str:
    job = desk.submit(gpus=1, shared=True, gpu_memory_bytes=20 * GIB, **fields)
    desk.run(job)
    return job


def over(desk: Desk, job: str, seconds: float = 0.0, **fields: Any) -> Overuse:
    return replace(Overuse(desk.attempt(job).uid, 0, int(31.2 * GIB), seconds), **fields)


def told(desk: Desk) -> list[str]:
    return [event.text for event in desk.events if event.kind == "gpu.overused"]


def under(desk: Desk, **settings: Any) -> None:
    desk.cluster.apply([PutSettings(Settings(cluster=ClusterSettings(**settings)))])


def test_it_is_said_at_once_and_the_job_alone_is_stopped_after_the_grace() -> None:
    desk = Desk()
    job, neighbour = sharing(desk), sharing(desk)
    desk.sync(overuse=(over(desk, job),))
    assert told(desk) == ["uses 31.2G of GPU 0 of n1, 11.2G more than it asked for: stopped after 1m of that"]
    event = next(event for event in desk.events if event.kind == "gpu.overused")
    assert (event.job, event.attempt, event.node, event.user) == (job, 1, "n1", "ada")
    desk.sync(overuse=(over(desk, job, 59.9),))
    assert desk.state(job) is JobState.RUNNING
    desk.sync(overuse=(over(desk, job, 60.0),))
    assert (desk.state(job), desk.state(neighbour)) == (JobState.STOPPING, JobState.RUNNING)
    (stop,) = orders(desk.cluster, N1, SyncRequest(1, N1, "boot-1", 1, 1), frozenset()).stop
    assert (stop.uid, stop.kind) == (desk.attempt(job).uid, StopKind.REQUEUE)  # the word that every agent knows
    desk.end(job, REQUEUED)
    assert (desk.state(job), desk.cause(job)) == (JobState.FAILED, ("gpu_memory", TEXT))
    assert (desk.job(job).signal, desk.attempt(neighbour).live) == (15, True)


def test_a_report_after_one_that_told_of_it_is_no_event_and_one_that_did_not_forgets_it() -> None:
    machine = Journaled()
    machine.answered()
    machine.submit(gpus=1, shared=True, gpu_memory_bytes=20 * GIB)
    uid = machine.answered().run[0].uid
    runs, much = RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL), (Overuse(uid, 0, 21 * GIB, 3.0),)

    for overuse, expected in ((much, 1), (much, 1), ((), 1), (much, 2)):
        machine.answered(runs, overuse=overuse)
        assert machine.warnings == expected
        assert machine.controller.overuse(N1, uid) == (overuse[0] if overuse else None)
    machine.tick(60.0)  # silent
    assert machine.controller.overuse(N1, uid) is None
    again = Journaled(machine.disk, machine.time)  # a controller that starts again has said nothing yet
    again.answered(runs, overuse=much, sequence=99)
    assert again.warnings == 1


def test_a_controller_that_starts_again_goes_by_the_agents_count() -> None:
    desk = Desk()
    job = sharing(desk)
    desk.sync(overuse=(over(desk, job, 75.0),))
    assert desk.state(job) is JobState.STOPPING
    stop = desk.attempt(job).stop
    assert stop is not None
    assert " for 1m15s," in stop.text


def test_where_the_settings_only_warn_nobody_is_stopped() -> None:
    desk = Desk()
    under(desk, shared_gpu_memory=SharedGpuMemory.WARN)
    job = sharing(desk)
    desk.sync(overuse=(over(desk, job, 1e6),))
    assert desk.state(job) is JobState.RUNNING
    assert told(desk) == ["uses 31.2G of GPU 0 of n1, 11.2G more than it asked for"]


def test_the_grace_is_a_setting() -> None:
    desk = Desk()
    under(desk, shared_gpu_memory_grace=300)
    job = sharing(desk)
    desk.sync(overuse=(over(desk, job, 299.0),))
    assert desk.state(job) is JobState.RUNNING
    desk.sync(overuse=(over(desk, job, 300.0),))
    assert desk.state(job) is JobState.STOPPING


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": 3},  # not one of its GPUs
        {"used_bytes": 20 * GIB},  # its share, to the byte
        {"uid": AttemptUid("nobody")},
    ],
)
def test_a_word_that_the_records_do_not_bear_out_changes_nothing(changes: dict[str, Any]) -> None:
    desk = Desk()
    job = sharing(desk)
    desk.sync(overuse=(over(desk, job, 999.0, **changes),))
    assert (desk.state(job), told(desk)) == (JobState.RUNNING, [])


def test_a_node_cannot_have_a_job_of_another_stopped_nor_one_with_whole_gpus() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    whole = desk.submit(gpus=1, only_nodes=(N1,))
    desk.run(whole)
    desk.sync(overuse=(over(desk, whole, 999.0),))
    job = sharing(desk, only_nodes=(N1,))
    desk.sync("n2", overuse=(over(desk, job, 999.0, gpu=desk.attempt(job).ranks[0].gpus[0]),))
    assert (desk.states_of(whole, job), told(desk)) == (["RUNNING", "RUNNING"], [])


def test_it_is_a_failure_of_the_jobs_own_and_retries_apply() -> None:
    desk = Desk()
    job = sharing(desk, max_retries=1)
    desk.sync(overuse=(over(desk, job, 60.0),))
    desk.end(job, REQUEUED)
    assert (desk.state(job), desk.job(job).retries_used, desk.job(job).losses_used) == (JobState.QUEUED, 1, 0)
    cause = desk.attempt(job).cause
    assert cause is not None
    assert (cause.code.value, cause.text) == ("gpu_memory", TEXT)


@pytest.mark.parametrize(
    ("exit", "state", "code"),
    [
        (exited(0), "SUCCEEDED", None),  # it was through before the stop came
        (exited(3), "FAILED", "exit_code"),
        (exited(0, stopped=StopKind.REQUEUE), "FAILED", "gpu_memory"),
        (exited(None, signal=15, stopped=StopKind.TIME_LIMIT), "FAILED", "time_limit"),
        (NEVER, "FAILED", "gpu_memory"),
    ],
)
def test_what_really_ended_it_is_the_cause(exit: Any, state: str, code: str | None) -> None:
    desk = Desk()
    job = sharing(desk)
    desk.sync(overuse=(over(desk, job, 60.0),))
    desk.end(job, exit)
    cause = desk.cause(job)
    assert (desk.state(job).value, cause and cause[0]) == (state, code)


def test_who_cancels_it_meanwhile_has_cancelled_it() -> None:
    desk = Desk()
    job = sharing(desk)
    desk.sync(overuse=(over(desk, job, 60.0),))
    desk.cancel(job)
    desk.sync(overuse=(over(desk, job, 65.0),))
    desk.end(job, exited(None, signal=15, stopped=StopKind.REQUEUE))
    assert desk.cause(job) == ("canceled", "by ada")


def test_an_older_agents_report_has_nothing_of_it_and_nor_has_one_with_nothing_to_tell() -> None:
    request = SyncRequest(1, N1, "boot-1", 1, 1, overuse=(Overuse(AttemptUid("a"), 0, 5, 1.5),))
    wire = encode(request)
    assert decode(SyncRequest, wire) == request
    del wire["overuse"]
    assert decode(SyncRequest, wire) == replace(request, overuse=())
    assert "overuse" not in encode(replace(request, overuse=()))


@pytest.mark.parametrize("uids", [[f"a{n}" for n in range(257)], ["a", "b", "a"], ["a" * 65], ["\n"]])
def test_overuse_that_no_agent_of_ours_would_tell_of_is_refused(uids: list[str]) -> None:
    told = tuple(Overuse(AttemptUid(uid), 0, 5, 1.0) for uid in uids)
    with pytest.raises(InvalidRequest):
        check_report(SyncRequest(1, N1, "boot-1", 1, 1, overuse=told), WALL)
