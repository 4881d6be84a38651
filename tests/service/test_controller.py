"""The controller's promises about answers: durable before they leave, once each, repeated when in doubt."""

from __future__ import annotations

from typing import Any

import pytest

from gpuq.cluster import Cluster
from gpuq.document import read
from gpuq.errors import Conflict, NotFound, Unavailable
from gpuq.model import Dependency, DependencyKind, JobId, RankPhase
from gpuq.protocol import RankReport, Selection, Submission, SyncReply
from gpuq.reasons import WaitCode
from gpuq.service.commands import Cancel, ChangeSettings, Submit
from gpuq.service.controller import Controller
from gpuq.states import NodeState
from tests.service.builders import ADA, BOB, ROOT, WALL, exited
from tests.service.machine import N1, Machine


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.answered()
    return machine


def test_an_answer_leaves_only_when_it_is_durable(machine: Machine) -> None:
    answers = machine.ask(Submit(ADA, Submission(command=("true",))))
    machine.turn()
    assert answers == []
    machine.write()
    assert answers == [{"id": "1", "elements": None}]


def test_a_refusal_too_leaves_only_when_what_it_was_computed_from_is_durable(machine: Machine) -> None:
    machine.ask(Submit(ADA, Submission(command=("true",), hold=True)))
    machine.ask(Cancel(ADA, Selection((JobId("1"),))))
    needs = (Dependency(DependencyKind.AFTER_OK, JobId("1")),)
    refused = machine.ask(Submit(ADA, Submission(command=("true",), dependencies=needs)), "the-refused")
    assert refused == []
    machine.write()
    assert isinstance(refused[0], Conflict)


def test_a_repeated_request_gets_the_same_answer_and_is_done_once(machine: Machine) -> None:
    command = Submit(ADA, Submission(command=("true",), hold=True))
    first, second = machine.ask(command, "r1"), machine.ask(command, "r1")
    machine.write()
    third = machine.ask(command, "r1")
    assert first == second == third == [{"id": "1", "elements": None}]
    assert machine.ask(Submit(BOB, command.submission), "r1") == []
    machine.write()
    assert len(machine.disk.all_jobs) == 2, "another user's request of the same id is another request"


def test_a_repeated_request_is_known_to_the_next_life(machine: Machine) -> None:
    command = Submit(ADA, Submission(command=("true",), hold=True))
    machine.ask(command, "r1")
    machine.write()
    again = Machine(machine.disk, 100.0)
    assert again.ask(command, "r1") == [{"id": "1", "elements": None}]


def test_a_full_disk_undoes_what_was_not_durable_and_says_so(machine: Machine) -> None:
    held = machine.submit(hold=True)
    answers = machine.ask(Submit(ADA, Submission(command=("true",))), "r2")
    poll = machine.sync(wait=5.0)
    before = machine.controller.commit.durable
    machine.queue.clear()
    machine.controller.pause("disk full")
    machine.turn()
    assert isinstance(answers[0], Unavailable)
    assert isinstance(poll[0], Unavailable)
    assert [job.id for job in machine.controller.view.live_jobs()] == [held]
    assert machine.controller.commit.last == before
    assert isinstance(machine.ask(Cancel(ADA, Selection((held,))))[0], Unavailable)
    assert isinstance(machine.sync()[0], Unavailable)
    machine.tick(600.0)
    assert machine.queue == [], "nothing is decided meanwhile"
    machine.controller.resume()
    machine.turn()
    assert machine.controller.view.node_state(N1) is not NodeState.LOST, "a paused controller heard nobody"
    again = machine.ask(Submit(ADA, Submission(command=("true",))), "r2")
    machine.write()
    assert again == [{"id": "2", "elements": None}], "the client's repetition is carried out"
    assert Cluster.load(machine.disk, machine.controller.view.volatile) == machine.controller.view


def test_a_dry_run_says_what_a_submit_would_and_leaves_no_trace(machine: Machine) -> None:
    def dry(**fields: Any) -> Any:
        return machine.controller.dry_run(ADA, Submission(command=("true",), **fields))

    held = machine.submit(hold=True)
    before = machine.controller.view.live_jobs()
    placed = dry(gpus=2)
    assert placed.placement.ranks[0].gpus == (0, 1)
    assert dry(gpus=16).reason.code is WaitCode.TOO_LARGE
    assert dry(hold=True).reason.code is WaitCode.HELD
    waits = dry(dependencies=(Dependency(DependencyKind.AFTER_OK, held),))
    assert (waits.placement, waits.reason.code) == (None, WaitCode.DEPENDENCY)
    with pytest.raises(NotFound):
        dry(dependencies=(Dependency(DependencyKind.AFTER_OK, JobId("99")),))
    assert machine.queue == []
    assert list(machine.controller.view.live_jobs()) == list(before)
    assert machine.controller.view.next_number == 2
    assert Cluster.load(machine.disk, machine.controller.view.volatile) == machine.controller.view


@pytest.mark.parametrize(
    ("id", "outcome"),
    [("1_0", "already"), ("1_7", "already"), ("1_9", "not_found"), ("1_07", "not_found"), ("9_1", "not_found")],
)
@pytest.mark.parametrize("ended", [True, False])
def test_an_element_that_was_dropped_is_canceled_and_one_that_never_was_is_not_there(
    machine: Machine, id: str, outcome: str, ended: bool
) -> None:
    machine.submit(array="0-7%1", gpus=1)
    uid = machine.answered().run[0].uid
    machine.answered(RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL))
    machine.ask(Cancel(ADA, Selection((JobId("1"),))))
    machine.write()
    if ended:
        machine.answered(RankReport(uid, 0, RankPhase.ENDED, exit=exited(None, signal=15)))
    answers = machine.ask(Cancel(ADA, Selection((JobId(id),))), "the-cancel")
    machine.write()
    expected = "done" if id == "1_0" and not ended else outcome
    assert [item["outcome"] for item in answers[0]["items"]] == [expected]  # type: ignore[index]


def test_a_plan_that_fails_keeps_no_order_that_is_due_without_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = machine.submit(gpus=4)
    machine.submit(gpus=4)  # it waits, so there is something to plan
    uid = machine.answered().run[0].uid
    running = RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL)
    machine.answered(running)

    def fails(self: Controller) -> None:
        del self
        raise KeyError("a defect")

    monkeypatch.setattr(Controller, "_plan", fails)
    answers = machine.sync(running, wait=5.0)
    machine.ask(Cancel(ADA, Selection((id,))))
    with pytest.raises(KeyError):
        machine.turn()
    machine.write()
    (answer,) = answers
    assert isinstance(answer, SyncReply)
    assert [stop.uid for stop in answer.stop] == [uid]


def test_who_is_to_be_stopped_for_others_is_looked_for_once_a_second(machine: Machine) -> None:
    document = {"queues": {"main": {"default": True}, "spare": {"priority": -1, "preemptible": True}}}
    machine.ask(ChangeSettings(ROOT, read(document)[0]))
    machine.write()
    machine.submit(queue="spare", gpus=4)
    machine.answered()
    (uid,) = machine.controller.view.attempts
    machine.answered(RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL))
    machine.submit(gpus=4)
    assert machine.controller.view.attempts[uid].stop is None
    machine.tick()
    machine.write()
    assert machine.controller.view.attempts[uid].stop is not None
    assert [order.uid for order in machine.answered(RankReport(uid, 0, RankPhase.RUNNING)).stop] == [uid]
