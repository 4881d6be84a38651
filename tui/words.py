"""A plain filter: every word must be somewhere in a line, and none of those behind a '!'. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Wanted = Callable[[Iterable[str | None]], bool]
_NUMBERS = re.compile(r"(\d+)", re.ASCII)


def wanted(text: str) -> Wanted | None:
    """Whether a line made of these texts is asked for, without regard to case; None if everything is."""
    words = text.casefold().split()[:20]
    required = [word for word in words if not word.startswith("!")]
    refused = [word[1:] for word in words if word.startswith("!") and word != "!"]
    if not required and not refused:
        return None

    def check(texts: Iterable[str | None]) -> bool:
        line = "\n".join(text for text in texts if text).casefold()
        return all(word in line for word in required) and not any(word in line for word in refused)

    return check


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key of names with numbers in them: n2 before n10."""
    parts = _NUMBERS.split(name)
    return [(int(part[:18]), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]
