"""The lines above and below the panes, and the two that are typed into."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Input

from tui.command import CommandLine
from tui.prompt import Prompt
from tui.store import Store
from tui.title import Bar, Span, heading, keys, tabs

SAID_SECONDS = 8.0


@runtime_checkable
class Filtered(Protocol):
    """A pane whose rows can be filtered."""

    @property
    def filter(self) -> str: ...

    def set_filter(self, text: str) -> str:
        """Shows what matches, at once; gives what of the text cannot be read, in one line."""


class Head(Vertical):
    """Who and where one is, how the connection is, which views there are."""

    DEFAULT_CSS = "Head { height: auto; width: 100%; }"

    def __init__(self, store: Store, where: str) -> None:
        super().__init__()
        self._store, self._where = store, where
        self._title, self._tabs = Bar(base="header"), Bar(id="tabs")

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._tabs

    def show(self, view: str, crumbs: str, paused: bool) -> None:
        gpus = sum(len(node["gpus"]) for node in self._store.nodes.values())
        waiting = self._store.pending if paused else None
        self._title.show(*heading(self._store, self._where, waiting, gpus, self.size.width))
        self._tabs.show(*tabs(view, crumbs, self.size.width))


class Foot(Vertical):
    """What is to be known of the row under the cursor, or has just been said; which keys work; what is typed."""

    DEFAULT_CSS = """
    Foot { height: 2; width: 100%; }
    Foot Horizontal { height: 1; display: none; }
    Foot Horizontal Bar { width: 2; }
    Foot Prompt { dock: none; width: 1fr; }
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._said: tuple[str, bool] | None = None  # the text, and whether it is bad
        self._said_until = 0.0
        self._filtered: Filtered | None = None
        self._filter_before = ""
        self._focus_before: Widget | None = None
        self._hint, self._keys, self._mark = Bar(), Bar(base="header"), Bar()
        self._typing = Horizontal()
        self._filter = Prompt(placeholder="words  user=bob  state=q  gpu>4  node~gpu  !not", id="filter")
        self._command = CommandLine(store)

    def compose(self) -> ComposeResult:
        yield self._hint
        with self._typing:
            yield self._mark
            yield self._filter
            yield self._command
        yield self._keys

    def say(self, text: str, bad: bool) -> None:
        self._said, self._said_until = (text, bad), self._store.clock() + SAID_SECONDS

    def unsay(self) -> None:
        self._said = None

    def show(self, hint: str, context: str, role: str, writable: bool) -> None:
        spans: list[Span] = [f" {hint}"]
        if self._said is not None and self._store.clock() < self._said_until:
            text, bad = self._said
            spans = [(f" {text}", "bad" if bad else "key")]
        self._typing.display = self.typing
        self._hint.display = not self.typing
        self._hint.show(spans)
        self._keys.show(keys(context, role, writable, self.size.width))

    def ask_command(self, text: str) -> None:
        self._type(":", self._command, text)

    def ask_filter(self, pane: Filtered) -> None:
        self._filtered, self._filter_before = pane, pane.filter
        self._focus_before = self.screen.focused
        self._type("/", self._filter, pane.filter)

    @property
    def typing(self) -> bool:
        """Whether a filter or a command is being typed."""
        return self._filter.display or self._command.display

    def leave_unfocused(self) -> None:
        """The focus has gone elsewhere, to a view or where the mouse was: a filter that was being typed stays."""
        for prompt in (self._filter, self._command):
            if prompt.display and not isinstance(self.screen.focused, Prompt):
                prompt.display = False
                self._filtered = None

    def _type(self, mark: str, prompt: Prompt, text: str) -> None:
        self._hint.display = False
        self._typing.display = True
        self._mark.show([(f" {mark}", "key")])
        prompt.ask(text)

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        if self._filtered is not None and event.value != self._filtered.filter:
            self._filtered.set_filter(event.value)

    @on(Prompt.Answered, "#filter")
    def _answered(self, event: Prompt.Answered) -> None:
        event.stop()
        if self._filtered is not None and event.text is None:
            self._filtered.set_filter(self._filter_before)
        if self._focus_before is not None and self._focus_before.is_attached:
            self._focus_before.focus()
        self._filtered = None
