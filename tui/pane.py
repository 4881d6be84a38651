"""What every view and pane of the dashboard is, and what it may ask of the dashboard around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, cast

from textual.dom import DOMNode
from textual.widget import Widget

from tui.client import Client
from tui.keymap import CHAINS
from tui.store import Dirty, Store


class Subject(NamedTuple):
    """What a pane is about, or has under its cursor: copied, opened and acted on by its id."""

    kind: Literal["job", "node", "gpu", "queue", "event"]
    id: str


@dataclass(frozen=True)
class Question:
    """What is asked before something is done that somebody may regret."""

    title: str  # 'Cancel 3 jobs'
    lines: tuple[str, ...]  # what it is about and what will be lost
    yes: str  # the word on the button: 'Cancel 3'
    act: Callable[[], Awaitable[str]]  # does it; what it gives is said in one line
    harmful: bool = True  # then the focus starts on No
    typed: str = ""  # to be typed before Yes works: the id of a job to be killed
    again: Callable[[], Question | None] | None = None  # the same question at present; None: nothing is left to do


class Dashboard(Protocol):
    """What a pane may ask for. The app is one; `Pane.dashboard` gives it."""

    store: Store
    ascii: bool  # draw with ASCII alone

    @property
    def client(self) -> Client:
        """Raises Unavailable before the first connection is there."""

    @property
    def writable(self) -> bool:
        """Whether this user may change anything at present: by role, by link, and not --read-only."""

    def open_view(self, name: str, filter: str | None = None) -> None:
        """Shows 'overview', 'jobs', 'nodes', 'gpus', 'queues' or 'events', filtered if a filter is given."""

    def open_job(self, id: str) -> None: ...
    def open_node(self, name: str) -> None: ...
    def open_log(self, id: str) -> None: ...

    def open_submit(self, line: str = "", like: str | None = None) -> None:
        """Shows the form: filled from a line of options and command, or like the job of this id."""

    def confirm(self, question: Question) -> None: ...

    def ask_command(self, text: str = "") -> None:
        """Opens the `:` line with this typed already."""

    def say(self, text: str, bad: bool = False) -> None:
        """Shows one line above the keys until the next key, or for some seconds."""

    def work(self, doing: Awaitable[object]) -> None:
        """Runs it in the background; a failure becomes one line."""

    def leave_pane(self) -> None:
        """Closes what is open around the pane, else leads back to where it was opened from."""

    def act(self, id: str) -> None:
        """Does the action of this id (keymap.ACTIONS) where the focus is, as its key would."""

    def set_theme(self, name: str) -> None:
        """Draws in this theme (theme.NAMES) from now on."""

    def copy(self, text: str) -> None:
        """Hands text to the terminal's clipboard (OSC 52), and says so."""


class Pane(Widget, can_focus=True):
    """A part of the screen that shows the store and is drawn by `tick`, never by a timer of its own.

    CONTEXT: where its keys are looked up (`keymap.CHAINS`).
    """

    CONTEXT: ClassVar[str]

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.store = store

    @property
    def dashboard(self) -> Dashboard:
        return cast(Dashboard, self.app)

    def on_mount(self) -> None:
        self.shown()

    def shown(self) -> None:
        """It became visible: draws all. While hidden it was told nothing."""
        self.refresh()

    def tick(self, dirty: Dirty) -> None:
        """Something changed, or just a second passed. Only while it is visible, and at most 4 times a second."""

    @property
    def complete(self) -> bool:
        """Whether what is to have the focus in it is made: until then keys that are meant for it wait."""
        return True

    def focal(self) -> Widget:
        """What gets the focus when the pane does, for a pane without a list."""
        return self

    def subject(self) -> Subject | None:
        """What is under the cursor, or shown."""
        return None

    def marked(self) -> list[str]:
        """Ids that were marked, in the order shown."""
        return []

    def crumbs(self) -> str:
        """Where one is: 'jobs > 1042'."""
        return self.CONTEXT

    def hint(self) -> str:
        """One line about what is under the cursor, above the line of keys."""
        return ""


def context_of(widget: DOMNode | None) -> str:
    """Where the keys of a widget are looked up: in the nearest context around it."""
    while widget is not None:
        if (context := getattr(widget, "CONTEXT", None)) in CHAINS:
            return str(context)
        widget = widget.parent
    return "app"
