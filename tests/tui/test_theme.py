from __future__ import annotations

import pytest
from rich.color import Color
from rich.style import Style

from tests.tui.clusters import ended, running, waiting
from tui.columns import JOB_COLUMNS, cells
from tui.text import HELD, STATE_LETTER
from tui.theme import AUTO, NAMES, SHADES, Palette, chosen, following, palette

OWN = [name for name, shades in SHADES.items() if shades.ground.startswith("#")]
LEAST = 4.5  # WCAG 2, AA


def luminance(colour: Color) -> float:
    def linear(part: int) -> float:
        share = part / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    assert colour.triplet is not None
    red, green, blue = map(linear, colour.triplet)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(style: Style) -> float:
    assert style.color is not None
    assert style.bgcolor is not None
    high, low = sorted((luminance(style.color), luminance(style.bgcolor)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", OWN)
@pytest.mark.parametrize("role", Palette._fields)
def test_every_style_can_be_read(theme: str, role: str) -> None:
    assert contrast(palette(theme).role(role)) >= LEAST


@pytest.mark.parametrize("theme", OWN)
@pytest.mark.parametrize("role", ["good", "warn", "bad", "key", "dim", "held"])
def test_colours_can_be_read_on_the_ground_of_title_and_keys_too(theme: str, role: str) -> None:
    header = palette(theme).header
    assert contrast(palette(theme).role(role) + Style(bgcolor=header.bgcolor)) >= LEAST


def test_high_contrast_is_high() -> None:
    styles = palette("high-contrast")
    assert min(contrast(styles.role(role)) for role in Palette._fields) >= 7


def test_no_two_states_are_told_apart_by_colour_alone() -> None:
    letters = [*STATE_LETTER.values(), HELD]
    assert len(set(letters)) == len(letters)
    rows = [running(1), waiting(1), waiting(1, "held by bob", "held"), ended(1), ended(1, "FAILED")]
    plain = ["".join(cell if isinstance(cell, str) else cell[0] for cell in cells(row, JOB_COLUMNS, 0)) for row in rows]
    assert len(set(plain)) == len(plain)


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


def test_themes_follow_each_other_round_and_round() -> None:
    seen = [NAMES[0]]
    while (after := following(seen[-1])) != NAMES[0]:
        seen.append(after)
    assert seen == list(NAMES)
