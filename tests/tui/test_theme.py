from __future__ import annotations

from tui.text import HELD, STATE_LETTER
from tui.theme import AUTO, NAMES, chosen, following, palette


def test_every_state_has_a_style_of_its_theme() -> None:
    for name in NAMES:
        for letter in (*STATE_LETTER.values(), HELD):
            assert palette(name).state(letter) in palette(name)


def test_the_theme_begins_as_the_terminal_is() -> None:
    assert chosen(AUTO, True, False) == "light"
    assert chosen(AUTO, None, False) == "dark"
    assert chosen("high-contrast", True, False) == "high-contrast"


def test_without_colour_no_theme_is_of_the_terminals_colours() -> None:
    """They would come out as black on black."""
    assert chosen("ansi-light", None, True) == "light"


def test_with_sixteen_colours_the_theme_is_of_these() -> None:
    assert chosen(AUTO, True, False, sixteen=True) == "ansi-light"
    assert chosen("dark", None, False, sixteen=True) == "ansi-dark"
    assert chosen("high-contrast", None, False, sixteen=True) == "high-contrast"
    assert chosen("dark", None, True, sixteen=True) == "dark"


def test_themes_follow_each_other_round_and_round() -> None:
    seen = [NAMES[0]]
    while (after := following(seen[-1])) != NAMES[0]:
        seen.append(after)
    assert seen == list(NAMES)
