"""The contexts of config.toml, changed in its text: it is a person's file, so every line that is theirs stays."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from gpuq.config import Settings, parse_toml, settings, write_private
from gpuq.errors import InvalidRequest

_SECTION = re.compile(r"\s*\[")


def with_context(before: Settings, name: str, entry: dict[str, str]) -> str:
    """The text with this context in it, of all its keys those of `entry` set, and chosen. Raises as `chosen` does."""
    lines = _lines(before.text)
    at = next((i for i, line in enumerate(lines) if _heads(line, name)), None)
    if at is None:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[contexts.{name}]"]
        at = len(lines) - 1
    for key, value in reversed(entry.items()):  # what is new goes on top
        end = next((i for i in range(at + 1, len(lines)) if _SECTION.match(lines[i])), len(lines))
        _set(lines, at + 1, end, key, value)
    entries = {**before.contexts, name: {**before.contexts.get(name, {}), **entry}}
    return _checked(before, _choose(lines, name), name, entries)


def chosen(before: Settings, name: str) -> str:
    """The text with another context chosen; raises InvalidRequest if it is written in a way that is not understood."""
    return _checked(before, _choose(_lines(before.text), name), name, before.contexts)


def save(text: str, before: Settings) -> None:
    """Replaces config.toml whole, where it lies if it is a link; raises InvalidRequest if it was changed meanwhile."""
    if settings().text != before.text:
        raise InvalidRequest(f"{before.path} was changed by someone else just now", "try again")
    write_private(os.path.realpath(before.path), text)


def _lines(text: str) -> list[str]:
    """As TOML counts them: other characters at which str.splitlines divides belong to a comment or a value."""
    return text.removesuffix("\n").split("\n") if text else []


def _choose(lines: list[str], name: str) -> list[str]:
    """The lines with `context = "NAME"` among those before the first section."""
    top = next((i for i, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    found = list(lines)
    _set(found, 0, top, "context", name)
    if top == 0 and len(found) > 1:
        found.insert(1, "")
    return found


def _set(lines: list[str], start: int, end: int, key: str, value: str) -> None:
    """Sets a key within lines[start:end]: in place if it is there, else as the first of them."""
    line = f'{key} = "{value}"'
    for at in range(start, end):
        if re.match(rf"\s*{key}\s*=", lines[at]):
            comment = re.fullmatch(r"""[^"'#]*(?:"(?:[^"\\]|\\.)*"|'[^']*')\s*(#.*)?""", lines[at])
            lines[at] = f"{line}  {comment[1]}" if comment and comment[1] else line
            return
    lines.insert(start, line)


def _heads(line: str, name: str) -> bool:
    return re.fullmatch(rf"""\s*\[\s*contexts\s*\.\s*(["']?){re.escape(name)}\1\s*\]\s*(#.*)?""", line) is not None


def _checked(before: Settings, lines: list[str], name: str, contexts: Mapping[str, Any]) -> str:
    """The text, if it says what it is meant to say, and all else that it said before."""
    text = "\n".join(lines) + "\n"
    wanted = {**parse_toml(before.text, before.path), "context": name, "contexts": contexts}
    try:
        found = parse_toml(text, before.path)
    except InvalidRequest:
        found = {}
    if found != wanted:
        raise InvalidRequest(
            f"{before.path} is written in a way that gpuq cannot change",
            f'write into it by hand: context = "{name}", and a section [contexts.{name}]',
        )
    return text
