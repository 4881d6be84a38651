"""Whether the terminal's ground is light: asked of the terminal itself, before Textual takes it over."""

from __future__ import annotations

import os
import re
import select
import termios
import time
import tty
from collections.abc import Mapping

TIMEOUT_SECONDS = 0.1  # a terminal on this machine answers in a few milliseconds
# OSC 11 asks for the ground. All terminals answer the question behind it, so who does not know the first is not
# waited for: the answer to the second has come.
_QUESTION = b"\x1b]11;?\x07\x1b[c"
_ANSWER = re.compile(rb"\x1b\]11;rgb:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})")
_END = re.compile(rb"\x1b\[\?[0-9;]*c")


def is_light(environ: Mapping[str, str]) -> bool | None:
    """None where nobody says.

    Not asked over SSH: an answer that comes late would be taken for keys that somebody pressed.
    """
    told = environ.get("COLORFGBG", "").rpartition(";")[2]
    if told.isdigit():
        return int(told) in (7, 15)
    if "SSH_CONNECTION" in environ or environ.get("TERM", "") in ("linux", "dumb"):
        return None
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return _answered(_ask(terminal))
    except (OSError, termios.error):
        return None
    finally:
        os.close(terminal)


def _ask(terminal: int) -> bytes:
    before = termios.tcgetattr(terminal)
    heard = b""
    try:
        tty.setraw(terminal, termios.TCSANOW)
        os.write(terminal, _QUESTION)
        until = time.monotonic() + TIMEOUT_SECONDS
        while _END.search(heard) is None and (left := until - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0]:
                heard += os.read(terminal, 1024)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)  # what comes a little late is thrown away
    return heard


def _answered(heard: bytes) -> bool | None:
    found = _ANSWER.search(heard)
    if found is None:
        return None
    red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in found.groups())
    return bool(0.299 * red + 0.587 * green + 0.114 * blue > 0.5)
