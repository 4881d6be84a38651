"""What is typed at once, as a slow line or a fast typist hands it over, means what it would mean typed slowly."""

from __future__ import annotations

import pytest
from textual import events

from tests.tui.clusters import ServedClient, busy
from tests.tui.desk import Desk, desk, played
from tui import turns


def at_once(found: Desk, *keys: str) -> None:
    """All of them in one go, as one read of the terminal gives them."""
    for key in keys:
        found.app.post_message(events.Key(key, key if len(key) == 1 else None))


@played
async def test_a_filter_typed_at_once_is_text_and_no_commands() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "slash", *"xpxqr")
        await found.shows("None of 20 jobs matches.")
        assert found.app.screen.query_one("#filter").has_focus
        assert not found.app._ticker.paused


@played
async def test_keys_typed_behind_a_filter_are_commands_again() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "slash", *"zzz", "escape", "3")
        await found.shows("2 nodes")


@played
async def test_what_is_typed_behind_a_view_goes_to_that_view() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "6", "3", "slash", *"nothing", "enter")
        await found.until(lambda: found.app._body.pane("nodes").filter == "nothing")  # type: ignore[attr-defined]


@played
async def test_an_answer_typed_behind_its_question_finds_the_dialog() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "x", "n", "3")
        await found.shows("2 nodes")


@played
async def test_fields_of_the_form_take_what_is_typed_into_each() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "s", *"true", "down", "4")
        await found.shows("gpuq submit -G 4 --export NONE true")


@played
async def test_the_form_takes_what_is_typed_though_one_turn_of_a_busy_machine_takes_longer_than_the_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "_MOST_SECONDS", 0.0)  # over in each turn
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "s", *"true", "down", "4")
        await found.shows("gpuq submit -G 4 --export NONE true")


@played
async def test_the_form_takes_what_is_typed_before_it_has_the_focus_though_nothing_else_has_it() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        found.app.open_submit()
        await found.until(lambda: found.app.screen.query("#submit") and not found.app._body.focus_due)
        found.app.open_view("jobs")
        await found.until(lambda: not found.app._body.focus_due)
        found.app.screen.set_focus(None)
        found.app.open_submit()
        assert found.app._body.focus_due
        at_once(found, *"true")
        await found.shows("gpuq submit --export NONE true")


@played
async def test_a_filter_line_does_not_stay_where_the_focus_has_left_it() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        await found.keys("slash", "a")
        found.app.open_view("nodes")
        await found.until(lambda: not found.app.screen.query_one("#filter").display)


@played
async def test_what_is_typed_behind_the_end_is_nothing() -> None:
    async with desk(ServedClient(busy(20, 2))) as found:
        at_once(found, "ctrl+q", *"2x/j", "space")
        await found.until(lambda: not found.app.is_running)
    assert found.app.crash is None
