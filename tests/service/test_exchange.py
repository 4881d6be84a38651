"""What agents are told: durable before it leaves, once each, repeated when in doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuq.changes import PutToken
from gpuq.errors import GpuqError, Incompatible, NotFound
from gpuq.model import AttemptUid, NodeName, RankPhase
from gpuq.protocol import POLL_SECONDS, RankReport, Selection, Submission, SyncReply, SyncRequest
from gpuq.service.commands import Cancel, EnrolNode, RemoveNode, Submit
from gpuq.states import JobState, NodeState
from tests.service.builders import ADA, ROOT, WALL, an_inventory, exited
from tests.service.machine import N1, Machine


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.answered()
    return machine


def test_an_order_leaves_only_when_its_grant_is_durable(machine: Machine) -> None:
    poll = machine.sync(wait=5.0)
    machine.write()
    assert poll == []
    answers = machine.ask(Submit(ADA, Submission(command=("true",), gpus=1)))
    machine.turn()
    assert (poll, answers) == ([], [])
    machine.write()
    (reply,) = poll
    assert isinstance(reply, SyncReply)
    (order,) = reply.run
    assert (order.job.id, order.ranks[0].gpus, order.gpu_uuids, order.number) == ("1", (0,), ("GPU-0",), 1)
    assert reply.generation <= machine.controller.commit.durable


def test_an_older_or_repeated_sync_is_superseded_and_changes_nothing(machine: Machine) -> None:
    job = machine.submit(gpus=1)
    uid = machine.answered().run[0].uid
    ended = RankReport(uid, 0, RankPhase.ENDED, exit=exited())
    for stale in ({"sequence": 1}, {"sequence": 2}, {"sequence": 9, "incarnation": 0}):
        (reply,) = machine.sync(ended, **stale)
        assert isinstance(reply, SyncReply)
        assert reply.superseded
        assert (reply.run, reply.stop, reply.forget) == ((), (), ())
    machine.write()
    assert machine.disk.all_jobs[job].state is JobState.ALLOCATED
    assert machine.answered(ended, sequence=1, incarnation=2).forget == (uid,)
    assert machine.disk.all_jobs[job].state is JobState.SUCCEEDED


def test_an_end_is_acknowledged_only_when_it_is_durable(machine: Machine) -> None:
    machine.submit(gpus=1)
    uid = machine.answered().run[0].uid
    answers = machine.sync(RankReport(uid, 0, RankPhase.ENDED, exit=exited()))
    machine.turn()
    assert answers == []
    machine.write()
    (reply,) = answers
    assert isinstance(reply, SyncReply)
    assert reply.forget == (uid,)


def test_a_newer_sync_releases_the_held_one(machine: Machine) -> None:
    first = machine.sync(wait=5.0)
    second = machine.sync(wait=5.0)
    machine.write()
    assert [type(answer) for answer in first] == [SyncReply]
    assert first[0].superseded  # type: ignore[union-attr]
    assert second == []
    machine.tick(POLL_SECONDS)
    assert len(second) == 1


def test_what_starts_where_a_report_made_room_travels_with_what_was_due_before(machine: Machine) -> None:
    machine.submit(gpus=3)
    first = machine.answered().run[0].uid
    due, behind = machine.submit(gpus=1), machine.submit(gpus=3)
    ended = RankReport(first, 0, RankPhase.ENDED, exit=exited())
    reply = machine.answered(ended, wait=POLL_SECONDS)
    assert [order.job.id for order in reply.run] == [due, behind]
    assert reply.forget == (first,)


@pytest.mark.parametrize("wait", [-1.0, 0.0, 1e9])
def test_a_poll_is_held_at_most_its_time(machine: Machine, wait: float) -> None:
    answers = machine.sync(wait=wait)
    machine.write()
    assert len(answers) == (wait <= 0)
    machine.tick(POLL_SECONDS)
    assert len(answers) == 1


def test_an_order_is_repeated_when_its_answer_was_lost(machine: Machine) -> None:
    machine.submit(gpus=1)
    order = machine.answered().run
    assert machine.answered().run == order
    poll = machine.sync(wait=5.0, generation=0)
    machine.write()
    assert poll[0].run == order, "the agent says it has not applied the answer: it is told again at once"  # type: ignore[union-attr]


def test_a_controller_that_closes_answers_all_it_holds(machine: Machine) -> None:
    poll = machine.sync(wait=5.0)
    machine.write()
    machine.controller.release_all()
    assert len(poll) == 1


def test_strangers_and_other_protocols_are_refused(machine: Machine) -> None:
    answers: list[SyncReply | GpuqError] = []
    machine.controller.sync(N1, SyncRequest(99, N1, "b", 1, 99), answers.append)
    machine.controller.sync(NodeName("n7"), SyncRequest(1, NodeName("n7"), "b", 1, 1), answers.append)
    machine.controller.sync(N1, SyncRequest(1, NodeName("n2"), "b", 1, 99), answers.append)
    assert [type(answer) for answer in answers] == [Incompatible, NotFound, NotFound]


def test_a_restarted_controller_asks_for_the_inventory_again_but_keeps_the_one_it_has(machine: Machine) -> None:
    again = Machine(machine.disk, 100.0)
    assert again.answered(inventory=None).want_inventory
    assert not again.answered().want_inventory
    assert again.controller.view.free_gpus(N1) == (0, 1, 2, 3)


def test_a_node_that_was_removed_and_added_again_is_asked_what_it_has(machine: Machine) -> None:
    assert not machine.answered().want_inventory
    token = PutToken("t", "0" * 64, "node", "root", N1, WALL, None)
    for command in (RemoveNode(ROOT, N1), EnrolNode(ROOT, N1, token)):
        machine.ask(command)
        machine.write()
    assert machine.answered(inventory=None).want_inventory
    assert not machine.answered().want_inventory
    assert machine.controller.view.free_gpus(N1) == (0, 1, 2, 3)


def test_a_restarted_controller_places_nothing_before_a_node_has_reported(machine: Machine) -> None:
    machine.submit(hold=True)
    again = Machine(machine.disk, 100.0)
    job = again.submit(gpus=1)
    again.tick(3.0)
    again.write()
    assert again.controller.view.job(job).state is JobState.QUEUED  # type: ignore[union-attr]
    again.answered()
    assert again.controller.view.job(job).state is JobState.ALLOCATED  # type: ignore[union-attr]


def test_a_node_with_an_attempt_that_is_not_on_record_gets_nothing_until_it_is(machine: Machine) -> None:
    """Its GPUs may be in use: placed beside it, the two would share one."""
    job = machine.submit(gpus=1, hold=True)
    reply = machine.answered(holds=(AttemptUid("unknown"),))
    assert reply.describe == ("unknown",)
    free = machine.submit(gpus=1)
    assert machine.controller.view.job(free).state is JobState.QUEUED  # type: ignore[union-attr]
    assert machine.controller.view.node_state(N1) is NodeState.SUSPECT
    machine.answered(holds=())
    assert machine.controller.view.job(free).state is JobState.ALLOCATED  # type: ignore[union-attr]
    assert machine.controller.view.job(job).state is JobState.QUEUED  # type: ignore[union-attr]


def test_gpus_of_a_job_given_up_by_force_are_not_granted_while_it_still_runs(machine: Machine) -> None:
    job = machine.submit(gpus=4)
    uid = machine.answered().run[0].uid
    word = RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL)
    machine.answered(word)
    machine.tick(95.0)
    machine.write()
    assert machine.disk.all_jobs[job].state is JobState.LOST
    machine.ask(Cancel(ADA, Selection((job,)), force=True))
    machine.write()
    other = machine.submit(gpus=4)
    reply = machine.answered(word)
    assert [stop.uid for stop in reply.stop] == [uid]
    assert machine.disk.all_jobs[other].state is JobState.QUEUED
    reply = machine.answered(RankReport(uid, 0, RankPhase.ENDED, exit=exited(None, signal=9)))
    assert reply.forget == (uid,)
    machine.write()
    assert machine.disk.all_jobs[other].state is JobState.ALLOCATED


def test_a_node_lost_and_found_is_said_so_and_its_jobs_go_on(machine: Machine) -> None:
    job = machine.submit(gpus=1)
    uid = machine.answered().run[0].uid
    word = RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL)
    machine.answered(word)
    machine.tick(31.0)
    assert machine.controller.view.node_state(N1) is NodeState.SUSPECT
    machine.tick(60.0)
    machine.write()
    assert machine.disk.all_jobs[job].state is JobState.LOST
    machine.answered(word)
    assert machine.disk.all_jobs[job].state is JobState.RUNNING
    assert machine.controller.last_seen(N1) == WALL + machine.time


def test_what_is_known_of_orders_is_not_kept_after_their_attempts(machine: Machine) -> None:
    for _ in range(5):
        machine.submit(gpus=1)
        uid = machine.answered().run[0].uid
        machine.answered(RankReport(uid, 0, RankPhase.ENDED, exit=exited()))
    assert machine.controller.view.order_left(uid)
    machine.tick(1.0)
    assert not machine.controller.view.order_left(uid)


def test_an_unsound_report_is_refused_to_its_node_alone(machine: Machine) -> None:
    inventory = an_inventory()
    twice = replace(inventory, gpus=inventory.gpus * 2)
    with pytest.raises(GpuqError, match="contradicts itself"):
        machine.sync(inventory=twice)
    assert machine.ask(Submit(ROOT, Submission(command=("true",)))) == []
    machine.write()
    assert machine.answered().run
