"""Utilisation over the last hour, as kept and as drawn."""

from __future__ import annotations

import pytest

from tests.tui.stage import gpu, node
from tui.spark import SLOT_SECONDS, History, bar, sparkline


def watched(percents: list[int | None], **given: object) -> History:
    """A frame each SLOT_SECONDS, of one GPU, ending at 1,000 s."""
    history = History()
    start = 1000.0 - SLOT_SECONDS * (len(percents) - 1)
    for number, percent in enumerate(percents):
        nodes = {"n1": node("n1", [gpu(0, utilization_percent=percent)], **given)}
        history.note(nodes, start + number * SLOT_SECONDS)
    return history


def test_the_newest_part_is_at_the_right_end() -> None:
    history = watched([10, 20, 30, 40])
    assert history.cluster(4, 1000.0, seconds=4 * SLOT_SECONDS) == [10, 20, 30, 40]
    assert history.gpus([("n1", 0)], 2, 1000.0, seconds=4 * SLOT_SECONDS) == [15, 35]


def test_frames_closer_than_a_slot_are_left_out() -> None:
    history = History()
    for second in range(100):
        history.note({"n1": node("n1", [gpu(0, utilization_percent=second)])}, float(second))
    assert history.cluster(10, 99.0, seconds=100.0) == [float(second) for second in range(0, 100, 10)]


def test_what_was_not_heard_is_unknown_and_not_zero() -> None:
    assert watched([None]).cluster(1, 1000.0) == [None]
    assert watched([80], state="lost").cluster(1, 1000.0) == [None]
    assert watched([0]).cluster(1, 1000.0) == [0]
    assert watched([50]).gpus([("n1", 7), ("gone", 0)], 1, 1000.0) == [None]


def test_a_silent_hour_falls_out() -> None:
    assert watched([90]).cluster(2, 1000.0 + 3_601) == [None, None]


def test_a_reading_stands_for_what_follows_it_but_not_for_long() -> None:
    history = watched([60])
    # a cell a second: held for 25 s, then unknown
    cells = history.cluster(60, 1040.0, seconds=60.0)
    assert cells[19:45] == [60.0] * 26
    assert cells[45:] == [None] * 15
    assert cells[:19] == [None] * 19


def test_a_gpu_seen_later_was_unknown_before() -> None:
    history = History()
    history.note({"n1": node("n1", [gpu(0, utilization_percent=10)])}, 0.0)
    history.note({"n1": node("n1", [gpu(0, utilization_percent=10), gpu(1, utilization_percent=90)])}, 10.0)
    assert history.gpus([("n1", 1)], 2, 10.0, seconds=20.0) == [None, 90]
    assert history.cluster(2, 10.0, seconds=20.0) == [10, 50]


def test_what_was_watched_is_drawn_over_the_whole_width() -> None:
    assert History().span(1000.0) == 60
    history = watched([10] * 30)  # 290 s
    assert history.span(1000.0) == 300
    assert history.span(1000.0, most=120) == 120
    assert history.span(1000.0 + 7_200) == 3_600


def test_bars_are_eighths_with_gaps_marked_and_a_blank_start() -> None:
    assert sparkline([None, None, 0, 13, 50, None, 99, 100]) == "  ▁▂▅?██"
    assert sparkline([None, None]) == "  "


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0.0, "[----------]"),
        (0.001, "[#---------]"),
        (0.5, "[#####-----]"),
        (0.999, "[#########-]"),
        (1.0, "[##########]"),
        (7.0, "[##########]"),
        (None, "[??????????]"),
    ],
)
def test_a_bar_shows_a_little_and_nearly_full_as_what_they_are(share: float | None, drawn: str) -> None:
    assert bar(share, 12) == drawn


def test_there_is_no_bar_without_room() -> None:
    assert bar(0.5, 3) == ""
