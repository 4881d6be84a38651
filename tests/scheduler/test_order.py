"""Who comes first: priority, then who has had little, then what is expected to be short."""

from __future__ import annotations

from collections import Counter

from tests.scheduler.virtual import Line, Work

HOUR = 3_600.0


def order_of(line: Line) -> list[int]:
    return sorted(line.started, key=lambda number: (line.started[number], number))


def test_priority_goes_before_all_else() -> None:
    line = Line(1, 1)
    line.run([Work(0, 60), *(Work(1, 60, name="short") for _ in range(3)), Work(2, HOUR, priority=1)])
    assert order_of(line) == [1, 5, 2, 3, 4]


def test_what_has_run_shortly_before_is_expected_to_be_short_again() -> None:
    learned = [Work(i * 2 * HOUR, 60 if i % 2 else HOUR, name="short" if i % 2 else "long") for i in range(20)]
    now = 40 * HOUR
    waiting = [Work(now, HOUR, name="long"), Work(now + 1, HOUR, name="long"), Work(now + 2, 60, name="short")]
    line = Line(1, 1)
    line.run([*learned, *waiting])
    assert order_of(line)[-2:] == [23, 22], "the short one goes before what was submitted earlier"


def test_what_is_not_short_goes_as_it_was_submitted() -> None:
    seconds = {"short": 60, "middle": HOUR / 2, "long": HOUR}
    learned = [Work(i * 2 * HOUR, seconds[name], name=name) for i, name in enumerate([*seconds] * 8)]
    now = 60 * HOUR
    waiting = [Work(now + i, seconds[name], name=name) for i, name in enumerate(["long", "long", "middle", "long"])]
    line = Line(1, 1)
    line.run([*learned, *waiting])
    assert order_of(line)[-4:] == [25, 26, 27, 28]


def test_a_time_limit_makes_a_job_short() -> None:
    learned = [Work(i * 2 * HOUR, HOUR) for i in range(8)]
    now = 40 * HOUR
    line = Line(1, 1)
    line.run([*learned, Work(now, HOUR), Work(now + 1, HOUR), Work(now + 2, 60, limit=60)])
    assert order_of(line)[-2:] == [11, 10]


def test_predictions_that_are_switched_off_decide_nothing() -> None:
    learned = [Work(i * 2 * HOUR, 60 if i % 2 else HOUR, name="short" if i % 2 else "long") for i in range(20)]
    now = 40 * HOUR
    waiting = [Work(now, HOUR, name="long"), Work(now + 1, HOUR, name="long"), Work(now + 2, 60, name="short")]
    line = Line(1, 1, predicts=False)
    line.run([*learned, *waiting])
    assert order_of(line)[-2:] == [22, 23]


def test_long_work_is_not_put_off_for_ever_by_short_work_that_keeps_coming() -> None:
    short = [Work(i * 100.0, 100, name="short") for i in range(3_000)]
    first, second = Work(0, 4 * HOUR, name="long"), Work(30_000, 4 * HOUR, name="long")
    line = Line(1, 1)
    line.run([first, *short, second], until=200_000)
    assert line.start_of(second) < 100_000


def test_fair_share_converges() -> None:
    """Two users always have work waiting, one submits ten times as much: each comes to half of the GPUs."""
    ada = [Work(i * 10.0, 600, user="ada") for i in range(3_000)]
    bob = [Work(i * 100.0, 600, user="bob") for i in range(300)]
    line = Line(1, 4)
    line.run([*ada, *bob], until=30_000)
    late = Counter(work.user for work in line.work_started() if line.start_of(work) > 10_000)
    assert 0.35 < late["bob"] / late.total() < 0.65
