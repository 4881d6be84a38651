"""When a run's time is up: the limit, the warning before it, and the lease."""

from agent.limits import LEASE_POLL_SECONDS, Limits


def test_a_run_without_limits_is_never_over() -> None:
    limits = Limits(None, None, None)
    limits.begin(0.0)
    limits.running()
    assert limits.over(1e9) == []
    assert not limits.warning_is_due(1e9)
    assert limits.wait(1e9) is None


def test_the_limit_counts_from_the_begin_of_the_run_and_is_told_once() -> None:
    limits = Limits(60.0, None, None)
    limits.begin(100.0)
    limits.running()
    assert limits.over(159.9) == []
    assert limits.over(160.0) == ["time_limit"]
    assert limits.over(161.0) == []


def test_a_warning_is_due_once_and_only_when_the_job_itself_runs() -> None:
    limits = Limits(60.0, 10, None)
    limits.begin(100.0)
    assert not limits.warning_is_due(155.0), "the set-up lines are not warned"
    limits.running()
    assert not limits.warning_is_due(149.9)
    assert limits.warning_is_due(150.0)
    assert not limits.warning_is_due(151.0)


def test_a_warning_from_further_before_than_the_limit_is_long_is_due_at_once() -> None:
    limits = Limits(5.0, 60, None)
    limits.begin(10.0)
    limits.running()
    assert limits.warning_is_due(10.0)


def test_a_late_extension_does_not_shorten_a_lease() -> None:
    limits = Limits(None, None, 50.0)
    limits.extend(80.0)
    limits.extend(60.0)
    assert limits.over(79.9) == []
    assert limits.over(80.0) == ["fence"]


def test_an_extension_does_not_revive_a_lease_that_ended() -> None:
    limits = Limits(None, None, 50.0)
    assert limits.over(50.0) == ["fence"]
    limits.extend(500.0)
    assert not limits.leased
    assert limits.over(1e9) == []
    assert limits.wait(1e9) is None


def test_what_is_left_of_a_job_that_ended_is_held_by_the_lease_and_not_by_the_limit() -> None:
    limits = Limits(60.0, 10, 70.0)
    limits.begin(0.0)
    limits.running()
    limits.main_ended()
    assert limits.over(65.0) == []
    assert not limits.warning_is_due(65.0)
    assert limits.over(70.0) == ["fence"]


def test_a_limit_and_a_lease_that_end_together_are_both_told() -> None:
    limits = Limits(50.0, None, 50.0)
    limits.begin(0.0)
    assert limits.over(50.0) == ["time_limit", "fence"]


def test_the_wait_is_for_what_comes_first_and_a_lease_is_looked_at_every_second() -> None:
    limits = Limits(60.0, 10, None)
    limits.begin(0.0)
    limits.running()
    assert limits.wait(30.0) == 20.0
    assert limits.warning_is_due(50.0)
    assert limits.wait(50.0) == 10.0
    leased = Limits(None, None, 100.0)
    assert leased.wait(0.0) == LEASE_POLL_SECONDS
    assert leased.wait(99.5) == 0.5
