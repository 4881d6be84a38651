"""What an agent reports: ends until they are forgotten, news first, everything again after a restart."""

from __future__ import annotations

from dataclasses import replace

from agent.actions import Drop, RecordEnd, Sweep
from agent.directives import Directives
from agent.holding import MAX_ORDER_BYTES, REFRESH, Held
from agent.runs import RunEvent
from gpuq.model import EndReason, ExitRecord, RankPhase
from gpuq.protocol import MAX_HOLDS, MAX_REPORTS, Overuse, RunOrder
from tests.agent.orders import NODE, exited, inventory, reply_to, run_order, uid
from tests.agent.test_directives import ended, exchange, fresh, holding, news, phase_of, report_of

# ---------------------------------------------------------------- progress and ends


def test_phases_only_advance_and_repeats_are_no_news() -> None:
    d = holding()
    d.request(5.0)
    d.observed(RunEvent(uid("x"), 0, RankPhase.RUNNING, started_at=2.0))
    assert news(d)
    assert phase_of(d.request(5.0)) is RankPhase.RUNNING
    d.observed(RunEvent(uid("x"), 0, RankPhase.ACCEPTED))
    d.observed(RunEvent(uid("x"), 0, RankPhase.RUNNING, started_at=2.0))
    assert not news(d)
    report = report_of(d.request(5.0))
    assert report
    assert (report.phase, report.started_at) == (RankPhase.RUNNING, 2.0)


def test_first_exit_record_wins_and_is_reported_until_forgotten() -> None:
    d = holding()
    assert ended(d, exited(3)) == [RecordEnd(uid("x"), 0, exited(3))]
    assert ended(d, exited(4)) == []
    for generation in range(2, 6):
        request = d.request(5.0)
        report = report_of(request)
        assert report
        assert report.exit == exited(3)
        d.answered(reply_to(request, generation), 0.0)
    assert exchange(d, 9, forget=(uid("x"),)) == [Drop(uid("x"), 0)]
    request = d.request(5.0)
    assert (request.holds, request.reports) == ((), ())


def test_failed_launch_is_an_end_like_any_other() -> None:
    d = holding()
    end = ExitRecord(EndReason.LAUNCH_FAILED, 5.0, text="no such directory")
    assert ended(d, end) == [RecordEnd(uid("x"), 0, end)]


def test_forgotten_run_is_dropped_only_when_its_whole_log_has_arrived() -> None:
    d = holding()
    ended(d, exited(log_size=10))
    assert d.log_shipped(uid("x"), 0, 4) == []
    assert exchange(d, 2, forget=(uid("x"),)) == []
    assert d.log_shipped(uid("x"), 0, 9) == []
    assert d.log_shipped(uid("x"), 0, 10) == [Drop(uid("x"), 0)]
    assert d.log_shipped(uid("x"), 0, 10) == []


def test_log_that_arrived_first_lets_forget_drop_at_once() -> None:
    d = holding()
    ended(d, exited(log_size=10))
    d.log_shipped(uid("x"), 0, 10)
    assert exchange(d, 2, forget=(uid("x"),)) == [Drop(uid("x"), 0)]


def test_restored_controller_must_have_the_log_again_before_the_run_is_dropped() -> None:
    d = holding()
    ended(d, exited(log_size=10))
    d.log_shipped(uid("x"), 0, 10)
    d.answered(reply_to(d.request(5.0), 1, epoch=2, forget=(uid("x"),)), 0.0)
    assert d.request(5.0).holds == ()
    assert d.log_shipped(uid("x"), 0, 4) == []
    assert d.log_shipped(uid("x"), 0, 10) == [Drop(uid("x"), 0)]


def test_live_run_is_never_forgotten() -> None:
    d = holding()
    assert exchange(d, 2, forget=(uid("x"),)) == []
    assert d.request(5.0).holds == ("x",)


def test_live_process_of_an_unknown_attempt_is_swept() -> None:
    d = fresh()
    assert d.observed(RunEvent(uid("q"), 0, RankPhase.RUNNING)) == [Sweep(uid("q"))]
    assert d.swept(uid("q")) == []


def test_what_is_left_of_an_ended_unknown_attempt_is_dropped() -> None:
    assert ended(fresh(), exited(), "q") == [Drop(uid("q"), 0)]


# ---------------------------------------------------------------- restart


def test_restart_reports_every_entry_of_the_journal() -> None:
    d = fresh(Held(run_order("a"), "boot1"), Held(run_order("b"), "boot1", exit=exited(3)), barred=(uid("c"),))
    assert news(d)
    request = d.request(5.0)
    assert request.holds == ("a", "b", "c")
    assert [(r.uid, r.phase) for r in request.reports] == [
        ("a", RankPhase.ACCEPTED),
        ("b", RankPhase.ENDED),
        ("c", RankPhase.ENDED),
    ]


def test_entry_of_another_boot_ended_with_its_machine_and_keeps_an_end_it_had() -> None:
    lost, known = Held(run_order("a"), "boot0", log_size=12), Held(run_order("b"), "boot0", exit=exited(3))
    request = Directives(NODE, "boot1", 2, (lost, known), wall=8.0).request(5.0)
    report = report_of(request, "a")
    assert report
    assert report.exit
    assert (report.exit.reason, report.exit.ended_at, report.exit.log_size) == (EndReason.NODE_LOST, 8.0, 12)
    report = report_of(request, "b")
    assert report
    assert report.exit == exited(3)


