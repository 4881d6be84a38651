"""Colours: five themes, and the styles that text is drawn with. Colour never says what a letter or a word does not.

Blue, orange and grey, bold and reverse: no pair that a colour-blind eye takes for one. tests/tui/test_contrast.py
holds every style to a contrast of 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from rich.color import Color
from rich.style import Style
from textual.theme import BUILTIN_THEMES, Theme

AUTO = "auto"  # dark or light, as the terminal is


class Shades(NamedTuple):
    """The colours of a theme: '#rrggbb', or the name of one of the terminal's own sixteen."""

    ground: str
    text: str
    dim: str
    good: str  # works: running, up
    warn: str  # waits, or wants a look
    held: str
    bad: str  # failed, lost
    key: str  # of a key, a mark, what is typed
    bar: str  # title and headings, their ground
    bar_text: str
    cursor: str  # the ground of the row under the cursor
    cursor_text: str
    blurred: str  # the same in a pane without the focus


SHADES: Mapping[str, Shades] = {
    "dark": Shades(
        ground="#0f1216",
        text="#d7dce3",
        dim="#8f99a8",
        good="#7cc0ff",
        warn="#e3b15f",
        held="#bda6ea",
        bad="#ff8b73",
        key="#ffd479",
        bar="#1c232d",
        bar_text="#b9c6d8",
        cursor="#27507f",
        cursor_text="#ffffff",
        blurred="#2a313c",
    ),
    "light": Shades(
        ground="#fbfaf7",
        text="#20252b",
        dim="#5a636e",
        good="#0a57a3",
        warn="#855000",
        held="#6a3f9e",
        bad="#ad2418",
        key="#7a4a00",
        bar="#e6e9ee",
        bar_text="#36424f",
        cursor="#bcd8f7",
        cursor_text="#000000",
        blurred="#e2e5ea",
    ),
    "high-contrast": Shades(
        ground="#000000",
        text="#ffffff",
        dim="#d4d4d4",
        good="#7fd4ff",
        warn="#ffd000",
        held="#e3c1ff",
        bad="#ffa38a",
        key="#ffff70",
        bar="#303030",
        bar_text="#ffffff",
        cursor="#ffffff",
        cursor_text="#000000",
        blurred="#4a4a4a",
    ),
    "ansi-dark": Shades(
        ground="default",
        text="default",
        dim="white",
        good="bright_cyan",
        warn="bright_yellow",
        held="bright_white",
        bad="bright_red",
        key="bright_yellow",
        bar="black",
        bar_text="bright_white",
        cursor="cyan",
        cursor_text="black",
        blurred="blue",
    ),
    "ansi-light": Shades(
        ground="default",
        text="default",
        dim="bright_black",
        good="blue",
        warn="magenta",
        held="magenta",
        bad="red",
        key="blue",
        bar="white",
        bar_text="black",
        cursor="cyan",
        cursor_text="black",
        blurred="white",
    ),
}
NAMES = tuple(SHADES)

_STATE_ROLES: Mapping[str, str] = {
    "R": "good",
    "S": "good",
    "A": "good",
    "E": "warn",
    "Q": "warn",
    "H": "held",
    "L": "bad",
    "F": "bad",
    "D": "dim",
    "C": "dim",
}


class Palette(NamedTuple):
    """What text is drawn with; each style names its ground, since Textual fills in none."""

    text: Style
    dim: Style
    bold: Style
    good: Style
    warn: Style
    held: Style
    bad: Style
    key: Style
    mark: Style
    header: Style
    title: Style
    cursor: Style
    blurred: Style

    def role(self, name: str) -> Style:
        """The style called so: a field of this class, or '' for plain text."""
        style: Style = getattr(self, name) if name else self.text
        return style

    def state(self, letter: str) -> Style:
        """Of a job's state, by its letter in text.STATE_LETTER."""
        return self.role(state_role(letter))


def state_role(letter: str) -> str:
    return _STATE_ROLES.get(letter, "")


@lru_cache
def palette(theme: str) -> Palette:
    """The styles of a theme of this program; those of 'dark' for any other."""
    shades = SHADES.get(theme, SHADES["dark"])

    def style(colour: str, bold: bool = False, on: str = shades.ground) -> Style:
        return Style.from_color(Color.parse(colour), Color.parse(on)) + Style(bold=bold or None)

    return Palette(
        text=style(shades.text),
        dim=style(shades.dim),
        bold=style(shades.text, bold=True),
        good=style(shades.good),
        warn=style(shades.warn),
        held=style(shades.held),
        bad=style(shades.bad, bold=True),
        key=style(shades.key),
        mark=style(shades.key, bold=True),
        header=style(shades.bar_text, on=shades.bar),
        title=style(shades.bar_text, bold=True, on=shades.bar),
        cursor=style(shades.cursor_text, on=shades.cursor),
        blurred=style(shades.text, on=shades.blurred),
    )


def themes() -> list[Theme]:
    """For Textual, which draws inputs, buttons and borders with them."""
    return [_theme(name, shades) for name, shades in SHADES.items()]


def _theme(name: str, shades: Shades) -> Theme:
    def colour(shade: str) -> str:
        return shade if shade.startswith("#") else f"ansi_{shade}"

    return Theme(
        name=name,
        ansi=not shades.ground.startswith("#"),
        dark="light" not in name,
        primary=colour(shades.good),
        secondary=colour(shades.dim),
        accent=colour(shades.key),
        warning=colour(shades.warn),
        error=colour(shades.bad),
        success=colour(shades.good),
        foreground=colour(shades.text),
        background=colour(shades.ground),
        surface=colour(shades.ground),
        panel=colour(shades.bar),
        boost=colour(shades.blurred),
        variables={
            **(BUILTIN_THEMES[name].variables if name in BUILTIN_THEMES else {}),  # Textual asks for these of its own
            "block-cursor-foreground": colour(shades.cursor_text),
            "block-cursor-background": colour(shades.cursor),
            "border": colour(shades.good),
            "border-blurred": colour(shades.dim),
            "input-cursor-foreground": colour(shades.cursor_text),
            "input-cursor-background": colour(shades.cursor),
        },
    )


def following(theme: str) -> str:
    """The theme after this one, round and round."""
    return NAMES[(NAMES.index(theme) + 1) % len(NAMES)] if theme in NAMES else NAMES[0]


def chosen(name: str, light: bool | None, no_color: bool, sixteen: bool = False) -> str:
    """The theme to begin with. light: what the terminal's ground is, if known; sixteen: it has no more colours.

    With NO_COLOR a theme of the terminal's own colours would come out as black on black, so it gives way. With sixteen
    colours 'light' would come out as yellow on white, so it is drawn with those there are.
    """
    if name == AUTO:
        name = "light" if light else "dark"
    own = name.removeprefix("ansi-")
    if no_color:
        return own
    return f"ansi-{own}" if sixteen and own in ("dark", "light") else name
