"""The controller's promises about answers: durable before they leave, once each, repeated when in doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpuq.cluster import Cluster
from gpuq.errors import Conflict, GpuqError, Incompatible, NotFound, Unavailable
from gpuq.model import (
    AttemptUid,
    Change,
    Dependency,
    DependencyKind,
    JobId,
    NodeName,
    Now,
    PutNode,
    RankPhase,
    WaitCode,
)
from gpuq.protocol import POLL_SECONDS, RankReport, Selection, Submission, SyncReply, SyncRequest
from gpuq.service.commands import Cancel, Submit, UserCommand
from gpuq.service.controller import Controller
from gpuq.states import JobState, NodeState
from gpuq.view import Policy
from tests.service.builders import ADA, BOB, ROOT, WALL, a_node, an_inventory, exited
from tests.simulation.disk import Disk

N1 = NodeName("n1")


class Machine:
    """A controller with a disk that writes when told to, and a clock that moves when told to."""

    def __init__(self, disk: Disk | None = None, time: float = 0.0) -> None:
        self.time = time
        self.disk = disk or Disk()
        if disk is None:
            self.disk.write(0, (PutNode(a_node("n1", boot_id=None, inventory=None)),))
        self.queue: list[tuple[int, tuple[Change, ...]]] = []
        self.later: list[Callable[[], None]] = []
        self.seeds = self.asked = 0
        self.sequence = 0
        self.controller = Controller(
            load=lambda: self.disk,
            writer=self,
            lookup=self.disk,
            policy=Policy(),
            clock=lambda: Now(self.time, WALL + self.time),
            seed=self._seed,
            soon=self.later.append,
        )

    def _seed(self) -> str:
        self.seeds += 1
        return f"{self.seeds + int(self.time * 1000):020x}"

    def enqueue(self, seq: int, changes: tuple[Change, ...]) -> None:
        self.queue.append((seq, changes))

    def turn(self) -> None:
        """What the event loop has to do now, without any disk."""
        while self.later:
            self.later.pop(0)()

    def write(self) -> None:
        """Everything decided becomes durable, with what follows from it."""
        self.turn()
        while self.queue:
            seq, changes = self.queue.pop(0)
            self.disk.write(seq, changes)
            self.controller.commit.confirmed(seq)
            self.turn()

    def tick(self, seconds: float = 1.0) -> None:
        until = self.time + seconds
        while self.time < until:
            self.time = min(self.time + 1.0, until)
            self.controller.tick()
            self.turn()

    def ask(self, command: UserCommand, id: str = "") -> list[dict[str, Any] | GpuqError]:
        answers: list[dict[str, Any] | GpuqError] = []
        self.asked += 1
        self.controller.execute(command, id or f"request-{self.time}-{self.asked}", answers.append)
        return answers

    def submit(self, **fields: Any) -> JobId:
        fields.setdefault("command", ("true",))
        answers = self.ask(Submit(ADA, Submission(**fields)))
        self.write()
        (answer,) = answers
        assert isinstance(answer, dict)
        return JobId(answer["id"])

    def sync(self, *words: RankReport, wait: float = 0.0, **fields: Any) -> list[SyncReply | GpuqError]:
        """One request of the agent, with its inventory; the list fills when it is answered."""
        self.sequence = fields.pop("sequence", self.sequence + 1)
        fields.setdefault("holds", tuple(word.uid for word in words))
        fields.setdefault("inventory", an_inventory())
        fields.setdefault("generation", self.controller.commit.durable)
        request = SyncRequest(
            1, N1, "boot-1", fields.pop("incarnation", 1), self.sequence, reports=words, wait_seconds=wait,
            inventory_hash="h", **fields,
        )  # fmt: skip
        answers: list[SyncReply | GpuqError] = []
        self.controller.sync(N1, request, answers.append)
        return answers

    def answered(self, *words: RankReport, **fields: Any) -> SyncReply:
        answers = self.sync(*words, **fields)
        self.write()
        (answer,) = answers
        assert isinstance(answer, SyncReply)
        return answer


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.answered()
    return machine


# ---------------------------------------------------------------- answers


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


# ---------------------------------------------------------------- syncs


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


# ---------------------------------------------------------------- what users are told


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
