"""Help: what works here and now, made from the keymap, for this role and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.keymap import Action, actions_in, allowed, label
from tui.legend import LEGENDS
from tui.text import pad

KEYS_CELLS = 12
SIGN_CELLS = 15
COLUMN_CELLS = 46  # of a column of help; as many stand side by side as there is room for
WIDEST_CELLS = 3 * COLUMN_CELLS + 5  # three columns, with border, padding and scrollbar
# Headings in the order they are shown.
HEADINGS: Mapping[str, str] = {
    "open": "Open",
    "act": "Do",
    "list": "Find and mark",
    "copy": "Copy and save",
    "go": "Go",
    "screen": "Screen",
    "move": "Move",
}


def help_entries(context: str, role: str, writable: bool) -> dict[str, list[tuple[str, str]]]:
    """(keys, words) of all that works in a context, by heading. A key stands where it has its nearest meaning."""
    found: dict[str, list[tuple[str, str]]] = {}
    taken: set[str] = set()
    for action in actions_in(context):
        free = [key for key in action.keys if key not in taken]
        taken.update(action.keys)
        if free and allowed(action, role, writable):
            found.setdefault(action.tag, []).append((" ".join(map(label, free)), action.help))
    return {tag: found[tag] for tag in HEADINGS if tag in found}


def help_lines(context: str, role: str, writable: bool, width: int) -> list[Text]:
    """The page, in as many columns as the width has room for."""
    lines: list[Text] = []
    for tag, entries in help_entries(context, role, writable).items():
        lines += _block(HEADINGS[tag], entries, KEYS_CELLS, width)
    for heading, pairs in LEGENDS.get(context, {}).items():
        lines += _block(heading, pairs, SIGN_CELLS, width)
    if missing := _not_offered(context, role, writable):
        lines += [Text(), Text(missing, "italic")]
    return lines


def _block(heading: str, entries: Sequence[tuple[str, str]], first: int, width: int) -> list[Text]:
    """Keys or signs and what they mean, column after column. first: cells of the keys."""
    columns = max(1, width // COLUMN_CELLS)
    cells = width // columns
    rows = -(-len(entries) // columns)
    lines = [Text(heading, "bold")]
    for row in range(rows):
        line = Text()
        for keys, words in entries[row::rows]:
            line.append(pad(f" {keys}", min(first, cells // 2)), "bold")
            line.append(pad(words, cells - min(first, cells // 2) - 1) + " ")
        lines.append(line)
    return lines


def _not_offered(context: str, role: str, writable: bool) -> str:
    """Why something is not in the list, if something is not."""
    left_out = [action for action in actions_in(context) if not allowed(action, role, writable)]
    if not left_out:
        return ""
    if all(allowed(action, role) for action in left_out):
        return "Read-only at present: what changes jobs is not offered."
    least = "an admin" if any(_is_for_admins(action, role) for action in left_out) else "a user"
    return f"Your token has the role {role}; more is offered to {least}."


def _is_for_admins(action: Action, role: str) -> bool:
    return action.role == "admin" and not allowed(action, role)


class HelpDialog(ModalScreen[None]):
    """The page of one context, over what was there; any of its keys or Esc closes it."""

    CONTEXT: ClassVar[str] = "help"
    DEFAULT_CSS = """
    HelpDialog { align: center middle; background: $background 60%; }
    HelpDialog VerticalScroll {
        width: 143; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
        background: $surface; border: round $primary; border-title-style: bold;
        scrollbar-size-vertical: 1;
    }
    HelpDialog Static { width: 100%; height: auto; }
    """

    def __init__(self, context: str, role: str, writable: bool) -> None:
        super().__init__()
        self._about, self._role, self._writable = context, role, writable

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = f"Help: {self._about}"
            yield Static()

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def on_resize(self, event: events.Resize) -> None:
        room = min(WIDEST_CELLS, event.size.width) - 5
        lines = help_lines(self._about, self._role, self._writable, room)
        self.query_one(Static).update(Text("\n").join(lines))
        more = len(lines) > event.size.height - 2
        self._box.border_subtitle = "j k scroll, Esc close" if more else "Esc close"

    def do_close(self) -> None:
        self.dismiss(None)

    def do_cursor_down(self) -> None:
        self._box.scroll_down(animate=False)

    def do_cursor_up(self) -> None:
        self._box.scroll_up(animate=False)

    def do_page_down(self) -> None:
        self._box.scroll_page_down(animate=False)

    def do_page_up(self) -> None:
        self._box.scroll_page_up(animate=False)

    def do_half_down(self) -> None:
        self._box.scroll_relative(y=self._box.size.height // 2, animate=False)

    def do_half_up(self) -> None:
        self._box.scroll_relative(y=-(self._box.size.height // 2), animate=False)

    def do_first(self) -> None:
        self._box.scroll_home(animate=False)

    def do_last(self) -> None:
        self._box.scroll_end(animate=False)

    @property
    def _box(self) -> VerticalScroll:
        return self.query_one(VerticalScroll)
