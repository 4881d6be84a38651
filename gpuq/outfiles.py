"""Names of the files of -o and -e: Slurm's patterns, checked where a job is submitted, filled in on its node."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpuq.errors import InvalidRequest

# What stands for what: documented in docs/commands.md.
LETTERS = "AaJjNntux"
MAX_PATH = 4_096  # Linux' PATH_MAX
_PATTERN = re.compile(r"%(?:(\d{0,2})([A-Za-z])|(%)|(.?))", re.DOTALL)


def check_pattern(option: str, text: str) -> None:
    """Raises InvalidRequest for what can name no file."""
    if not text or text.endswith("/") or len(text) > MAX_PATH or not text.isprintable():
        raise InvalidRequest(f"{option} '{text[:60]}' names no file")
    for match in _PATTERN.finditer(text):
        if match[4] is not None or (match[2] is not None and match[2] not in LETTERS):
            raise InvalidRequest(
                f"{option}: '{match[0]}' stands for nothing", f"known: {', '.join('%' + c for c in LETTERS)}, %%"
            )


def filled_in(pattern: str, values: Mapping[str, str]) -> str:
    """The name, with the value of each letter in it; '%4j' pads a number with zeros. No value brings a folder in."""

    def value(match: re.Match[str]) -> str:
        if match[2] is None:
            return "%"
        text = values[match[2]].replace("/", "_")
        return text.zfill(int(match[1] or 0)) if text.isdigit() else text

    return _PATTERN.sub(value, pattern)
