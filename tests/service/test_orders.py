"""What a node is told, and what is made of attempts nobody here knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.cluster import Cluster
from gpuq.errors import InvalidRequest, NotFound
from gpuq.model import (
    AttemptUid,
    EndReason,
    ExitRecord,
    Job,
    JobId,
    JobSpec,
    NodeName,
    OnLost,
    Rank,
    RankPhase,
    Request,
    StopKind,
)
from gpuq.node import Gpu
from gpuq.protocol import UNKNOWN_RANK, RankReport, RunOrder, SyncRequest
from gpuq.service.nodes import Orders, orders
from gpuq.states import JobState
from tests.service.builders import WALL, Desk, a_node, an_inventory, exited

N1 = NodeName("n1")
NONE = SyncRequest(1, N1, "boot-1", 1, 1)


def told(desk: Desk, request: SyncRequest = NONE) -> Orders:
    gone = {uid for uid in request.holds if uid in desk.attempts and desk.cluster.attempt(uid) is None}
    return orders(desk.cluster, request.node, request, frozenset(gone))


def holding(*uids: str, words: tuple[RankReport, ...] = ()) -> SyncRequest:
    return replace(NONE, holds=tuple(map(AttemptUid, uids)), reports=words)


def test_a_run_order_is_repeated_until_a_report_shows_it_arrived() -> None:
    desk = Desk()
    job = desk.submit()
    assert told(desk) == Orders()
    desk.plan()
    attempt = desk.attempt(job)
    assert told(desk).run == told(desk).run == ((attempt, 0),)
    assert told(desk, holding(attempt.uid)).run == ()
    desk.accept(job)
    assert told(desk).run == ()


def test_a_stop_order_replaces_the_run_order_and_is_repeated_until_the_end() -> None:
    desk = Desk()
    job = desk.submit(grace_seconds=7)
    desk.plan()
    uid = desk.attempt(job).uid
    desk.cancel(job)
    (stop,) = told(desk).stop
    assert (stop.uid, stop.kind, stop.grace_seconds, told(desk).run) == (uid, StopKind.CANCEL, 7, ())
    desk.accept(job)
    assert told(desk, holding(uid)).stop == (stop,)
    desk.end(job, exited(None, signal=9, stopped=StopKind.CANCEL))
    assert told(desk, holding(uid, words=(RankReport(uid, 0, RankPhase.ENDED, exit=exited()),))) == Orders(
        forget=(uid,)
    )
    assert told(desk) == Orders()


def test_only_fenced_attempts_are_extended() -> None:
    desk = Desk()
    fenced, kept = desk.submit(on_lost=OnLost.FENCE), desk.submit()
    desk.run(fenced)
    desk.run(kept)
    uids = [desk.attempt(id).uid for id in (fenced, kept)]
    assert told(desk, holding(*uids)).extend == (uids[0],)


def test_the_order_of_a_lost_job_waits_for_its_return() -> None:
    desk = Desk()
    desk.submit()
    desk.plan()
    desk.silence()
    assert told(desk).run == ()
    desk.sync("n1")
    assert len(told(desk).run) == 1


def test_what_was_given_up_by_force_is_stopped_when_its_node_returns() -> None:
    """Its GPUs count as free: it used to run on, beside whoever got them next, and nobody ever told it to stop."""
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.run(job)
    uid = desk.attempt(job).uid
    desk.silence()
    desk.cancel(job, force=True)
    word = RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL)
    due = told(desk, holding(uid, words=(word,)))
    assert [(stop.uid, stop.kind) for stop in due.stop] == [(uid, StopKind.CANCEL)]
    assert (due.forget, due.unexplained) == ((), (uid,))
    due = told(desk, holding(uid))
    assert (due.describe, due.unexplained) == ((uid,), (uid,)), "it may have ended: the agent is asked"
    due = told(desk, holding(uid, words=(RankReport(uid, 0, RankPhase.ENDED, exit=exited()),)))
    assert (due.stop, due.forget, due.unexplained) == ((), (uid,), ())


# ---------------------------------------------------------------- attempts that are not on record


def an_order(uid: str = "u9", number: int = 9, index: int | None = None, attempt: int = 1, **fields: Any) -> RunOrder:
    id = str(number) if index is None else f"{number}_{index}"
    job = Job(
        JobId(id), number, index, "old", "ada", "main", 0, Request(gpus_per_node=1), JobState.ALLOCATED,
        WALL - 100, WALL - 100, attempt=attempt,
    )  # fmt: skip
    fields = {"gpus": (0,), "node": "n1"} | fields
    ranks = (Rank(NodeName(fields["node"]), fields["gpus"], 0, 0),)
    return RunOrder(AttemptUid(uid), job, JobSpec(("work",), None, "/"), attempt, 0, ranks, granted_at=WALL - 90)


def running(order: RunOrder) -> RankReport:
    return RankReport(order.uid, order.rank, RankPhase.RUNNING, started_at=WALL - 80, order=order)


def ended(order: RunOrder, code: int = 0) -> RankReport:
    return RankReport(order.uid, order.rank, RankPhase.ENDED, exit=exited(code), order=order)


def test_an_unknown_attempt_is_asked_for_and_adopted_with_its_gpus() -> None:
    desk = Desk()
    order = an_order()
    assert told(desk, holding("u9")) == Orders(describe=(order.uid,), unexplained=(order.uid,))
    desk.sync("n1", running(order))
    assert (desk.state("9"), desk.attempt("9").number) == (JobState.RUNNING, 1)
    assert desk.cluster.free_gpus(N1) == (1, 2, 3)
    assert desk.cluster.next_number == 10, "ids go on beyond any ever issued"
    assert told(desk, holding("u9")) == Orders()
    desk.sync("n1", ended(order, 3))
    assert (desk.state("9"), desk.job("9").exit_code) == (JobState.FAILED, 3)


def test_an_unknown_attempt_that_has_ended_is_put_on_record_with_its_end() -> None:
    desk = Desk()
    desk.sync("n1", ended(an_order(), 5))
    assert (desk.state("9"), desk.job("9").exit_code) == (JobState.FAILED, 5)


def test_an_unknown_attempt_that_never_started_is_forgotten() -> None:
    """It has no order to describe it with: the agent held its tombstone, and was asked about it, for ever."""
    desk = Desk()
    word = RankReport(AttemptUid("u9"), UNKNOWN_RANK, RankPhase.ENDED, exit=ExitRecord(EndReason.NEVER_STARTED, WALL))
    assert told(desk, holding("u9", words=(word,))) == Orders(forget=(AttemptUid("u9"),))


def test_a_queued_jobs_forgotten_attempt_is_taken_over_by_the_job() -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.sync("n1", running(an_order("u9", int(job))))
    desk.plan()
    assert (desk.state(job), len(desk.cluster.attempts)) == (JobState.RUNNING, 1)


def test_an_adopted_element_is_not_made_a_second_time() -> None:
    """Two live attempts of one job: the store refused them, which ended the controller, and again at each start."""
    desk = Desk()
    desk.submit(array="0-3", gpus=1)
    desk.sync("n1", running(an_order("u9", 1, 2)))
    desk.plan()
    assert sorted(attempt.job for attempt in desk.cluster.attempts.values()) == ["1_0", "1_1", "1_2", "1_3"]
    assert desk.attempt("1_2").uid == "u9"
    assert desk.cluster.element_counts(JobId("1")) == {JobState.ALLOCATED: 3, JobState.RUNNING: 1}


def test_an_attempt_whose_gpus_are_on_record_as_anothers_waits_for_that_others_end() -> None:
    desk = Desk()
    stale = desk.submit(gpus=1)
    desk.run(stale)
    order = an_order()
    desk.sync("n1", running(order), holds=("u9",))
    assert (desk.state(stale), desk.cluster.job(JobId("9"))) == (JobState.STOPPING, None)
    assert told(desk, holding("u9")).describe == ("u9",)
    gone = RankReport(
        desk.attempt(stale).uid, UNKNOWN_RANK, RankPhase.ENDED, exit=ExitRecord(EndReason.NEVER_STARTED, WALL)
    )
    desk.sync("n1", running(order), gone)
    desk.sync("n1", running(order))
    assert desk.state("9") is JobState.RUNNING


def test_a_later_attempt_of_a_job_takes_the_place_of_the_one_on_record() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    job = desk.submit(gpus=1)
    desk.run(job)
    first = desk.attempt(job)
    order = an_order("u9", int(job), attempt=2, node="n2")
    desk.sync("n2", running(order))
    assert (desk.attempt(job).uid, desk.job(job).attempt, desk.state(job)) == ("u9", 2, JobState.RUNNING)
    assert desk.attempts[first.uid].ended_at == desk.wall
    desk.sync("n1", RankReport(first.uid, 0, RankPhase.ENDED, exit=exited()))
    assert desk.state(job) is JobState.RUNNING


def test_an_earlier_attempt_of_a_job_that_runs_again_is_stopped() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    job = desk.submit(only_nodes=("n1",))
    desk.run(job)
    order = an_order("u9", int(job), node="n2")
    request = replace(NONE, node=NodeName("n2"), holds=(order.uid,), reports=(running(order),))
    desk.sync("n2", running(order))
    assert [(stop.uid, stop.kind) for stop in told(desk, request).stop] == [("u9", StopKind.CANCEL)]
    assert told(desk, replace(request, reports=(ended(order),))).forget == ("u9",)


def test_two_attempts_of_one_job_in_one_report_do_not_both_live() -> None:
    desk = Desk()
    one, two = an_order("u1", attempt=1), an_order("u2", attempt=2, gpus=(1,))
    desk.sync("n1", running(one), running(two))
    assert [attempt.uid for attempt in desk.cluster.attempts.values()] == ["u2"]
    assert Cluster.__eq__(desk.cluster, desk.cluster)


def broken(order: RunOrder, **fields: Any) -> RunOrder:
    return replace(order, job=replace(order.job, **fields))


@pytest.mark.parametrize(
    "order",
    [
        an_order(node="n2"),
        an_order(node="n7"),
        an_order(gpus=(0, 0)),
        replace(an_order(), uid=AttemptUid("other")),
        replace(an_order(), rank=1),
        replace(an_order(), rank=-1),
        replace(an_order(), number=2),
        replace(an_order(), ranks=an_order().ranks * 2),
        replace(an_order(), ranks=(replace(an_order().ranks[0], phase=RankPhase.RUNNING),)),
        broken(an_order(), state=JobState.QUEUED),
        broken(an_order(), number=-9, id=JobId("-9")),
        broken(an_order(), number=2**40, id=JobId(str(2**40))),
        broken(an_order(), id=JobId("10")),
        broken(an_order(), index=3),
        broken(an_order(), user="\ud800"),
    ],
)
def test_an_order_no_controller_could_have_given_is_not_taken_on_record(order: RunOrder) -> None:
    """A broken or hostile node must not be able to write what the store refuses: that would stop everyone."""
    desk = Desk(a_node("n1"), a_node("n2"))
    desk.sync("n1", RankReport(AttemptUid("u9"), order.rank, RankPhase.RUNNING, started_at=WALL, order=order))
    assert not desk.jobs
    assert not desk.cluster.attempts


def test_an_inventory_that_names_a_gpu_twice_is_refused() -> None:
    desk = Desk()
    twice = replace(an_inventory(), gpus=(Gpu(0, "a", "x", None), Gpu(0, "b", "x", None)))
    with pytest.raises(InvalidRequest, match="contradicts itself"):
        desk.sync("n1", inventory=twice)
    with pytest.raises(InvalidRequest):
        desk.sync("n1", boot_id="\ud800")
    with pytest.raises(NotFound):
        desk.sync("n7")
    assert desk.cluster.free_gpus(N1) == (0, 1, 2, 3)


def test_a_new_inventory_counts_at_once() -> None:
    desk = Desk()
    desk.sync("n1", inventory=an_inventory(gpus=2))
    assert desk.cluster.free_gpus(N1) == (0, 1)
