"""Filters as people type them: `llama !eval user=bob,ann state=q gpu>4 node~gpu reason~quota`. Pure.

Words are looked for in id, name, user and nodes; `~word` wants its letters in this order in the name; `!` before a term
turns it round; quotes keep spaces. Terms must all hold. While something is still being typed it may be wrong: then
`said` is why, in one line, and the terms that can be read already count.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from gpuq.errors import InvalidRequest
from gpuq.units import format_time, parse_duration
from tui.job_row import JobRow
from tui.text import HELD, STATE_LETTER, letter_of

Match = Callable[[JobRow], bool]

_LONGEST = 500
_TERM = re.compile(
    r"(?P<not>!?)(?P<field>[a-z_]+)(?P<op>!=|>=|<=|==|=|>|<|~|:)(?P<value>.*)", re.DOTALL | re.IGNORECASE
)
# What blanks behind may go on: `gpu`, `gpu >`. A word that begins with `~` may be one that is looked for.
_BEGUN = re.compile(r"!?(?P<field>[a-z_]+)(?P<op>!=|>=|<=|==|=|>|<|~|:)?", re.IGNORECASE)
_COMPARES = re.compile(r"!=|[=<>]")
_ENDED = "DFC"


class Filter(NamedTuple):
    """A row matches if `text_of` it has all the words, and the rest matches it. `match` is all of this at once."""

    text: str
    match: Match | None  # None: everything
    said: str  # what could not be read; '' when all could
    words: tuple[str, ...] = ()
    rest: Match | None = None


EVERYTHING = Filter("", None, "")


class _Unreadable(Exception):
    """A term that cannot be read (yet); says why."""


def parse(text: str, now: float) -> Filter:
    """now: wall seconds at the controller; what compares with a span (`run>2h`) holds for that moment."""
    text = text[:_LONGEST]
    words: list[str] = []
    rest: list[Match] = []
    said = ""
    for word in _joined(_words(text)):
        try:
            if _is_searched(word):
                words.append(word)
            else:
                rest.append(_term(word, now))
        except _Unreadable as error:
            said = str(error)
    return Filter(text, _all([*map(_plain, words), *rest]), said, tuple(words), _all(rest))


def text_of(row: JobRow) -> str:
    """What plain words are looked for in. Made once for each row: 100,000 are searched in 10 ms, and made in 60."""
    nodes = " ".join(place["node"] for place in row.nodes) if row.nodes else ""
    return f"{row.id}\n{row.name}\n{row.user}\n{nodes}".lower()


def _words(text: str) -> list[str]:
    """Split at blanks outside quotes; a quote that is still open ends with the text."""
    for ending in ("", "'", '"'):
        try:
            return shlex.split(text + ending)
        except ValueError:
            continue
    return text.split()


def _joined(words: list[str]) -> list[str]:
    """`gpu > 4` is one term, as `gpu>4` is."""
    joined: list[str] = []
    for word in words:
        begun = _BEGUN.fullmatch(joined[-1]) if joined else None
        known = begun is not None and _known(begun["field"]) is not None
        if known and begun is not None and (begun["op"] or word == "~" or _COMPARES.match(word)):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _all(terms: list[Match]) -> Match | None:
    if len(terms) < 2:
        return terms[0] if terms else None

    def match(row: JobRow) -> bool:
        for term in terms:  # noqa: SIM110  (a generator takes three times as long, 100,000 times a key)
            if not term(row):
                return False
        return True

    return match


def _is_searched(word: str) -> bool:
    """Whether it is a plain word without capitals, to be found anywhere in `text_of`."""
    return word == word.lower() and _comparison(word) is None and not word.startswith(("!", "~"))


def _comparison(word: str) -> re.Match[str] | None:
    """A field, an operator and a value."""
    found = _TERM.fullmatch(word)
    return found if found is not None and (found["op"] != ":" or _known(found["field"])) else None  # in a name, too


def _term(word: str, now: float) -> Match:
    found = _comparison(word)
    if found is not None:
        op = "=" if found["op"] in (":", "==") else found["op"]  # as other programs write it
        term = _field(found["field"].lower(), op, found["value"], now)
        return _not(term) if found["not"] else term
    if word.startswith("!"):
        return _not(_plain(word[1:])) if word[1:] else _unfinished("! needs a word behind it")
    return _plain(word)


def _unfinished(said: str) -> Match:
    raise _Unreadable(said)


def _not(term: Match) -> Match:
    return lambda row: not term(row)


def _plain(word: str) -> Match:
    if word.startswith("~") and len(word) > 1:
        in_order = re.compile(".*?".join(map(re.escape, word[1:])), re.IGNORECASE | re.DOTALL)
        return lambda row: in_order.search(row.name) is not None
    if word != word.lower():  # capitals are meant
        return lambda row: word in row.name or word in row.user or _on_node(row, word)
    return lambda row: word in text_of(row)


def _on_node(row: JobRow, word: str) -> bool:
    for place in row.nodes:  # noqa: SIM110  (as above)
        if word in place["node"]:
            return True
    return False


_TEXTS: Mapping[str, Callable[[JobRow], str]] = {
    "id": lambda row: row.id,
    "name": lambda row: row.name,
    "user": lambda row: row.user,
    "queue": lambda row: row.queue,
    "node": lambda row: " ".join(place["node"] for place in row.nodes),
    "reason": lambda row: f"{row.reason['code']} {row.reason['text']}" if row.reason else "",
    "cause": lambda row: f"{row.cause['code']} {row.cause['text']}" if row.cause else "",
}
_NUMBERS: Mapping[str, Callable[[JobRow], int | None]] = {
    "gpu": lambda row: row.gpus,
    "priority": lambda row: row.priority,
    "attempt": lambda row: row.attempt,
    "exit": lambda row: row.exit_code,
    "signal": lambda row: row.signal,
}
# A span is compared with the moment it began: text of fixed width, so 100,000 times need not be read.
_SPANS: Mapping[str, Callable[[JobRow], str | None]] = {
    "run": lambda row: None if row.finished_at else row.started_at,
    "wait": lambda row: row.submitted_at if row.state == "QUEUED" else None,
    "age": lambda row: row.submitted_at,
}
_ALIASES = {
    "gpus": "gpu", "prio": "priority", "nodes": "node", "why": "reason", "st": "state", "status": "state",
    "wait_time": "wait", "waits": "wait", "waited": "wait", "runs": "run", "running": "run", "partition": "queue",
    "job": "id", "owner": "user",
}  # fmt: skip
FIELDS = (*_TEXTS, "state", *_NUMBERS, *_SPANS)


def _known(name: str) -> str | None:
    """The field of this name, however it is written; None if there is none."""
    name = _ALIASES.get(name.lower(), name.lower())
    return name if name in FIELDS else None


def _field(written: str, op: str, value: str, now: float) -> Match:
    name = _known(written)
    if name is None:
        near = get_close_matches(written, [*FIELDS, *_ALIASES], n=1)
        raise _Unreadable(f"no field '{written}': {_near(near) or 'there are ' + ', '.join(FIELDS)}")
    if not value:
        raise _Unreadable(f"{name}{op} needs a value")
    if name in _NUMBERS:
        return _number(name, op, value)
    if name in _SPANS:
        return _span(name, op, value, now)
    if op in ("<", ">", "<=", ">="):
        raise _Unreadable(f"{name} is text: use {name}=, {name}!= or {name}~")
    term = _state(op, value) if name == "state" else _text(_TEXTS[name], op, value)
    return _not(term) if op == "!=" else term


def _near(names: list[str]) -> str:
    return f"did you mean {names[0].lower()}?" if names else ""


def _text(of: Callable[[JobRow], str], op: str, value: str) -> Match:
    """`=`: one of these, '*' for anything; `~`: a regular expression somewhere, or what does not compile as one."""
    if op == "~":
        try:
            pattern = re.compile(value, re.IGNORECASE)
        except re.error:
            pattern = re.compile(re.escape(value), re.IGNORECASE)
        return lambda row: pattern.search(of(row)) is not None
    values = [part.lower() for part in value.split(",") if part]
    if not any(set(part) & set("*?[") for part in values):
        exact = frozenset(values)
        return lambda row: of(row).lower() in exact or not exact.isdisjoint(of(row).lower().split())
    globs = re.compile("|".join(map(fnmatch.translate, values)))
    return lambda row: globs.fullmatch(of(row).lower()) is not None


def _state(op: str, value: str) -> Match:
    wanted: set[str] = set()
    for part in value.upper().split(","):
        letters = _letters(part)
        if part and not letters:
            near = get_close_matches(part, [*STATE_LETTER, "HELD", "ACTIVE", "ENDED"], n=1)
            known = f"letters {''.join(STATE_LETTER.values())}{HELD}, or names such as failed"
            raise _Unreadable(f"no state '{part.lower()}': {_near(near) or known}")
        wanted |= letters
    return lambda row: letter_of(row) in wanted


def _letters(word: str) -> set[str]:
    """The letters of the states that a word means: a letter, the beginning of a name, 'active', 'ended', 'held'."""
    known = set(STATE_LETTER.values())
    if word in known or word == HELD:
        return {word, HELD} if word == "Q" else {word}
    if word in ("ACTIVE", "LIVE"):
        return known - set(_ENDED) | {HELD}
    if word == "ENDED":
        return set(_ENDED)
    found = {letter for state, letter in STATE_LETTER.items() if word and state.startswith(word)}
    if word and "HELD".startswith(word):
        found.add(HELD)
    return found | {HELD} if "Q" in found else found


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}


def _number(name: str, op: str, value: str) -> Match:
    of = _NUMBERS[name]
    if op == "~":
        raise _Unreadable(f"{name} is a number: use {name}= or {name}>")
    try:
        than = int(value)
    except ValueError:
        raise _Unreadable(f"{name}{op}{value}: '{value}' is no number") from None
    compare = _COMPARE[op]

    def match(row: JobRow) -> bool:
        number = of(row)
        return number is not None and compare(number, than)

    return match


def _span(name: str, op: str, value: str, now: float) -> Match:
    of = _SPANS[name]
    if op not in ("<", ">", "<=", ">="):
        raise _Unreadable(f"{name} is a span: use {name}> or {name}<, as in {name}>2h")
    try:
        began = format_time(now - parse_duration(value))
    except InvalidRequest:
        raise _Unreadable(f"{name}{op}{value}: write a span as 30m, 2h or 1d") from None
    longer = op[0] == ">"

    def match(row: JobRow) -> bool:
        since = of(row)
        return since is not None and began is not None and (since < began if longer else since > began)

    return match
