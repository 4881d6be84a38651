"""Hold, release, requeue and update in every state a job can be in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import JobId
from gpuq.protocol import Selection
from gpuq.service.commands import Actor, Cancel, Hold, Release, Requeue, Update
from gpuq.states import JobState
from tests.service.builders import ADA, BOB, NEVER, REQUEUED, ROOT, WALL, Desk, a_node, exited, lost, ordered, running


@pytest.mark.parametrize("verb", [Cancel, Hold, Release, Requeue])
@pytest.mark.parametrize("role", ["viewer", "node"])
def test_verbs_need_a_user(verb: type[Cancel], role: str) -> None:
    with pytest.raises(NotAuthorised):
        Desk().do(verb(Actor("ada", role), Selection((JobId("1"),))))


# ---------------------------------------------------------------- hold and release


def test_a_held_job_waits_until_it_is_released() -> None:
    desk = Desk()
    job = desk.submit()
    assert desk.hold(job) == ["done"]
    assert desk.hold(job) == ["already"]
    desk.plan()
    assert desk.reason(job).text == "held by ada"  # type: ignore[union-attr]
    assert desk.release(job) == ["done"]
    assert desk.release(job) == ["already"]
    desk.plan()
    assert desk.state(job) is JobState.ALLOCATED


@pytest.mark.parametrize("made", [ordered, running, lost])
def test_only_a_queued_job_is_held(made: Callable[[Desk], str]) -> None:
    desk = Desk()
    job = made(desk)
    assert (desk.hold(job), desk.release(job)) == (["refused"], ["already"])
    desk.cancel(job, force=True)
    if made is lost:
        assert (desk.hold(job), desk.release(job), desk.requeue(job)) == (["refused"], ["refused"], ["refused"])


def test_a_held_array_finishes_what_runs_and_starts_no_more() -> None:
    desk = Desk()
    array = desk.submit(array="0-9%2")
    desk.run("1_0")
    desk.plan()
    desk.hold(array)
    desk.end("1_0")
    desk.end("1_1", NEVER)
    desk.tick(60)
    desk.plan()
    assert desk.states_of("1_0", "1_1") == ["SUCCEEDED", "ALLOCATED"], "what ran then is no longer part of the hold"
    assert len(desk.jobs) == 3
    desk.release(array)
    desk.plan()
    assert len(desk.jobs) == 4


def test_a_requeued_element_can_be_held_with_its_array() -> None:
    desk = Desk()
    array = desk.submit(array="0-1", max_retries=1)
    desk.run("1_0")
    desk.run("1_1")
    desk.end("1_0", exited(1))
    desk.hold(array)
    assert desk.job("1_0").held_by == "ada"
    desk.release(array)
    assert desk.job("1_0").held_by is None


@pytest.mark.parametrize("verb", [Hold, Release, Requeue])
def test_what_has_ended_can_only_be_canceled_already(verb: type[Hold]) -> None:
    """'already', with exit status 0, told a script that its ended job would run again."""
    desk = Desk()
    job = running(desk)
    desk.end(job, exited(1))
    known = {JobId(job): desk.job(job)}
    (item,) = desk.do(verb(ADA, Selection((JobId(job),)), known))["items"]
    assert item["outcome"] == "refused"
    done = {Hold: "held", Release: "released", Requeue: "requeued; submit it again"}[verb]
    assert item["text"] == f"job {job} is FAILED: an ended job cannot be {done}"
    assert desk.cancel(job) == ["already"]


def test_only_an_admin_lets_go_of_what_an_admin_holds() -> None:
    desk = Desk()
    job = desk.submit()
    desk.hold(job, actor=ROOT)
    assert desk.release(job) == ["refused"]
    assert desk.job(job).held_by == "root"
    assert desk.release(job, actor=ROOT) == ["done"]


# ---------------------------------------------------------------- requeue


def test_a_queued_job_is_queued_already() -> None:
    desk = Desk()
    job = desk.submit()
    assert desk.requeue(job) == ["already"]


def test_a_running_job_runs_again_without_using_a_budget() -> None:
    desk = Desk()
    job = running(desk)
    assert desk.requeue(job) == ["done"]
    assert desk.state(job) is JobState.STOPPING
    desk.end(job, REQUEUED)
    assert (desk.state(job), desk.job(job).retries_used, desk.job(job).losses_used) == (JobState.QUEUED, 0, 0)
    desk.plan()
    assert (desk.state(job), desk.attempt(job).number) == (JobState.ALLOCATED, 2)


def test_a_requeue_before_the_order_left_takes_effect_at_once_even_when_said_twice() -> None:
    """The second of two in one request met an attempt that the first had ended, and failed the whole request."""
    desk = Desk()
    job = desk.submit()
    desk.plan(send=False)
    assert desk.requeue(job, job) == ["done", "already"]
    assert desk.state(job) is JobState.QUEUED
    desk.submit(array="0-1")
    desk.plan(send=False)
    assert desk.requeue("2_0", "2") == ["done", "done"]
    assert desk.states_of("2_0", "2_1") == ["QUEUED", "QUEUED"]


@pytest.mark.parametrize("force", [True, False])
def test_a_lost_job_is_requeued_on_proof_or_by_force(force: bool) -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    job = desk.submit()
    desk.run(job)
    desk.silence("n1")
    desk.requeue(job, force=force)
    assert desk.state(job) is (JobState.QUEUED if force else JobState.LOST)
    if not force:
        desk.sync("n1", holds=(), boot_id="boot-2")
        assert desk.state(job) is JobState.QUEUED


def test_an_array_without_anything_running_has_nothing_to_requeue() -> None:
    desk = Desk()
    array = desk.submit(array="0-3%1")
    assert desk.requeue(array) == ["refused"]
    desk.run("1_0")
    assert desk.requeue(array) == ["done"]
    assert desk.state("1_0") is JobState.STOPPING


def test_a_requeue_of_pending_jobs_leaves_running_elements_alone() -> None:
    desk = Desk()
    desk.submit(array="0-9%1")
    desk.run("1_0")
    assert desk.requeue(user="ada", state="QUEUED") == ["already"]
    assert desk.state("1_0") is JobState.RUNNING


# ---------------------------------------------------------------- update


def test_a_queued_job_takes_new_values() -> None:
    desk = Desk()
    job = desk.submit()
    desk.update(job, priority=-5, time_limit_seconds=60, name="x", comment="y", begin_at=WALL + 5, max_retries=2)
    now = desk.job(job)
    assert (now.priority, now.time_limit_seconds, now.name, now.comment) == (-5, 60, "x", "y")
    assert (now.eligible_at, now.max_retries) == (WALL + 5, 2)
    assert desk.events[-1].text == "comment, eligible_at, max_retries, name, priority, time_limit_seconds"


@pytest.mark.parametrize("made", [ordered, running, lost])
def test_of_a_job_that_has_started_only_the_comment_changes(made: Callable[[Desk], str]) -> None:
    desk = Desk()
    job = made(desk)
    desk.update(job, comment="important")
    assert desk.job(job).comment == "important"
    with pytest.raises(Conflict, match="only its comment"):
        desk.update(job, comment="x", name="y")


def test_an_update_covers_an_arrays_waiting_elements_and_not_those_that_run() -> None:
    desk = Desk()
    array = desk.submit(array="0-9%1")
    desk.run("1_0")
    desk.update(array, priority=-1)
    desk.update("1_5", priority=-2)
    assert (desk.job(array).priority, desk.job("1_0").priority, desk.job("1_5").priority) == (-1, 0, -2)


def test_updates_are_refused_with_the_reason() -> None:
    desk = Desk()
    job, bobs = desk.submit(), desk.submit(BOB)
    with pytest.raises(InvalidRequest, match="nothing to update"):
        desk.update(job)
    with pytest.raises(NotFound, match="no job 99"):
        desk.update("99", name="x")
    with pytest.raises(NotAuthorised, match="belongs to bob"):
        desk.update(bobs, name="x")
    with pytest.raises(NotAuthorised, match="only an admin may raise"):
        desk.update(job, priority=1)
    with pytest.raises(NotAuthorised, match="may not"):
        desk.do(Update(Actor("ada", "viewer"), JobId(job), name="x"))
    desk.update(job, priority=-5)
    with pytest.raises(NotAuthorised):
        desk.update(job, priority=0)
    desk.update(job, actor=ROOT, priority=7)
    desk.cancel(job)
    with pytest.raises(Conflict, match="1 is CANCELED"):
        desk.update(job, name="x")
