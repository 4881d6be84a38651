"""What a person types at a job's terminal for gpuq itself, as ssh has it: ~ at the beginning of a line. Pure."""

from __future__ import annotations

from typing import Literal

Wish = Literal["", "leave", "help"]
_LINE_ENDS = b"\r\n"


class Escape:
    """Takes keys as they come, in pieces of any size, and keeps back a ~ until it is known what it is."""

    def __init__(self) -> None:
        self._begins = True  # a line
        self._held = False  # a ~

    def typed(self, keys: bytes) -> tuple[bytes, Wish]:
        """What of it goes to the job, and what is wished of gpuq; what follows a wish to leave goes nowhere."""
        out = bytearray()
        wish: Wish = ""
        for key in keys:
            if self._held:
                self._held = False
                if key == ord("."):
                    return bytes(out), "leave"
                if key == ord("?"):
                    wish = "help"
                    continue
                out += b"~" if key == ord("~") else bytes((ord("~"), key))
            elif self._begins and key == ord("~"):
                self._held = True
                continue
            else:
                out.append(key)
            self._begins = key in _LINE_ENDS
        return bytes(out), wish
