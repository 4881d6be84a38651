from __future__ import annotations

import pytest

from tests.tui.clusters import ServedClient, running, snapshot
from tests.tui.desk import desk, played
from tui.gpu_cells import MARKS
from tui.help import HEADINGS, HelpDialog, help_entries, help_lines
from tui.keymap import ACTIONS, CHAINS, actions_in, find, label
from tui.text import HELD, STATE_LETTER


@pytest.mark.parametrize("context", CHAINS)
def test_every_key_that_works_in_a_context_is_in_its_help_with_what_it_does(context: str) -> None:
    entries = {
        (key, words)
        for tag in help_entries(context, "admin", True).values()
        for keys, words in tag
        for key in keys.split()
    }
    for action in actions_in(context):
        for key in action.keys:
            if find(context, key) is action:
                assert (label(key), action.help) in entries


def test_every_heading_is_used_and_every_tag_has_one() -> None:
    assert {action.tag for action in ACTIONS} == set(HEADINGS)


def test_what_one_may_not_is_not_offered_and_the_page_says_why() -> None:
    page = "\n".join(line.plain for line in help_lines("jobs", "viewer", True, 120))
    assert "cancel (asks first)" not in page
    assert "Your token has the role viewer; more is offered to a user." in page
    assert "cancel" in "\n".join(line.plain for line in help_lines("jobs", "user", True, 120))
    offline = "\n".join(line.plain for line in help_lines("jobs", "admin", False, 120))
    assert "cancel (asks first)" not in offline
    assert "Read-only at present" in offline


def test_the_page_says_what_the_letters_and_marks_on_the_screen_mean() -> None:
    jobs = "\n".join(line.plain for line in help_lines("jobs", "user", True, 120))
    assert all(letter in jobs.split("Letters of states")[1] for letter in [*STATE_LETTER.values(), HELD])
    nodes = "\n".join(line.plain for line in help_lines("nodes", "user", True, 46))
    assert all(f" {mark}  " in nodes for mark in MARKS.values())


@pytest.mark.parametrize("width", [30, 46, 80, 92, 138, 200])
def test_the_page_is_never_wider_than_the_screen(width: int) -> None:
    for context in CHAINS:
        assert all(line.cell_len <= width for line in help_lines(context, "admin", True, width)), context


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (160, 45)])
@played
async def test_help_opens_scrolls_and_closes(size: tuple[int, int]) -> None:
    async with desk(ServedClient(snapshot([running(7)])), size=size) as found:
        await found.keys("question_mark")
        await found.until(lambda: isinstance(found.app.screen, HelpDialog))
        await found.shows("Help: jobs")
        await found.shows("Do")
        await found.keys("G")
        await found.shows("!eval")
        await found.keys("g", "j", "k", "pagedown", "ctrl+u", "question_mark")
        await found.until(lambda: not isinstance(found.app.screen, HelpDialog))
