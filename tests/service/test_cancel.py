"""Cancel in every state a job can be in, of arrays and elements, and of many jobs at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpuq.model import ExitRecord, JobId, NodeName, RankPhase, StopKind
from gpuq.protocol import RankReport
from gpuq.states import JobState
from tests.service.builders import BOB, NEVER, REQUEUED, ROOT, Desk, exited, lost, ordered, running

KILLED = exited(None, signal=15, stopped=StopKind.CANCEL)


def test_a_queued_job_is_canceled_at_once_and_says_by_whom() -> None:
    desk = Desk()
    job = desk.submit(hold=True)
    assert desk.cancel(job, actor=ROOT) == ["done"]
    assert (desk.state(job), desk.cause(job)) == (JobState.CANCELED, ("canceled", "by root"))
    assert desk.job(job).finished_at == desk.wall
    assert desk.cancel(job) == ["already"]


def test_a_granted_job_whose_order_has_not_left_is_canceled_at_once() -> None:
    desk = Desk()
    job = desk.submit(gpus=4)
    desk.plan(send=False)
    desk.cancel(job)
    assert desk.state(job) is JobState.CANCELED
    assert desk.cluster.free_gpus(NodeName("n1")) == (0, 1, 2, 3)


@pytest.mark.parametrize("made", [ordered, running])
def test_a_job_whose_order_has_left_holds_its_gpus_until_the_agent_says_it_is_gone(made: Callable[[Desk], str]) -> None:
    desk = Desk()
    job = made(desk)
    assert desk.cancel(job) == ["done"]
    assert desk.cancel(job) == ["done"], "asking twice is no error"
    assert desk.state(job) is JobState.STOPPING
    assert desk.cluster.attempts
    desk.end(job, NEVER if made is ordered else KILLED)
    assert (desk.state(job), desk.cause(job)) == (JobState.CANCELED, ("canceled", "by ada"))


@pytest.mark.parametrize(("exit", "state"), [(exited(0), "SUCCEEDED"), (exited(4), "FAILED")])
def test_a_job_that_ended_by_itself_before_the_stop_reached_it_is_not_called_canceled(
    exit: ExitRecord, state: str
) -> None:
    desk = Desk()
    job = desk.submit(max_retries=5)
    desk.run(job)
    desk.cancel(job)
    desk.end(job, exit)
    assert desk.state(job).value == state, "and it is not tried again either"


def test_a_lost_job_is_canceled_when_its_node_returns() -> None:
    desk = Desk()
    job = lost(desk)
    assert desk.cancel(job) == ["done"]
    assert desk.state(job) is JobState.LOST
    desk.sync("n1")
    assert desk.state(job) is JobState.STOPPING
    desk.end(job, KILLED)
    assert desk.state(job) is JobState.CANCELED


def test_a_lost_job_is_canceled_on_proof_of_death() -> None:
    desk = Desk()
    job = lost(desk)
    desk.cancel(job)
    desk.sync("n1", holds=(), boot_id="boot-2")
    assert (desk.state(job), desk.cause(job)) == (JobState.CANCELED, ("canceled", "by ada"))


def test_force_cancels_a_lost_job_without_proof() -> None:
    desk = Desk()
    job = lost(desk)
    assert desk.cancel(job, force=True) == ["done"]
    assert desk.state(job) is JobState.CANCELED
    assert not desk.cluster.attempts


def test_force_does_not_shorten_the_stop_of_a_job_that_is_not_lost() -> None:
    desk = Desk()
    job = running(desk)
    desk.cancel(job, force=True)
    assert desk.state(job) is JobState.STOPPING


def test_a_word_after_a_forced_end_changes_nothing() -> None:
    desk = Desk()
    job = lost(desk)
    uid = desk.attempt(job).uid
    desk.cancel(job, force=True)
    desk.sync("n1", RankReport(uid, 0, RankPhase.ENDED, exit=exited(0)))
    assert desk.state(job) is JobState.CANCELED


def test_a_cancel_replaces_a_requeue_and_not_the_other_way_round() -> None:
    desk = Desk()
    job = running(desk)
    desk.requeue(job)
    desk.cancel(job)
    assert desk.requeue(job) == ["refused"]
    desk.end(job, REQUEUED)
    assert desk.state(job) is JobState.CANCELED


def test_a_whole_array_is_canceled_made_and_unmade() -> None:
    desk = Desk()
    array = desk.submit(array="0-9%2")
    desk.run("1_0")
    desk.plan()
    assert desk.cancel(array) == ["done"]
    assert desk.states_of("1_0", "1_1", array) == ["STOPPING", "STOPPING", "QUEUED"]
    desk.plan()
    assert len(desk.jobs) == 3, "no further element is made"
    desk.end("1_0", KILLED)
    desk.end("1_1", exited(0))
    assert (desk.state(array), desk.cause(array)) == (JobState.CANCELED, ("canceled", "by ada"))
    assert desk.cluster.element_counts(array) == {}


def test_an_array_nothing_of_which_was_made_ends_at_once() -> None:
    desk = Desk()
    array = desk.submit(array="0-99999")
    desk.cancel(array)
    assert (desk.state(array), len(desk.jobs)) == (JobState.CANCELED, 1)


def test_elements_are_canceled_one_by_one_made_or_not() -> None:
    desk = Desk()
    desk.submit(array="0-3%1")
    desk.plan(send=False)
    assert desk.cancel("1_0", "1_2", "1_02", "1_9", "1_", "7_0") == ["done", "done", *["not_found"] * 4]
    assert desk.states_of("1_0", "1_2", "1") == ["CANCELED", "CANCELED", "QUEUED"]
    assert desk.cancel("1_1", "1_3") == ["done", "done"]
    assert desk.state("1") is JobState.CANCELED
    assert desk.live() == []
    assert desk.cluster.element_counts(JobId("1")) == {}, "nothing is kept of an array that has ended"


def test_every_second_element_of_a_large_array_can_be_canceled() -> None:
    """50,000 ranges on the way: taking one out must not walk along all others."""
    desk = Desk()
    desk.submit(array="0-39999")
    assert set(desk.cancel(*(f"1_{i}" for i in range(0, 40_000, 2)))) == {"done"}
    row = desk.cluster.job(JobId("1"))
    assert row is not None
    assert row.array is not None
    assert len(row.array.waiting) == 20_000


def test_pending_jobs_are_canceled_by_state_without_touching_what_runs() -> None:
    """An array's record is QUEUED for as long as any element lives: it must not stand for those that run."""
    desk = Desk()
    desk.submit(array="0-9%2")
    job = desk.submit(hold=True)
    desk.run("1_0")
    desk.plan()
    assert desk.cancel(user="ada", state="queued") == ["done", "done"]
    assert desk.states_of("1_0", "1_1", job) == ["RUNNING", "ALLOCATED", "CANCELED"]
    assert desk.job("1").array.dropped == 8  # type: ignore[union-attr]
    assert desk.requeue(user="ada", state="QUEUED") == []
    assert desk.cancel(user="ada", state="RUNNING") == ["done"]
    assert desk.states_of("1_0", "1_1") == ["STOPPING", "ALLOCATED"]


def test_filters_must_all_hold_and_select_only_what_the_actor_may_touch() -> None:
    desk = Desk()
    mine, other, named = desk.submit(), desk.submit(BOB), desk.submit(name="x")
    assert desk.cancel() == []
    assert desk.cancel(queue="main", name="x") == ["done"]
    assert desk.cancel(user="bob") == []
    assert desk.cancel(queue="nowhere") == []
    assert desk.states_of(mine, other, named) == ["QUEUED", "QUEUED", "CANCELED"]
    assert desk.cancel(queue="main", actor=ROOT) == ["done", "done"]


def test_one_refusal_does_not_stop_the_others() -> None:
    desk = Desk()
    mine, bobs, last = desk.submit(), desk.submit(BOB, array="0-3"), desk.submit()
    assert desk.cancel(mine, bobs, "2_1", "99", mine, last) == [
        "done", "not_allowed", "not_allowed", "not_found", "already", "done",
    ]  # fmt: skip
    assert len(desk.jobs) == 3, "no element of bob's array was made for the asking"
