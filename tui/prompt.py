"""A line to type into, at the bottom of the screen: for searches and commands, with what was typed before."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.message import Message
from textual.widgets import Input

KEPT = 50  # lines remembered


class Prompt(Input):
    """One line. It is shown by `ask`, and hides itself when it is answered or left."""

    CONTEXT: ClassVar[str] = "prompt"
    DEFAULT_CSS = """
    Prompt { dock: bottom; height: 1; width: 100%; display: none; }
    """

    class Answered(Message):
        """text: what was typed; None when it was left."""

        def __init__(self, prompt: Prompt, text: str | None) -> None:
            super().__init__()
            self.prompt, self.text = prompt, text

        @property
        def control(self) -> Prompt:
            return self.prompt

    def __init__(self, *, placeholder: str = "", id: str | None = None) -> None:
        super().__init__(compact=True, placeholder=placeholder, select_on_focus=False, max_length=1000, id=id)
        self._history: list[str] = []
        self._place = 0  # in the history; its length: the line that is being typed
        self._typed = ""

    def ask(self, text: str = "") -> None:
        self._place = len(self._history)
        self.value, self.cursor_position = text, len(text)
        self.display = True
        self.focus()

    def do_accept(self) -> None:
        text = self.value
        if text and self._history[-1:] != [text]:
            self._history = [*self._history, text][-KEPT:]
        self._leave(text)

    def do_close(self) -> None:
        self._leave(None)

    def do_earlier(self) -> None:
        self._recall(self._place - 1)

    def do_later(self) -> None:
        self._recall(self._place + 1)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.do_accept()

    def _recall(self, place: int) -> None:
        if self._place == len(self._history):
            self._typed = self.value
        if 0 <= place <= len(self._history):
            self._place = place
            self.value = [*self._history, self._typed][place]
            self.cursor_position = len(self.value)

    def _leave(self, text: str | None) -> None:
        self.display = False
        self.post_message(self.Answered(self, text))
