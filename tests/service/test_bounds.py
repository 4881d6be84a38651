"""What a node's token can cost the controller, and what a request id stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from gpuq.accounts import Accounts, JobsOf, Refusal
from gpuq.errors import Conflict, InvalidRequest
from gpuq.model import AttemptUid, NodeName, RankPhase
from gpuq.node import Gpu, GpuSample, NodeSample
from gpuq.protocol import MAX_DESCRIBED, MAX_GPUS, MAX_HOLDS, MAX_REPORTS, RankReport, Submission, SyncRequest
from gpuq.service.bounds import MAX_REFUSED, MAX_UID, MAX_WORDS, check_report
from gpuq.service.commands import Submit
from tests.service.builders import ADA, WALL, an_inventory, exited
from tests.service.machine import Machine
from tests.simulation.disk import Disk

N1 = NodeName("n1")
NOW_MS = int(WALL * 1000)
DAY_MS = 86_400_000


def strangers(count: int) -> tuple[AttemptUid, ...]:
    return tuple(AttemptUid(f"{n:020x}") for n in range(count))


def word(uid: str) -> RankReport:
    return RankReport(AttemptUid(uid), 0, RankPhase.RUNNING)


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.answered()
    return machine


# ---------------------------------------------------------------- reports


INVENTORY = an_inventory()
GPU = INVENTORY.gpus[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"holds": strangers(MAX_HOLDS + 1)},
        {"holds": (AttemptUid("x" * (MAX_UID + 1)),)},
        {"holds": (AttemptUid("two\nlines"),)},
        {"reports": tuple(map(word, strangers(MAX_REPORTS + 1)))},
        {"reports": (word("x" * (MAX_UID + 1)),)},
        {"incarnation": -1},
        {"incarnation": NOW_MS + DAY_MS + 1},
        {"incarnation": 2**63 - 1},
        {"boot_id": "b" * (MAX_WORDS + 1)},
        {"sample": NodeSample(tuple(GpuSample(n) for n in range(MAX_GPUS + 1)))},
        *(
            {"inventory": replace(INVENTORY, **change)}
            for change in (
                {"gpus": tuple(Gpu(n, "", "", None) for n in range(MAX_GPUS + 1))},
                {"gpus": (replace(GPU, index=-1),)},
                {"gpus": (replace(GPU, index=MAX_GPUS),)},
                {"gpus": (replace(GPU, memory_total_bytes=-1),)},
                {"gpus": (replace(GPU, distances="0x"),)},
                {"gpus": (replace(GPU, distances="1" * (MAX_GPUS + 1)),)},
                {"gpus": (replace(GPU, memory_total_bytes=2**62),)},
                {"gpus": (replace(GPU, name="n" * (MAX_WORDS + 1)),)},
                {"cpus": -1},
                {"cpus": 2**40},
                {"memory_total_bytes": -1},
                {"memory_total_bytes": 2**62},
                {"gpu_note": "n" * (MAX_WORDS + 1)},
                {"accounts": Accounts(JobsOf.OWNER, "n" * (MAX_WORDS + 1))},
                {"accounts": Accounts(JobsOf.EACH, refused=(Refusal("bob", "n" * (MAX_WORDS + 1)),))},
                {"accounts": Accounts(JobsOf.EACH, refused=(Refusal("bob", ""),) * (MAX_REFUSED + 1))},
            )
        ),
    ],
)
def test_a_report_no_agent_would_make_is_refused_and_nothing_of_it_is_taken(
    machine: Machine, fields: dict[str, Any]
) -> None:
    before = machine.controller.commit.last
    request = SyncRequest(1, N1, **{"boot_id": "boot-1", "incarnation": 1, "sequence": 9, **fields})
    answers: list[Any] = []
    machine.controller.sync(N1, request, answers.append)
    (answer,) = answers
    assert isinstance(answer, InvalidRequest)
    assert "\n" not in answer.one_line()
    assert machine.controller.commit.last == before
    assert not machine.answered().superseded, "the real agent is heard as before"


def test_the_largest_report_an_agent_may_make_is_taken() -> None:
    gpus = tuple(Gpu(n, f"GPU-{n}", "H100", 80 << 30, distances="7" * MAX_GPUS) for n in range(MAX_GPUS))
    reports = tuple(map(word, strangers(MAX_REPORTS)))
    check_report(
        SyncRequest(
            1, N1, "boot", NOW_MS + DAY_MS, 1, holds=strangers(MAX_HOLDS), reports=reports,
            inventory=replace(INVENTORY, gpus=gpus, cpus=1024, memory_total_bytes=2**46),
        ),
        WALL,
    )  # fmt: skip


def test_a_superseded_answer_says_which_incarnation_is_known(machine: Machine) -> None:
    machine.answered(incarnation=NOW_MS)
    (answer,) = machine.sync(incarnation=5)
    assert (answer.superseded, answer.known_incarnation) == (True, NOW_MS)  # type: ignore[union-attr]
    held = machine.sync(incarnation=NOW_MS, wait=5.0)
    machine.answered(incarnation=NOW_MS)
    assert held[0].known_incarnation == NOW_MS  # type: ignore[union-attr]


class Counting(Disk):
    """A store that notes what it is asked about ended attempts."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(**vars(disk))
        self.asked: list[int] = []

    def ended_attempts(self, uids: Iterable[AttemptUid]) -> set[AttemptUid]:
        uids = list(uids)
        self.asked.append(len(uids))
        return super().ended_attempts(uids)