# ---------------------------------------------------------------- what a request carries


def test_request_counts_up_even_when_answers_fail() -> None:
    d = fresh()
    assert [d.request(0.0).sequence for _ in range(3)] == [1, 2, 3]


def test_heartbeat_answers_are_no_news() -> None:
    d = holding()
    exchange(d, 2)
    exchange(d, 2)
    assert not news(d)


def test_news_comes_first_and_the_rest_in_turn() -> None:
    d = fresh()
    names = [f"r{i}" for i in range(REFRESH * 3)]
    exchange(d, run=tuple(run_order(n) for n in names))
    exchange(d, 2)
    d.observed(RunEvent(uid("r40"), 0, RankPhase.RUNNING))
    heard = []
    for generation in range(3, 6):
        request = d.request(5.0)
        heard += [r.uid for r in request.reports]
        d.answered(reply_to(request, generation), 0.0)
    assert heard[0] == "r40"
    assert set(heard) == set(names)


def test_reports_past_the_cap_follow_in_the_next_requests() -> None:
    d = fresh()
    names = {f"r{i}" for i in range(MAX_REPORTS * 2 + 10)}
    exchange(d, run=tuple(run_order(n) for n in sorted(names)))
    heard: set[str] = set()
    rounds = 0
    while news(d):
        request = d.request(5.0)
        assert len(request.reports) <= MAX_REPORTS
        assert set(request.holds) == names
        heard |= {r.uid for r in request.reports}
        rounds += 1
    assert (heard, rounds) == (names, 3)


def test_unanswered_reports_stay_first_in_line() -> None:
    d = holding()
    ended(d, exited(3))
    lost = d.request(5.0)
    again = d.request(5.0)
    assert lost.reports == again.reports


def test_report_changed_on_the_way_is_not_taken_for_heard() -> None:
    d = fresh()
    exchange(d, run=tuple(run_order(f"r{i}") for i in range(REFRESH + 5)))
    request = d.request(5.0)
    d.observed(RunEvent(uid("r20"), 0, RankPhase.RUNNING))
    d.answered(reply_to(request, 2), 0.0)
    assert d.request(5.0).reports[0].uid == "r20"


def test_inventory_is_sent_until_an_answer_to_it_arrives_and_when_wanted() -> None:
    d = fresh()
    exchange(d)
    d.set_inventory(inventory("GPU-a"), "h1")
    assert news(d)
    assert d.request(5.0).inventory  # lost
    request = d.request(5.0)
    assert (request.inventory_hash, request.inventory is not None) == ("h1", True)
    d.answered(reply_to(request, 1), 0.0)
    assert d.request(5.0).inventory is None
    d.set_inventory(inventory("GPU-a"), "h1")
    assert not news(d)
    exchange(d, 2, want_inventory=True)
    assert news(d)
    assert d.request(5.0).inventory


def test_overuse_rides_along_until_the_next_reading_and_is_news_when_it_begins_and_ends() -> None:
    d = holding()
    d.request(5.0)
    for seconds, expected in ((0.0, True), (5.0, False)):
        d.set_overuse((Overuse(uid("x"), 0, 5, seconds),))
        assert news(d) is expected
        assert d.request(5.0).overuse == d.request(5.0).overuse == (Overuse(uid("x"), 0, 5, seconds),)
    assert not d.is_urgent
    d.set_overuse(())
    assert news(d)
    assert d.request(5.0).overuse == ()


def test_order_is_described_once_each_time_it_is_asked_for() -> None:
    d, order = fresh(), run_order(environment={"A": "1"})
    exchange(d, run=(order,))
    exchange(d, 2, describe=(uid("x"), uid("unknown")))
    assert news(d)
    report = report_of(d.request(5.0))
    assert report
    assert report.order == order
    report = report_of(d.request(5.0))
    assert report
    assert report.order is None


def test_barred_attempt_without_an_order_answers_describe_with_its_end() -> None:
    d = fresh(barred=(uid("x"),))
    exchange(d, describe=(uid("x"),))
    assert phase_of(d.request(5.0)) is RankPhase.ENDED
    assert not news(d)


def test_described_orders_keep_below_the_cap_in_bytes() -> None:
    big = "#!" + "x" * (MAX_ORDER_BYTES // 3)
    d = fresh(*(Held(replace_script(run_order(f"r{i}"), big), "boot1") for i in range(5)))
    exchange(d, describe=tuple(uid(f"r{i}") for i in range(5)))
    described: list[int] = []
    while news(d):
        described.append(sum(r.order is not None for r in d.request(5.0).reports))
    assert described == [2, 2, 1]


def test_one_order_above_the_cap_is_still_described() -> None:
    d = fresh(Held(replace_script(run_order(), "#!" + "x" * MAX_ORDER_BYTES), "boot1"))
    exchange(d, describe=(uid("x"),))
    report = report_of(d.request(5.0))
    assert report
    assert report.order


def replace_script(order: RunOrder, script: str) -> RunOrder:
    return replace(order, spec=replace(order.spec, script=script))


def test_no_request_names_more_than_the_controller_takes_and_what_runs_is_always_named() -> None:
    ends = [Held(run_order(f"e{n}"), "boot1", exited()) for n in range(MAX_HOLDS)]
    d = fresh(*ends, Held(run_order("x"), "boot1"))
    holds = d.request(5.0).holds
    assert (len(holds), uid("x") in holds) == (MAX_HOLDS, True)
