"""Everything can be read in every theme, and nothing is said by colour alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pytest
from rich.color import Color, ColorSystem, ColorType
from rich.style import Style
from textual.color import Color as Mixed
from textual.filter import DimFilter, LineFilter, Monochrome
from textual.screen import ModalScreen
from textual.strip import Strip

from tests.tui.clusters import ServedClient, ended, running, waiting
from tests.tui.desk import Desk, desk, played
from tests.tui.test_snapshots import LOOKS, answers
from tui.columns import JOB_COLUMNS, cells
from tui.gpu_cells import MARKS
from tui.text import HELD, STATE_LETTER
from tui.theme import SHADES, Palette, palette

OWN = [name for name, shades in SHADES.items() if shades.ground.startswith("#")]
TERMINALS = [name for name in SHADES if name not in OWN]
ROLES = Palette._fields
LEAST = 4.5  # WCAG 2, AA
LEAST_OF_LINES = 3.0  # the same, of what is no text: frames, bars

Rgb = tuple[int, int, int]


def sixteen(colours: str) -> list[Rgb]:
    return [(n >> 16, n >> 8 & 255, n & 255) for n in (int(word, 16) for word in colours.split())]


# What terminals make of the sixteen colours unless told otherwise.
PALETTES: Mapping[str, Sequence[Rgb]] = {
    "linux": sixteen(
        "000000 aa0000 00aa00 aa5500 0000aa aa00aa 00aaaa aaaaaa "
        "555555 ff5555 55ff55 ffff55 5555ff ff55ff 55ffff ffffff"
    ),
    "xterm": sixteen(
        "000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5 "
        "7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff"
    ),
    "gnome": sixteen(
        "171421 c01c28 26a269 a2734c 12488b a347ba 2aa1b3 d0cfcc "
        "5e5c64 f66151 33d17a e9ad0c 2a7bde c061cb 33c7de ffffff"
    ),
    "windows": sixteen(
        "0c0c0c c50f1f 13a10e c19c00 0037da 881798 3a96dd cccccc "
        "767676 e74856 16c60c f9f1a5 3b78ff b4009e 61d6d6 f2f2f2"
    ),
}
# xterm's grey on white comes to 4.0, and no other of the sixteen is quieter than text on every palette.
FAINT = {("ansi-light", "xterm", "dim"): 4.0}


def luminance(colour: Rgb) -> float:
    def linear(part: int) -> float:
        share = part / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = map(linear, colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Rgb, other: Rgb) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def both(style: Style) -> tuple[Color, Color]:
    """What it writes with, and on what; neither may be left to chance."""
    assert style.color is not None
    assert style.bgcolor is not None
    return (style.bgcolor, style.color) if style.reverse else (style.color, style.bgcolor)


def contrast_of(style: Style) -> float:
    text, ground = both(style)
    return contrast(text.get_truecolor(), ground.get_truecolor())


# Roles


@pytest.mark.parametrize("theme", OWN)
@pytest.mark.parametrize("role", ROLES)
def test_every_style_can_be_read(theme: str, role: str) -> None:
    assert contrast_of(palette(theme).role(role)) >= LEAST


@pytest.mark.parametrize("theme", OWN)
@pytest.mark.parametrize("role", ["good", "warn", "bad", "key", "dim", "held"])
def test_colours_can_be_read_on_the_ground_of_title_and_keys_too(theme: str, role: str) -> None:
    header = palette(theme).header
    assert contrast_of(palette(theme).role(role) + Style(bgcolor=header.bgcolor)) >= LEAST


def test_high_contrast_is_high() -> None:
    styles = palette("high-contrast")
    assert min(contrast_of(styles.role(role)) for role in ROLES) >= 7


@pytest.mark.parametrize("theme", OWN)
@pytest.mark.parametrize("role", ROLES)
def test_every_style_can_be_read_in_256_colours(theme: str, role: str) -> None:
    text, ground = (colour.downgrade(ColorSystem.EIGHT_BIT) for colour in both(palette(theme).role(role)))
    assert contrast(text.get_truecolor(), ground.get_truecolor()) >= LEAST


@pytest.mark.parametrize("theme", TERMINALS)
@pytest.mark.parametrize("terminal", PALETTES)
@pytest.mark.parametrize("role", ROLES)
def test_every_style_of_a_terminals_own_colours_can_be_read(theme: str, terminal: str, role: str) -> None:
    known = PALETTES[terminal]
    plain = ((0, 0, 0), (255, 255, 255)) if theme == "ansi-light" else (known[7], known[0])
    text, ground = (
        default if colour.type is ColorType.DEFAULT else known[colour.number or 0]
        for colour, default in zip(both(palette(theme).role(role)), plain, strict=True)
    )
    assert contrast(text, ground) >= FAINT.get((theme, terminal, role), LEAST)


# What is painted


@pytest.mark.parametrize("name", ["overview-broken", "jobs", "nodes", "gpus", "job", "log", "submit", "cancel"])
@played
async def test_all_that_is_on_the_screen_can_be_read_in_every_theme(name: str) -> None:
    """Fields, buttons and frames of Textual's too, in colours and, as with NO_COLOR, without."""
    state = LOOKS[name]
    client = ServedClient(state.document, answers(state.document))
    client.post_answer = lambda *_: {"starts_now": True, "nodes": [], "reason": None}
    async with desk(client, size=(120, 40)) as found:
        await found.until(lambda: found.app.store.link.latency_ms)
        await state.arrive(found)
        for theme in OWN:
            found.app.set_theme(theme)
            await found.until(partial(grounded, found, theme))
            strips = in_front(found)
            faint = [*unreadable(strips, theme, [DimFilter()]), *unreadable(strips, theme, [DimFilter(), Monochrome()])]
            assert not faint, "\n".join([theme, *faint])


