"""What becomes of a job by the words of agents: budgets, causes, returns."""

from __future__ import annotations

from typing import Any

import pytest

from gpuq.model import AttemptUid, EndReason, ExitRecord, NodeName, OnLost, RankPhase, StopKind
from gpuq.protocol import UNKNOWN_RANK, RankReport
from gpuq.service.commands import Cordon, Drain, Uncordon
from gpuq.states import FINAL, JobState
from gpuq.view import Policy
from tests.service.builders import ROOT, WALL, Desk, a_node, exited

NEVER = ExitRecord(EndReason.NEVER_STARTED, WALL)
KILLED = "memory on n1 was short: the kernel killed 1 of its processes"


def failed(reason: EndReason, **fields: Any) -> ExitRecord:
    return ExitRecord(reason, WALL, **fields)


def test_a_job_goes_its_whole_way() -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.plan()
    assert desk.state(job) is JobState.ALLOCATED
    desk.accept(job)
    assert desk.state(job) is JobState.STARTING
    desk.wall += 60
    desk.word(job, RankPhase.RUNNING, started_at=WALL + 5)
    assert (desk.state(job), desk.job(job).started_at) == (JobState.RUNNING, WALL + 5)
    desk.end(job, exited(0, started_at=WALL + 5))
    assert (desk.state(job), desk.job(job).exit_code, desk.job(job).signal) == (JobState.SUCCEEDED, 0, None)
    assert (desk.job(job).finished_at, desk.cause(job)) == (WALL + 50, None)
    assert desk.cluster.free_gpus(NodeName("n1")) == (0, 1, 2, 3)
    assert desk.kinds("job.") == ["job.submitted", "job.allocated", "job.starting", "job.running", "job.succeeded"]
    assert not desk.live()


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
def test_whatever_a_nodes_clock_says_a_job_started_after_its_grant_and_has_ended(ahead: float) -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.plan()
    desk.wall += 5
    desk.word(job, RankPhase.RUNNING, started_at=WALL + 4 + ahead)
    desk.wall += 50
    exit = exited(0, started_at=WALL + 4 + ahead)
    desk.end(job, exit)
    shown = desk.job(job)
    assert shown.started_at is not None
    assert shown.finished_at is not None
    assert WALL <= shown.started_at <= WALL + 5
    assert shown.started_at <= shown.finished_at <= desk.wall
    assert desk.attempt(job).ranks[0].exit == exit


LATE = "reached its time limit"
IN_SETUP = f"{LATE}: setup 1/2"
LATE_SETUP = failed(EndReason.SETUP_FAILED, text="setup 1/2", stopped=StopKind.TIME_LIMIT)