def test_the_store_is_asked_once_about_all_that_is_unknown_however_long_the_answer_is_held(machine: Machine) -> None:
    disk = Counting(machine.disk)
    again = Machine(disk, 100.0)
    again.answered(holds=strangers(300))
    assert disk.asked == [300]
    for _ in range(8):
        again.answered(holds=strangers(300))
    disk.asked.clear()
    again.sync(holds=strangers(300), wait=5.0)
    for _ in range(3):
        again.submit(hold=True)
    again.tick(5.0)
    assert disk.asked == [300]


def test_nothing_is_asked_about_what_is_on_record_or_ended_lately(machine: Machine) -> None:
    disk = Counting(machine.disk)
    again = Machine(disk, 100.0)
    again.answered()
    again.submit(gpus=1)
    uid = again.answered().run[0].uid
    assert again.answered(word(uid)).forget == ()
    for _ in range(3):
        assert again.answered(RankReport(uid, 0, RankPhase.ENDED, exit=exited())).forget == (uid,)
    assert disk.asked == []


@pytest.mark.parametrize("count", [1, MAX_DESCRIBED, 3 * MAX_DESCRIBED - 5])
def test_unknown_attempts_are_asked_for_a_few_at_a_time_and_all_have_their_turn(machine: Machine, count: int) -> None:
    holds = strangers(count)
    for _ in range(2):
        asked: list[AttemptUid] = []
        while len(asked) < count:
            part = machine.answered(holds=holds).describe
            assert 0 < len(part) <= MAX_DESCRIBED
            asked += part
        assert sorted(asked) == sorted(holds)


def test_a_held_exchange_is_answered_at_once_until_all_unknown_attempts_were_asked_for(machine: Machine) -> None:
    holds = strangers(MAX_DESCRIBED + 1)
    assert len(machine.answered(holds=holds, wait=5.0).describe) == MAX_DESCRIBED
    assert machine.answered(holds=holds, wait=5.0).describe == holds[-1:]
    held = machine.sync(holds=holds, wait=5.0)
    machine.write()
    assert held == []
    machine.tick(5.0)
    assert held[0].describe == holds[:MAX_DESCRIBED]  # type: ignore[union-attr]


def test_the_log_counts_unknown_attempts_and_names_a_few(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.answered(holds=strangers(5_000))
    (line,) = [record.getMessage() for record in caplog.records if "node.unexplained" in record.getMessage()]
    assert "count=5000" in line
    assert len(line) < 400


def test_a_controller_that_stops_holds_no_more_answers(machine: Machine) -> None:
    machine.controller.release_all()
    assert len(machine.sync(wait=5.0)) == 1


# ---------------------------------------------------------------- request ids


def ask(machine: Machine, asked: str, name: str = "x") -> Any:
    answers: list[Any] = []
    command = Submit(ADA, Submission(command=("true",), name=name, hold=True))
    machine.controller.execute(command, "one-id", answers.append, asked)
    machine.write()
    return answers[0]


def test_a_request_id_stands_for_one_request(machine: Machine) -> None:
    """Answered with the first one's reply, the second would count as done."""
    first = ask(machine, "digest-1")
    assert ask(machine, "digest-1") == first == {"id": "1", "elements": None}
    refused = ask(machine, "digest-2", name="y")
    assert isinstance(refused, Conflict)
    assert "one-id was used for another request" in refused.message
    again = Machine(machine.disk, 100.0)
    assert ask(again, "digest-1") == first, "and so it does in the next life"
    assert isinstance(ask(again, "digest-2"), Conflict)
    assert len(machine.disk.all_jobs) == 1
