"""Cancel, hold, release, requeue and update in every state a job can be in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import EndReason, ExitRecord, JobId, NodeName, PutToken, RankPhase, StopKind
from gpuq.protocol import RankReport, Selection
from gpuq.service.commands import Actor, Cancel, Cordon, Drain, EnrolNode, Hold, Release, Requeue, StoreToken, Update
from gpuq.states import JobState
from tests.service.builders import ADA, BOB, ROOT, WALL, Desk, a_node, exited

NEVER = ExitRecord(EndReason.NEVER_STARTED, WALL)
KILLED = exited(None, signal=15, stopped=StopKind.CANCEL)
REQUEUED = exited(None, signal=15, stopped=StopKind.REQUEUE)


def ordered(desk: Desk) -> str:
    job = desk.submit()
    desk.plan()
    return job


def running(desk: Desk) -> str:
    job = desk.submit()
    desk.run(job)
    return job


def lost(desk: Desk) -> str:
    job = running(desk)
    desk.silence()
    return job


# ---------------------------------------------------------------- cancel


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


def test_a_requeue_of_pending_jobs_leaves_running_elements_alone() -> None:
    desk = Desk()
    desk.submit(array="0-9%1")
    desk.run("1_0")
    assert desk.requeue(user="ada", state="QUEUED") == ["already"]
    assert desk.state("1_0") is JobState.RUNNING


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


# ---------------------------------------------------------------- admins


def test_nodes_and_tokens_are_an_admins_matter() -> None:
    desk = Desk()
    token = PutToken("t", "0" * 64, "node", "root", NodeName("n2"), WALL, None)
    for command in (
        EnrolNode(ADA, NodeName("n2"), token),
        Cordon(ADA, NodeName("n1")),
        StoreToken(ADA, token),
    ):
        with pytest.raises(NotAuthorised):
            desk.do(command)
    assert desk.do(EnrolNode(ROOT, NodeName("n2"), token)) == {"name": "n2"}
    with pytest.raises(Conflict, match="exists already"):
        desk.do(EnrolNode(ROOT, NodeName("n2"), token))
    with pytest.raises(NotFound, match="no node n3"):
        desk.do(Cordon(ROOT, NodeName("n3")))
    assert desk.do(StoreToken(ROOT, token)) == {"id": "t"}
    assert desk.kinds("token.") == ["token.created"]


def test_a_word_after_a_forced_end_changes_nothing() -> None:
    desk = Desk()
    job = lost(desk)
    uid = desk.attempt(job).uid
    desk.cancel(job, force=True)
    desk.sync("n1", RankReport(uid, 0, RankPhase.ENDED, exit=exited(0)))
    assert desk.state(job) is JobState.CANCELED


def test_only_an_admin_lets_go_of_what_an_admin_holds() -> None:
    desk = Desk()
    job = desk.submit()
    desk.hold(job, actor=ROOT)
    assert desk.release(job) == ["refused"]
    assert desk.job(job).held_by == "root"
    assert desk.release(job, actor=ROOT) == ["done"]


def test_a_drained_node_says_so_when_its_last_job_has_ended() -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.run(job)
    desk.do(Drain(ROOT, NodeName("n1")))
    assert desk.kinds("node.drained") == []
    desk.end(job)
    assert desk.kinds("node.drained") == ["node.drained"]


def test_a_scheduling_timeout_counts_from_when_only_resources_are_short() -> None:
    desk = Desk(a_node(gpus=1))
    desk.run(desk.submit(gpus=1))
    job = desk.submit(gpus=1, begin_at=WALL + 100, scheduling_timeout_seconds=30)
    desk.tick(100)
    desk.tick(29)
    assert desk.state(job) is JobState.QUEUED
    desk.tick(1)
    assert desk.cause(job) == ("scheduling_timeout", "did not start within 00:00:30")
