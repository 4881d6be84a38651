"""Which orders an agent takes, and which answers it believes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.actions import Accept, Action, Bar, Drop, Extend, Pardon, Stop, Sweep
from agent.directives import Directives
from agent.holding import Held
from agent.runs import RunEvent
from gpuq.accounts import Accounts, JobsOf
from gpuq.model import AttemptUid, EndReason, ExitRecord, OnLost, RankPhase, StopKind
from gpuq.node import GpuHealth
from gpuq.protocol import UNKNOWN_RANK, GpuPardon, RankReport, RunOrder, StopOrder, SyncRequest
from tests.agent.orders import NODE, exited, inventory, reply_to, run_order, stop_order, uid


def fresh(*held: Held, barred: tuple[AttemptUid, ...] = (), incarnation: int = 1) -> Directives:
    return Directives(NODE, "boot1", incarnation, held, barred)


def exchange(d: Directives, generation: int = 1, sent_at: float = 100.0, **orders: Any) -> list[Action]:
    return d.answered(reply_to(d.request(5.0), generation, **orders), sent_at)


def holding(order: RunOrder | None = None) -> Directives:
    d = fresh()
    exchange(d, run=(order or run_order(),))
    return d


def ended(d: Directives, exit: ExitRecord, name: str = "x") -> list[Action]:
    return d.observed(RunEvent(uid(name), 0, RankPhase.ENDED, exit=exit))


def news(d: Directives) -> bool:
    return d.has_news  # behind a call, since mypy takes a property it has seen asserted for a constant


def report_of(request: SyncRequest, name: str = "x") -> RankReport | None:
    return next((r for r in request.reports if r.uid == name), None)


def phase_of(request: SyncRequest, name: str = "x") -> RankPhase | None:
    report = report_of(request, name)
    return None if report is None else report.phase


# ---------------------------------------------------------------- accepting


def test_run_order_is_accepted_and_held_in_the_very_next_request() -> None:
    d, order = fresh(), run_order()
    assert exchange(d, run=(order,)) == [Accept(order, None)]
    assert news(d)
    request = d.request(5.0)
    assert request.holds == ("x",)
    assert phase_of(request) is RankPhase.ACCEPTED
    assert not news(d)


@pytest.mark.parametrize("state", ["accepted", "running", "ended", "barred", "forgotten, log on its way"])
def test_repeated_run_order_changes_nothing(state: str) -> None:
    d = fresh()
    if state == "barred":
        exchange(d, stop=(stop_order(),))
        d.swept(uid("x"))
    else:
        exchange(d, run=(run_order(),))
    if state == "running":
        d.observed(RunEvent(uid("x"), 0, RankPhase.RUNNING, started_at=2.0))
    if state in ("ended", "forgotten, log on its way"):
        ended(d, exited(log_size=10))
    if state == "forgotten, log on its way":
        assert exchange(d, 2, forget=(uid("x"),)) == []
    assert exchange(d, 3, run=(run_order(),)) == []
    assert d.request(5.0).holds == ("x",)


def test_lease_of_a_fenced_job_counts_from_when_the_request_was_sent() -> None:
    fenced, kept = run_order("f", OnLost.FENCE), run_order("k")
    d = fresh()
    actions = exchange(d, sent_at=100.0, run=(fenced, kept), lease_seconds=40.0)
    assert actions == [Accept(fenced, 140.0), Accept(kept, None)]


def test_order_for_another_gpu_is_barred_with_both_names() -> None:
    d = fresh()
    d.set_inventory(inventory("GPU-a", "GPU-b"), "h1")
    (bar,) = exchange(d, run=(run_order(gpus=(1,), gpu_uuids=("GPU-z",)),))
    assert bar == Bar(uid("x"), "GPU 1 was granted as GPU-z but is GPU-b")
    report = report_of(d.request(5.0))
    assert report
    assert report.exit
    assert (report.exit.reason, report.exit.text) == (EndReason.NEVER_STARTED, bar.text)


@pytest.mark.parametrize(
    "order",
    [
        run_order(gpus=(7,), gpu_uuids=("GPU-a",)),
        run_order(node="b2"),
        *(run_order(name) for name in ("../../etc/x", "/etc/x", "", "..", "a" * 65, "a\0")),  # directories are named so
    ],
)
def test_order_that_does_not_fit_this_machine_is_barred(order: RunOrder) -> None:
    d = fresh()
    d.set_inventory(inventory("GPU-a"), "h1")
    (action,) = exchange(d, run=(order,))
    assert isinstance(action, Bar)


def test_agent_of_one_account_runs_only_its_owners_jobs() -> None:
    d = Directives(NODE, "boot1", 1, (), accounts=Accounts(JobsOf.OWNER, "bert"))
    (action,) = exchange(d, run=(run_order(),))
    assert isinstance(action, Bar)
    d = Directives(NODE, "boot1", 1, (), accounts=Accounts(JobsOf.OWNER, "anna"))
    (action,) = exchange(d, run=(run_order(),))
    assert isinstance(action, Accept)


def test_order_with_gpus_waits_until_the_gpus_are_known() -> None:
    d, order = fresh(), run_order(gpus=(0,), gpu_uuids=("GPU-a",))
    assert exchange(d, run=(order,)) == []
    assert d.request(5.0).holds == ()
    d.set_inventory(inventory("GPU-a"), "h1")
    assert exchange(d, run=(order,)) == [Accept(order, None)]


def test_order_that_could_not_be_journaled_is_reported_as_never_started() -> None:
    d = holding()
    d.not_journaled(uid("x"), "no space left on the agent's disk", 9.0)
    report = report_of(d.request(5.0))
    assert report
    assert report.exit == ExitRecord(EndReason.NEVER_STARTED, 9.0, text="no space left on the agent's disk")
    assert exchange(d, 2, run=(run_order(),)) == []


# ---------------------------------------------------------------- stopping


def test_stop_reaches_a_run_that_is_accepted_but_not_launched() -> None:
    d = holding()
    assert exchange(d, 2, stop=(stop_order(),)) == [Stop(uid("x"), 0, StopKind.CANCEL, 30)]


def test_stop_repeats_until_the_run_is_seen_stopping() -> None:
    d = holding()
    again = Stop(uid("x"), 0, StopKind.CANCEL, 30)
    assert [exchange(d, 2, stop=(stop_order(),)) for _ in range(2)] == [[again], [again]]
    d.observed(RunEvent(uid("x"), 0, RankPhase.RUNNING, stopping=True))
    assert exchange(d, 2, stop=(stop_order(),)) == []


@pytest.mark.parametrize(
    ("kind", "grace", "passed_on"),
    [
        (StopKind.TIME_LIMIT, 20, None),
        (StopKind.TIME_LIMIT, 90, None),
        (StopKind.REQUEUE, 20, None),
        (StopKind.TIME_LIMIT, 5, Stop(uid("x"), 0, StopKind.TIME_LIMIT, 5)),
        (StopKind.CANCEL, 20, Stop(uid("x"), 0, StopKind.CANCEL, 20)),
        (StopKind.CANCEL, 90, Stop(uid("x"), 0, StopKind.CANCEL, 20)),
    ],
)
def test_only_a_stronger_stop_passes_on_once_the_run_is_stopping(
    kind: StopKind, grace: int, passed_on: Stop | None
) -> None:
    d = holding()
    exchange(d, 2, stop=(stop_order(kind=StopKind.TIME_LIMIT, grace=20),))
    d.observed(RunEvent(uid("x"), 0, RankPhase.RUNNING, stopping=True))
    assert exchange(d, 3, stop=(stop_order(kind=kind, grace=grace),)) == ([passed_on] if passed_on else [])


def test_stop_for_an_unknown_attempt_bars_it_and_reports_only_when_its_remains_are_gone() -> None:
    d = fresh()
    assert exchange(d, stop=(stop_order(),)) == [Bar(uid("x"), "stopped before it was started here"), Sweep(uid("x"))]
    request = d.request(5.0)
    assert (request.holds, request.reports) == (("x",), ())
    assert exchange(d, stop=(stop_order(),)) == []
    assert not news(d)
    d.swept(uid("x"), 7.0)
    assert news(d)
    report = report_of(d.request(5.0))
    assert report
    assert report.exit
    assert (report.phase, report.exit.reason, report.exit.ended_at) == (RankPhase.ENDED, EndReason.NEVER_STARTED, 7.0)


@pytest.mark.parametrize("name", ["*", "../system.slice/ssh", "", "a\nb"])
def test_stop_for_what_is_no_attempts_name_looks_for_nothing_and_ends_nothing(name: str) -> None:
    d = fresh()
    order = StopOrder(AttemptUid(name), StopKind.CANCEL, 0)
    assert exchange(d, stop=(order,)) == []
    assert d.holds == ()


def test_answer_that_stops_and_runs_one_attempt_never_starts_it() -> None:
    d = fresh()
    actions = exchange(d, run=(run_order(),), stop=(stop_order(),))
    assert [type(a) for a in actions] == [Bar, Sweep]


def test_barred_attempt_is_not_resurrected_by_a_late_order_even_after_forget() -> None:
    d = fresh()
    late = reply_to(d.request(5.0), 1, run=(run_order(),))
    exchange(d, 2, stop=(stop_order(),))
    d.swept(uid("x"))
    assert d.answered(late, 0.0) == []
    assert exchange(d, 3, forget=(uid("x"),)) == [Drop(uid("x"), UNKNOWN_RANK)]
    assert d.answered(late, 0.0) == []
    assert d.request(5.0).holds == ()


def test_barred_attempt_survives_a_restart() -> None:
    d = fresh(barred=(uid("x"),), incarnation=2)
    request = d.request(5.0)
    assert phase_of(request) is RankPhase.ENDED
    assert d.answered(reply_to(request, 1, run=(run_order(),)), 0.0) == []


def test_barred_attempt_whose_remains_were_never_swept_is_not_reported_before_they_are() -> None:
    d = Directives(NODE, "boot1", 2, (), unswept=(uid("x"),))
    request = d.request(5.0)
    assert (request.holds, request.reports) == (("x",), ())
    assert d.answered(reply_to(request, 1, run=(run_order(),), forget=(uid("x"),)), 0.0) == []
    d.swept(uid("x"))
    assert phase_of(d.request(5.0)) is RankPhase.ENDED


def test_stop_for_an_ended_run_only_has_the_end_reported_again() -> None:
    d = holding()
    ended(d, exited(3))
    assert exchange(d, 2) == []
    assert exchange(d, 3, stop=(stop_order(),)) == []
    assert phase_of(d.request(5.0)) is RankPhase.ENDED


# ---------------------------------------------------------------- leases


def test_extend_moves_the_deadline_of_fenced_runs_only_and_never_back() -> None:
    d = fresh()
    exchange(d, sent_at=100.0, run=(run_order("f", OnLost.FENCE), run_order("k")), lease_seconds=40.0)
    both = (uid("f"), uid("k"), uid("unknown"))
    assert exchange(d, 2, sent_at=105.0, extend=both, lease_seconds=40.0) == [Extend(uid("f"), 0, 145.0)]
    assert exchange(d, 2, sent_at=104.0, extend=both, lease_seconds=40.0) == []
    assert exchange(d, 2, sent_at=106.0, extend=both, lease_seconds=10.0) == []
    ended(d, exited(), "f")
    assert exchange(d, 3, sent_at=200.0, extend=both, lease_seconds=40.0) == []


def test_first_extend_after_a_restart_passes_on() -> None:
    d = fresh(Held(run_order("f", OnLost.FENCE), "boot1"))
    assert exchange(d, sent_at=50.0, extend=(uid("f"),), lease_seconds=40.0) == [Extend(uid("f"), 0, 90.0)]


# ---------------------------------------------------------------- answers that are late, repeated or foreign


def test_older_repeated_superseded_and_foreign_answers_are_ignored() -> None:
    d = fresh()
    first, second, third = d.request(5.0), d.request(5.0), d.request(5.0)
    run: dict[str, Any] = {"run": (run_order(),)}
    assert d.answered(replace(reply_to(second, 9, **run), superseded=True), 0.0) == []
    assert d.answered(replace(reply_to(second, 9, **run), incarnation=7), 0.0) == []
    assert d.answered(replace(reply_to(second, 9, **run), sequence=99), 0.0) == []
    assert d.answered(reply_to(second, 5), 0.0) == []
    assert d.answered(reply_to(first, 9, **run), 0.0) == []  # older request
    assert d.answered(reply_to(second, 9, **run), 0.0) == []  # repeated
    assert d.answered(reply_to(third, 4, **run), 0.0) == []  # older state of the controller
    assert d.answered(reply_to(third, 9, epoch=0, **run), 0.0) == []  # a controller from before a restore
    assert len(d.answered(reply_to(third, 5, **run), 0.0)) == 1  # no change since, but a newer request
    assert (d.request(5.0).epoch, d.request(5.0).generation) == (1, 5)


def test_higher_epoch_is_accepted_with_any_generation_and_hears_everything_again() -> None:
    d = holding()
    d.set_inventory(inventory("GPU-a"), "h1")
    ended(d, exited(3, log_size=10))
    exchange(d, 50)
    exchange(d, 51, forget=(uid("x"),))
    assert d.request(5.0).holds == ()
    restored = d.request(5.0)
    d.answered(reply_to(restored, 2, epoch=2), 0.0)
    assert news(d)
    request = d.request(5.0)
    assert request.inventory
    assert request.holds == ("x",)
    report = report_of(request)
    assert report
    assert report.exit == exited(3, log_size=10)
    assert (request.epoch, request.generation) == (2, 2)


def test_epoch_known_from_before_the_restart_refuses_an_older_controller() -> None:
    d = Directives(NODE, "boot1", 2, (), epoch=3)
    assert d.answered(reply_to(d.request(5.0), 9, epoch=2, run=(run_order(),)), 0.0) == []


def on_gpu() -> Directives:
    """Holds x, on GPU 0."""
    d = fresh()
    d.set_inventory(inventory("GPU-a"), "h")
    exchange(d, run=(run_order(gpus=(0,), gpu_uuids=("GPU-a",)),))
    return d


def test_a_gpus_fault_ends_who_holds_it_until_that_is_under_way_and_is_why_it_ended() -> None:
    d = on_gpu()
    assert d.gpus_failed({1: "Xid 79"}) == []
    stop = Stop(uid("x"), 0, StopKind.GPU_FAULT, 30)
    assert d.gpus_failed({0: "Xid 79"}) == d.gpus_failed({0: "Xid 79"}) == [stop]
    d.observed(RunEvent(uid("x"), 0, RankPhase.RUNNING, stopping=True))
    assert d.gpus_failed({0: "Xid 79"}) == []
    ended(d, exited(1))
    report = report_of(d.request(0))
    assert report is not None
    assert report.exit is not None
    assert report.exit.gpu_fault == "GPU 0 of a1: Xid 79"


def test_a_cancel_takes_the_place_of_a_gpus_fault() -> None:
    d = on_gpu()
    d.gpus_failed({0: "Xid 79"})
    assert exchange(d, 2, stop=(stop_order(),)) == [Stop(uid("x"), 0, StopKind.CANCEL, 30)]
    assert d.gpus_failed({0: "Xid 79"}) == []


def test_an_order_for_a_quarantined_gpu_is_barred() -> None:
    d = fresh()
    sick = inventory("GPU-a", "GPU-b")
    gpu = replace(sick.gpus[0], health=GpuHealth.QUARANTINED, health_text="Xid 79")
    d.set_inventory(replace(sick, gpus=(gpu, sick.gpus[1])), "h")
    assert exchange(d, run=(run_order(gpus=(0,), gpu_uuids=("GPU-a",)),)) == [
        Bar(uid("x"), "GPU 0 is quarantined: Xid 79")
    ]
    (accepted,) = exchange(d, 2, run=(run_order("y", gpus=(1,), gpu_uuids=("GPU-b",)),))
    assert isinstance(accepted, Accept)


def test_an_admins_word_on_a_gpu_is_passed_on() -> None:
    assert exchange(fresh(), pardon=(GpuPardon("GPU-a", 3),)) == [Pardon("GPU-a", 3)]
