"""Progress bars as a person sees them: of what carriage returns overwrote, only the last state is shown."""

from __future__ import annotations

_AGAIN = "\r\x1b[K"  # to the line's begin, and it is empty


class Fold:
    """Folds text that comes in pieces. What is unfinished is shown at once, and replaced when more of it comes."""

    def __init__(self) -> None:
        self._begun = False  # whether the terminal's cursor is behind an unfinished line
        self._held = ""  # a carriage return that may belong to the line end that comes next

    def __call__(self, text: str) -> str:
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        *lines, last = text.removesuffix("\r").split("\n")
        shown = [self._line(line.removesuffix("\r")) + "\n" for line in lines[:1]]
        self._begun = self._begun and not lines
        shown += [self._line(line.removesuffix("\r")) + "\n" for line in lines[1:]]
        shown.append(self._line(last))
        self._begun = self._begun or bool(last)
        return "".join(shown)

    def _line(self, line: str) -> str:
        states = [state for state in line.split("\r") if state]
        if "\r" not in line or not states:
            return line.replace("\r", "")
        return (_AGAIN if self._begun else "") + states[-1]