@pytest.mark.parametrize(
    ("exit", "state", "cause"),
    [
        (exited(0), "SUCCEEDED", None),
        (exited(3), "FAILED", ("exit_code", "exit code 3")),
        (exited(None, signal=11), "FAILED", ("signal", "killed by signal 11")),
        (exited(None, signal=15, stopped=StopKind.TIME_LIMIT), "FAILED", ("time_limit", LATE)),
        (exited(0, stopped=StopKind.TIME_LIMIT), "FAILED", ("time_limit", LATE)),
        (exited(None, signal=9, oom_kills=1), "FAILED", ("oom", KILLED)),
        (exited(1, oom_kills=1), "FAILED", ("oom", KILLED)),
        (exited(0, oom_kills=1), "SUCCEEDED", None),
        (exited(1, gpu_oom="CUDA out of memory."), "FAILED", ("gpu_oom", "CUDA out of memory.")),
        (exited(1, gpu_oom="CUDA out of memory.", oom_kills=1), "FAILED", ("oom", KILLED)),
        (failed(EndReason.SETUP_FAILED, text="no such venv"), "FAILED", ("setup_failed", "no such venv")),
        (LATE_SETUP, "FAILED", ("time_limit", IN_SETUP)),
        (failed(EndReason.NEVER_STARTED, stopped=StopKind.TIME_LIMIT), "FAILED", ("time_limit", LATE)),
        (failed(EndReason.LAUNCH_FAILED), "FAILED", ("launch_failed", "could not be launched")),
        (failed(EndReason.SUPERVISOR_LOST), "FAILED", ("supervisor_lost", "its supervisor was lost")),
        # A stop that a controller ordered before it was restored: it was still no accident.
        (exited(None, signal=15, stopped=StopKind.CANCEL), "CANCELED", ("canceled", "by request")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reported", [RankPhase.ORDERED, RankPhase.ACCEPTED, RankPhase.RUNNING])
def test_every_end_has_its_true_cause_however_much_was_heard_before(
    exit: ExitRecord, state: str, cause: tuple[str, str] | None, reported: RankPhase
) -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.plan()
    if reported is not RankPhase.ORDERED:
        desk.word(job, reported, started_at=WALL if reported is RankPhase.RUNNING else None)
    desk.end(job, exit)
    assert (desk.state(job).value, desk.cause(job)) == (state, cause)
    assert (desk.job(job).exit_code, desk.job(job).signal) == (exit.exit_code, exit.signal)
    assert not list(desk.cluster.attempts)


def test_retries_wait_longer_each_time_until_the_budget_ends() -> None:
    desk = Desk(policy=Policy(retry_backoff=5.0, retry_backoff_max=15.0))
    job = desk.submit(max_retries=3)
    for number, wait in ((1, 5), (2, 10), (3, 15)):
        desk.run(job)
        desk.end(job, exited(1))
        assert desk.state(job) is JobState.QUEUED
        assert desk.reason(job).text == f"tries again in {wait} s"  # type: ignore[union-attr]
        assert (desk.job(job).attempt, desk.job(job).retries_used, desk.job(job).started_at) == (number, number, None)
        desk.tick(wait - 1)
        desk.plan()
        assert desk.state(job) is JobState.QUEUED
        desk.tick(1)
    desk.run(job)
    desk.end(job, exited(1))
    assert (desk.state(job), desk.job(job).attempt) == (JobState.FAILED, 4)
    assert desk.cause(job) == ("exit_code", "exit code 1")


@pytest.mark.parametrize("reason", [EndReason.SETUP_FAILED, EndReason.LAUNCH_FAILED, EndReason.SUPERVISOR_LOST])
def test_failures_to_start_use_the_same_retries(reason: EndReason) -> None:
    desk = Desk()
    job = desk.submit(max_retries=1)
    desk.plan()
    desk.end(job, failed(reason))
    assert (desk.state(job), desk.job(job).retries_used) == (JobState.QUEUED, 1)
    desk.tick(60)
    desk.plan()
    desk.end(job, failed(reason))
    assert desk.state(job) is JobState.FAILED


def test_a_thousand_retries_do_not_overflow_the_back_off() -> None:
    desk = Desk()
    job = desk.submit(max_retries=1_000)
    for _ in range(1_000):
        desk.tick(300)
        desk.plan()
        desk.end(job, exited(1))
    assert desk.job(job).eligible_at == desk.wall + 300


def test_a_node_that_turns_everything_down_does_not_use_up_a_budget_in_a_moment() -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    waited = []
    for _ in range(10):
        desk.plan()
        desk.end(job, ExitRecord(EndReason.NEVER_STARTED, WALL, text="the journal is full"))
        assert desk.state(job) is JobState.QUEUED
        eligible = desk.job(job).eligible_at
        assert eligible is not None
        waited.append(eligible - desk.wall)
        desk.tick(waited[-1])
    assert waited == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    desk.plan()
    desk.end(job, ExitRecord(EndReason.NEVER_STARTED, WALL, text="the journal is full"))
    assert (desk.state(job), desk.cause(job)) == (JobState.FAILED, ("never_started", "the journal is full"))


def test_a_report_that_repeats_or_goes_back_changes_nothing() -> None:
    desk = Desk()
    job = desk.submit()
    desk.run(job)
    before = desk.job(job), desk.attempt(job), len(desk.events)
    desk.accept(job)
    desk.word(job, RankPhase.RUNNING, started_at=WALL + 99)
    desk.word(job, RankPhase.ENDED)  # an end without a record is none
    desk.word(job, RankPhase.RUNNING, exit=exited())
    desk.sync("n1", RankReport(desk.attempt(job).uid, 5, RankPhase.ENDED, exit=exited()))
    desk.sync("n1", RankReport(AttemptUid("who?"), 0, RankPhase.ENDED, exit=exited()), holds=(desk.attempt(job).uid,))
    assert (desk.job(job), desk.attempt(job), len(desk.events)) == before
    desk.end(job)
    uid = desk.attempt(job).uid
    desk.sync("n1", RankReport(uid, 0, RankPhase.RUNNING, started_at=WALL))
    assert desk.state(job) is JobState.SUCCEEDED


def test_a_node_speaks_only_for_itself() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    job = desk.submit(only_nodes=("n1",))
    desk.run(job)
    desk.sync("n2", RankReport(desk.attempt(job).uid, 0, RankPhase.ENDED, exit=exited()))
    desk.sync("n2", boot_id="another")
    assert desk.state(job) is JobState.RUNNING


def test_leftovers_after_the_main_process_show_as_stopping() -> None:
    desk = Desk()
    job = desk.submit(gpus=4)
    desk.run(job)
    desk.word(job, RankPhase.RUNNING, started_at=WALL, stopping=True)
    assert desk.state(job) is JobState.STOPPING
    assert desk.cluster.free_gpus(NodeName("n1")) == ()
    desk.end(job, exited(0))
    assert desk.state(job) is JobState.SUCCEEDED


# ---------------------------------------------------------------- silence and return


@pytest.mark.parametrize("phase", [RankPhase.ORDERED, RankPhase.ACCEPTED, RankPhase.RUNNING])
def test_a_lost_job_comes_back_as_what_it_was(phase: RankPhase) -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.plan()
    if phase is not RankPhase.ORDERED:
        desk.word(job, phase, started_at=WALL if phase is RankPhase.RUNNING else None)
    before = desk.state(job)
    desk.silence()
    assert desk.state(job) is JobState.LOST
    assert desk.attempt(job).lost_since == desk.wall
    assert desk.cluster.free_gpus(NodeName("n1")) == (1, 2, 3), "GPUs stay held"
    desk.silence()
    desk.sync("n1")
    assert desk.state(job) is before
    assert (desk.attempt(job).lost_since, desk.job(job).losses_used) == (None, 0)


def test_a_lost_job_that_ended_meanwhile_shows_its_real_end() -> None:
    desk = Desk()
    job = desk.submit()
    desk.run(job)
    desk.silence()
    desk.end(job, exited(7))
    assert (desk.state(job), desk.cause(job)) == (JobState.FAILED, ("exit_code", "exit code 7"))


def test_a_job_whose_order_never_left_is_free_when_its_node_goes_silent() -> None:
    desk = Desk()
    job = desk.submit()
    desk.plan(send=False)
    desk.silence()
    assert (desk.state(job), desk.job(job).losses_used) == (JobState.QUEUED, 1)


@pytest.mark.parametrize(("requeue", "state"), [(True, JobState.QUEUED), (False, JobState.FAILED)])
@pytest.mark.parametrize("held", [True, False])
def test_a_new_boot_is_proof_of_death(requeue: bool, state: JobState, held: bool) -> None:
    """By the controller's conclusion if the agent's journal is gone too, else by the agent's word."""
    desk = Desk()
    job = desk.submit(requeue=requeue)
    desk.run(job)
    if held:
        word = RankReport(desk.attempt(job).uid, 0, RankPhase.ENDED, exit=failed(EndReason.NODE_LOST))
        desk.sync("n1", word, boot_id="boot-2")
    else:
        desk.sync("n1", holds=(), boot_id="boot-2")
    assert (desk.state(job), desk.job(job).losses_used) == (state, int(requeue))
    if not requeue:
        assert desk.cause(job)[0] == "node_lost"  # type: ignore[index]
        assert desk.job(job).exit_code is None


def test_an_order_not_accepted_before_a_reboot_is_simply_carried_out_after_it() -> None:
    desk = Desk()
    job = desk.submit()
    desk.plan()
    desk.sync("n1", holds=(), boot_id="boot-2")
    assert (desk.state(job), desk.job(job).attempt) == (JobState.ALLOCATED, 1)


def test_losses_have_a_budget_of_their_own_that_ends() -> None:
    desk = Desk()
    job = desk.submit(max_retries=5)
    for number in range(11):
        assert desk.state(job) is JobState.QUEUED
        desk.run(job)
        desk.sync("n1", holds=(), boot_id=f"boot {number}")
    assert (desk.state(job), desk.job(job).losses_used, desk.job(job).retries_used) == (JobState.FAILED, 10, 0)
    assert desk.cause(job) == ("node_lost", "node n1 was restarted")


def test_silence_is_the_proof_for_a_fenced_job_and_says_nothing_of_one_that_keeps() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    fenced = desk.submit(only_nodes=("n1",), on_lost=OnLost.FENCE)
    kept = desk.submit(only_nodes=("n1",))
    desk.run(fenced)
    desk.run(kept)
    desk.silence("n1")
    assert desk.states_of(fenced, kept) == ["QUEUED", "LOST"]
    assert desk.job(fenced).losses_used == 1


def test_a_fence_kept_by_the_supervisor_itself_is_a_loss() -> None:
    desk = Desk()
    job, stubborn = desk.submit(on_lost=OnLost.FENCE), desk.submit(on_lost=OnLost.FENCE, requeue=False)
    desk.run(job)
    desk.run(stubborn)
    for id in (job, stubborn):
        desk.end(id, exited(None, signal=15, stopped=StopKind.FENCE))
    assert desk.states_of(job, stubborn) == ["QUEUED", "FAILED"]
    assert desk.cause(stubborn)[0] == "node_lost"  # type: ignore[index]


# ---------------------------------------------------------------- vanished


def test_an_attempt_its_agent_forgot_is_stopped_and_its_end_told_as_it_is() -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.run(job)
    desk.sync("n1", holds=())
    stop = desk.attempt(job).stop
    assert (desk.state(job), stop and stop.kind) == (JobState.STOPPING, StopKind.VANISHED)
    assert desk.cluster.free_gpus(NodeName("n1")) == (1, 2, 3), "until the agent says that nothing lives of it"
    desk.sync("n1", holds=())
    word = RankReport(desk.attempt(job).uid, UNKNOWN_RANK, RankPhase.ENDED, exit=NEVER)
    desk.sync("n1", word)
    assert (desk.state(job), desk.cause(job)) == (
        JobState.FAILED,
        ("supervisor_lost", "its agent no longer knows it"),
    )
    assert desk.job(job).exit_code is None


def test_a_vanished_attempt_uses_a_retry_as_any_lost_supervisor_does() -> None:
    desk = Desk()
    job = desk.submit(max_retries=1)
    desk.run(job)
    desk.sync("n1", holds=())
    desk.sync("n1", RankReport(desk.attempt(job).uid, UNKNOWN_RANK, RankPhase.ENDED, exit=NEVER))
    assert (desk.state(job), desk.job(job).retries_used) == (JobState.QUEUED, 1)


def test_an_order_not_accepted_yet_has_not_vanished() -> None:
    desk = Desk()
    job = desk.submit()
    desk.plan()
    desk.sync("n1", holds=())
    assert desk.state(job) is JobState.ALLOCATED


# ---------------------------------------------------------------- nodes


def test_cordon_drain_and_uncordon() -> None:
    desk = Desk()
    job = desk.submit()
    desk.run(job)
    name = NodeName("n1")

    def flags() -> tuple[bool, bool, str]:
        node = desk.cluster.nodes[name]
        return node.cordoned, node.draining, node.cordon_text

    desk.do(Cordon(ROOT, name, "bad fan"))
    assert flags() == (True, False, "by root: bad fan")
    desk.do(Drain(ROOT, name))
    assert flags() == (True, True, "by root")
    desk.do(Cordon(ROOT, name))
    assert flags() == (True, True, "by root"), "a drain goes on"
    assert desk.state(job) is JobState.RUNNING
    waiting = desk.submit()
    desk.plan()
    assert desk.reason(waiting).text == "no node that could run it takes work: n1 is draining"  # type: ignore[union-attr]
    events = len(desk.events)
    desk.do(Uncordon(ROOT, name))
    desk.do(Uncordon(ROOT, name))
    assert (flags(), len(desk.events)) == ((False, False, ""), events + 1)
    desk.plan()
    assert desk.state(waiting) is JobState.ALLOCATED


def test_a_node_that_returns_is_said_to_be_up_once() -> None:
    desk = Desk()
    desk.sync("n1")
    desk.silence()
    desk.sync("n1")
    desk.sync("n1")
    assert desk.kinds("node.") == ["node.lost", "node.up"]


def test_every_job_ends_when_its_attempts_do() -> None:
    desk = Desk()
    for _ in range(5):
        desk.submit(array="0-6%3", max_retries=1)
    turns = 0
    while desk.live() and turns < 200:
        turns += 1
        desk.tick(10)
        desk.plan()
        for attempt in list(desk.cluster.attempts.values()):
            desk.end(attempt.job, exited(turns % 3))
    assert {job.state for job in desk.jobs.values()} <= FINAL


def test_a_job_whose_machine_is_shut_down_runs_again_and_is_not_said_to_have_failed() -> None:
    desk = Desk()
    job = desk.submit(max_retries=1)
    desk.run(job)
    desk.end(job, failed(EndReason.NODE_LOST, signal=15, text="the machine was shut down under it"))
    assert (desk.state(job), desk.job(job).retries_used, desk.job(job).losses_used) == (JobState.QUEUED, 0, 1)
    cause = desk.attempt(job).cause
    assert cause is not None
    assert (cause.code.value, cause.text) == ("node_lost", "the machine was shut down under it")


def test_a_job_beyond_its_memory_is_told_its_limit_and_its_retries_hold() -> None:
    desk = Desk()
    job = desk.submit(memory_bytes=2 << 30, max_retries=1)
    desk.run(job)
    desk.end(job, exited(None, signal=9, oom_kills=3))
    assert (desk.state(job), desk.job(job).retries_used) == (JobState.QUEUED, 1)
    desk.tick(60)
    desk.run(job)
    desk.end(job, exited(None, signal=9, oom_kills=3))
    assert desk.cause(job) == (
        "oom",
        "memory on n1 was short: the kernel killed 3 of its processes; its limit was 2G",
    )
