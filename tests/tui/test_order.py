from __future__ import annotations

import random
from typing import Any

import pytest

from tests.tui.clusters import NOW, changes, ended, job, running, snapshot, waiting
from tui.filters import parse
from tui.order import COLUMNS, RECENT_SECONDS, STILL_SECONDS, Choice, JobOrder
from tui.store import Store


def made(rows: list[Any], **choice: Any) -> tuple[Store, JobOrder]:
    store = Store(lambda: 0.0)
    store.load(snapshot(rows))
    order = JobOrder(store)
    order.choose(Choice(**choice))
    order.arrange(0.0, NOW)
    return store, order


def test_what_runs_is_first_then_what_waits_and_the_newest_first_of_each() -> None:
    _, order = made([waiting(10), running(9), waiting(8), running(7), ended(6), ended(5, "FAILED")])
    assert list(order.keys) == ["9", "7", "10", "8", "5", "6"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("down", [False, True])
def test_rows_that_find_their_place_one_by_one_stand_as_if_all_were_sorted(column: str, down: bool) -> None:
    chance = random.Random(7)
    rows = [anything(chance, n) for n in range(1, 120)]
    store, order = made(rows, column=column, down=down, everything=True)
    now = 0.0
    for round in range(20):
        touched = [anything(chance, chance.randint(1, 140)) for _ in range(9)]
        gone = [str(chance.randint(1, 140))]
        dirty = store.apply(changes(101 + round, touched, gone=gone))
        order.note(dirty.jobs | set(gone))
        now += STILL_SECONDS
        assert order.arrange(now, NOW)
        fresh = JobOrder(store)
        fresh.choose(order.choice)
        fresh.arrange(0.0, NOW)
        assert list(order.keys) == list(fresh.keys)


def anything(chance: random.Random, number: int) -> Any:
    make: Any = chance.choice([waiting, running, ended, job])
    return make(number, name=chance.choice("abc"), user=chance.choice("xy"), priority=chance.randint(0, 2))


def test_the_same_column_downwards_keeps_the_newest_first_among_equals() -> None:
    rows = [job(n, user="xy"[n % 2]) for n in range(1, 7)]
    _, order = made(rows, column="user", down=True)
    assert list(order.keys) == ["5", "3", "1", "6", "4", "2"]


def test_ids_are_sorted_by_number() -> None:
    _, order = made([job(n) for n in (9, 10, 100, 2)], column="id")
    assert list(order.keys) == ["2", "9", "10", "100"]


def test_the_order_stands_still_while_the_cursor_moves_and_a_second_after() -> None:
    store, order = made([running(1), waiting(2)])
    order.arrange(5.0, NOW)
    order.hold(10.0)
    store.apply(changes(101, [running(3)]))
    order.note({"3"})
    assert not order.arrange(10.5, NOW)
    assert list(order.keys) == ["1", "2"]
    assert order.arrange(11.0, NOW)
    assert list(order.keys) == ["3", "1", "2"]


def test_a_choice_counts_at_once_even_while_the_cursor_moves() -> None:
    _, order = made([running(1), waiting(2)])
    order.hold(0.0)
    order.choose(Choice(filter=parse("state=q", NOW)))
    assert order.arrange(0.1, NOW)
    assert list(order.keys) == ["2"]


def test_a_thousand_changes_a_second_rearrange_once_a_second() -> None:
    store, order = made([running(n) for n in range(1, 50)])
    times = 0
    for tick in range(40):
        store.apply(changes(101 + tick, [running(100 + tick)]))
        order.note({str(100 + tick)})
        times += order.arrange(100 + tick * 0.25, NOW)
    assert times == 10


def test_what_ended_long_ago_shows_only_when_asked_for() -> None:
    rows = [ended(1, finished_at=RECENT_SECONDS + 60), ended(2)]
    assert list(made(rows)[1].keys) == ["2"]
    assert list(made(rows, everything=True)[1].keys) == ["2", "1"]


def test_what_was_recent_goes_with_time_alone() -> None:
    _, order = made([ended(1)])
    assert order.arrange(4000.0, NOW + 4000)
    assert list(order.keys) == []


def test_mine_are_mine() -> None:
    _, order = made([job(1, user="bob"), job(2)], user="alice")
    assert list(order.keys) == ["2"]


def test_a_filter_typed_letter_by_letter_lists_what_it_would_at_once() -> None:
    rows = [*(job(n, name=f"run-{n * 7}") for n in range(1, 300)), running(300, "n0017"), running(301, "n0071")]
    store, order = made(rows)
    for text in ("1", "17", "17 2", "17 2 gpu=1", "17 2 gpu=1 !run-1", "17 2", "7", "n0", "n007", "", "Run", "run ~r7"):
        order.choose(Choice(filter=parse(text, NOW)))
        order.arrange(0.0, NOW)
        fresh = JobOrder(store)
        fresh.choose(order.choice)
        fresh.arrange(0.0, NOW)
        match = order.choice.filter.match
        assert list(order.keys) == list(fresh.keys)
        assert sorted(order.keys) == sorted(row.id for row in rows if match is None or match(row)), text


def test_words_are_looked_for_in_what_a_job_has_become() -> None:
    store, order = made([job(1), job(2)])
    order.note(store.apply(changes(101, [running(2, "n0042")], gone=["1"])).jobs)
    order.choose(Choice(filter=parse("n0042", NOW)))
    order.arrange(0.0, NOW)
    assert list(order.keys) == ["2"]
    order.choose(Choice(filter=parse("job-1", NOW)))
    order.arrange(0.0, NOW)
    assert list(order.keys) == []
