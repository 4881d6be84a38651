"""The widgets of a form: a choice between few words, and the row that joins what is filled in to its label."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Input, Static

from tui.submission_fields import Field
from tui.text import pad, safe

LABEL_CELLS = 13


class Choice(Widget, can_focus=True):
    """One of a few words; space, Left and Right choose."""

    CONTEXT: ClassVar[str] = "choice"
    DEFAULT_CSS = """
    Choice { height: 1; width: 1fr; }
    Choice:focus { text-style: reverse; }
    """
    value: reactive[str] = reactive("")

    class Changed(Message):
        """Another word was chosen."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        super().__init__()
        self._choices = choices
        self.set_reactive(Choice.value, choices[0])

    def render(self) -> Text:
        return Text("  ".join(f"[{word}]" if word == self.value else f" {word} " for word in self._choices))

    def choose(self, word: str) -> None:
        self.value = word if word in self._choices else self._choices[0]

    def watch_value(self) -> None:
        self.post_message(self.Changed())

    def on_click(self) -> None:
        self.do_next_choice()

    def do_next_choice(self) -> None:
        self._step(1)

    def do_previous_choice(self) -> None:
        self._step(-1)

    def _step(self, way: int) -> None:
        at = self._choices.index(self.value)
        self.value = self._choices[(at + way) % len(self._choices)]


class FormRow(Horizontal):
    """A field: its label and what is filled in."""

    DEFAULT_CSS = """
    FormRow { height: 1; width: 1fr; }
    FormRow > .label { width: 14; }
    FormRow.-here > .label { text-style: bold; color: $accent; }
    FormRow.-wrong > .label { text-style: bold; color: $error; }
    FormRow > Input { width: 1fr; }
    FormRow > Input > .input--placeholder { color: $secondary; }
    """

    def __init__(self, field: Field) -> None:
        super().__init__(id=f"field-{field.key}")
        self.field = field
        self.entry: Input | Choice = (
            Choice(field.choices)
            if field.choices
            else Input(compact=True, placeholder=field.says, select_on_focus=False, max_length=20_000)
        )
        self._given = self._shown = ""  # a text that one line cannot show, and what it shows instead

    def compose(self) -> ComposeResult:
        yield Static(Text(pad(self.field.label, LABEL_CELLS)), classes="label")
        yield self.entry

    def on_descendant_focus(self) -> None:
        self.add_class("-here")

    def on_descendant_blur(self) -> None:
        self.remove_class("-here")

    @property
    def text(self) -> str:
        """What is filled in; as it was given, where only its escapes can be shown and nobody has changed them."""
        return self._given if self._shown and self.entry.value == self._shown else self.entry.value

    def fill(self, text: str) -> None:
        self._given, self._shown = (text, safe(text)) if not text.isprintable() else ("", "")
        if isinstance(self.entry, Choice):
            self.entry.choose(text)
        else:
            self.entry.value = self._shown or text
