from __future__ import annotations

import pytest

from tui.pane import Subject
from tui.trail import Slot, Spot, Trail, slots

JOB = Subject("job", "7")


@pytest.mark.parametrize(
    ("spot", "size", "shown"),
    [
        (Spot("jobs"), (40, 10), ("list",)),
        (Spot("jobs"), (99, 60), ("list",)),
        (Spot("jobs", "detail", JOB), (80, 24), ("detail",)),
        (Spot("jobs"), (100, 30), ("list", "detail")),
        (Spot("overview"), (100, 30), ("list",)),
        (Spot("overview", "detail", JOB), (100, 30), ("list", "detail")),
        (Spot("jobs", "log", JOB), (100, 30), ("log",)),
        (Spot("jobs"), (140, 36), ("list", "detail", "log")),
        (Spot("jobs"), (140, 35), ("list", "detail")),
        (Spot("nodes"), (240, 70), ("list", "detail")),
        (Spot("nodes", "log", JOB), (240, 70), ("list", "detail", "log")),
        (Spot("jobs", "form"), (240, 70), ("form",)),
    ],
)
def test_as_many_panes_as_there_is_room_for(spot: Spot, size: tuple[int, int], shown: tuple[Slot, ...]) -> None:
    assert slots(spot, *size, zoomed=False) == shown


def test_zoomed_only_the_pane_that_is_worked_in_is_shown() -> None:
    assert slots(Spot("jobs", "detail", JOB), 240, 70, zoomed=True) == ("detail",)


def test_back_and_forward_as_in_a_browser() -> None:
    trail = Trail(Spot("overview"))
    trail.go(Spot("jobs"))
    trail.go(Spot("jobs", "detail", JOB))
    assert trail.back()
    assert trail.present == Spot("jobs")
    assert trail.forward()
    assert trail.present.slot == "detail"
    assert not trail.forward()
    trail.back()
    trail.go(Spot("nodes"))
    assert not trail.forward()


def test_up_leads_out_of_a_detail_and_not_out_of_a_view() -> None:
    trail = Trail(Spot("jobs"))
    trail.go(Spot("jobs", "detail", JOB))
    trail.go(Spot("jobs", "log", JOB))
    passed = []
    while trail.up():
        passed.append(trail.present.slot)
    assert passed == ["detail", "list"]


def test_a_detail_opened_first_of_all_leads_up_to_its_list() -> None:
    trail = Trail(Spot("jobs", "detail", JOB))
    assert trail.up()
    assert trail.present == Spot("jobs")


def test_the_last_view_and_back_to_it() -> None:
    trail = Trail(Spot("overview"))
    trail.go(Spot("jobs"))
    assert trail.last_view()
    assert trail.present == Spot("overview")
    assert trail.last_view()
    assert trail.present == Spot("jobs")
