"""The question before something is done: what will be lost, Yes and No, and the focus where a mistake costs nothing."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from tui.pane import Question
from tui.text import safe

LOOK_SECONDS = 1.0  # how often the question is brought up to date while it stands
GONE = "nothing is left to do: it ended or changed meanwhile"


class ConfirmDialog(ModalScreen[bool]):
    """Dismisses with True for yes. What has changed since it was asked is shown before a yes counts."""

    CONTEXT: ClassVar[str] = "dialog"
    DEFAULT_CSS = """
    ConfirmDialog { align: center middle; background: $background 60%; }
    ConfirmDialog > Vertical {
        width: 78; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
        background: $surface; border: round $primary;
    }
    ConfirmDialog.-harmful > Vertical { border: round $error; }
    ConfirmDialog VerticalScroll { height: auto; scrollbar-size-vertical: 1; }
    ConfirmDialog #title { text-style: bold; }
    ConfirmDialog Static { width: 100%; height: auto; }
    ConfirmDialog Input { width: 100%; }
    ConfirmDialog #said { color: $warning; }
    ConfirmDialog Horizontal { height: 1; }
    ConfirmDialog Button { width: auto; min-width: 0; margin-right: 2; background: $panel; color: $accent; }
    ConfirmDialog Button:focus { text-style: bold reverse; }
    """

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(id="title")
            with VerticalScroll(can_focus=False):
                yield Static(id="lines")
            yield Static(id="said")
            if self._question.typed:
                yield Input(compact=True, placeholder=f"type {self._question.typed} to go on")
            with Horizontal():
                yield Button(Content("n  No"), id="no", compact=True)
                yield Button(Content(""), id="yes", compact=True)

    def on_mount(self) -> None:
        self._show(self._question)
        if self._question.typed:
            self.query_one(Input).focus()
        else:
            self.query_one("#no" if self._question.harmful else "#yes", Button).focus()
        if self._question.again is not None:
            self.set_interval(LOOK_SECONDS, self._look_again)

    def on_resize(self, event: events.Resize) -> None:
        """The lines scroll before the answers leave the screen."""
        around = 5 + bool(self._question.typed)  # border, title, what was said, answers
        self.query_one(VerticalScroll).styles.max_height = max(1, event.size.height - around)

    @on(Button.Pressed, "#yes")
    def do_yes(self) -> None:
        if self._typed() != self._question.typed:
            self._say(f"type {self._question.typed} first")
            return
        before = self._question
        if not self._look_again():
            return
        if (before.title, before.typed) != (self._question.title, self._question.typed):
            self._say("this has changed meanwhile: look again, then answer")
            return
        self.dismiss(True)

    @on(Button.Pressed, "#no")
    def do_no(self) -> None:
        self.dismiss(False)

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.do_yes()

    def do_other_answer(self) -> None:
        self.focus_next(Button)

    def _typed(self) -> str:
        return self.query_one(Input).value.strip() if self._question.typed else ""

    def _look_again(self) -> bool:
        """Brings the question up to date; False when there is nothing left to ask."""
        if self._question.again is None:
            return True
        present = self._question.again()
        if present is None:
            self._gone()
            return False
        self._show(present)
        return True

    def _gone(self) -> None:
        """Nothing is left to do: Yes goes, and who asked closes it when that was read."""
        self.query_one("#yes", Button).display = False
        self.query_one("#no", Button).label = Content("n  Close")
        self.query_one("#no", Button).focus()
        self._say(GONE)

    def _show(self, question: Question) -> None:
        self._question = question
        self.set_class(question.harmful, "-harmful")
        self.query_one("#title", Static).update(Text(safe(question.title)))
        self.query_one("#lines", Static).update(Text("\n".join(map(safe, question.lines))))
        self.query_one("#yes", Button).label = Content(f"y  {safe(question.yes)}")

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(Text(text))