def grounded(found: Desk, theme: str) -> bool:
    return found.app.screen_stack[0].background_colors[1] == ground(theme)


def in_front(found: Desk) -> list[Strip]:
    """What is painted; of what is behind a dialog nothing, as that is faint so that nobody reads it."""
    screen = found.app.screen
    strips = screen._compositor.render_strips()
    if not isinstance(screen, ModalScreen):
        return strips
    region = screen.children[0].region
    return [strip.crop(region.x, region.right) for strip in strips[region.y : region.bottom]]


def ground(theme: str) -> Mixed:
    return Mixed.parse(SHADES[theme].ground)


def unreadable(strips: Sequence[Strip], theme: str, filters: Sequence[LineFilter]) -> Iterator[str]:
    for strip in strips:
        for each in filters:
            strip = strip.apply_filter(each, ground(theme))
        for text, style, _ in strip:
            if text.isspace() or not text:
                continue
            assert style is not None, text
            least = LEAST if any(character.isalnum() for character in text) else LEAST_OF_LINES
            if (found := contrast_of(style)) < least:
                yield f"{found:.1f}: {text!r} {style}"


# Without colours


def test_no_two_states_are_told_apart_by_colour_alone() -> None:
    letters = [*STATE_LETTER.values(), HELD]
    assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_rows_of_jobs_in_different_states_differ_in_their_text(width: int) -> None:
    states = [running(1)._replace(state=state) for state in ("ALLOCATED", "STARTING", "RUNNING", "STOPPING", "LOST")]
    others = [waiting(1), waiting(1, "held by bob", "held"), ended(1), ended(1, "FAILED"), ended(1, "CANCELED")]
    columns = [column for column in JOB_COLUMNS if column.least <= width]
    plain = [
        "".join(cell if isinstance(cell, str) else cell[0] for cell in cells(row, columns, 0))
        for row in states + others
    ]
    assert len(set(plain)) == len(STATE_LETTER) + 1


def test_no_two_marks_of_gpus_are_told_apart_by_colour_alone() -> None:
    assert len(set(MARKS.values())) == len(MARKS)
    assert not any(mark.isalnum() and mark != "x" and mark != "f" for mark in MARKS.values())


@pytest.mark.parametrize("theme", SHADES)
def test_the_cursor_is_seen_without_colours(theme: str) -> None:
    """Its sign and its ground; test_table.py has the sign."""
    styles = palette(theme)
    assert styles.cursor.bgcolor != styles.text.bgcolor
    assert styles.blurred.bgcolor != styles.text.bgcolor
