"""Types of options that have a grammar of their own, and --json, which most verbs have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import click

from gpuq.errors import InvalidRequest
from gpuq.units import parse_begin, parse_duration

T = TypeVar("T")


def parsed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A type for click: what `parse` refuses becomes click's error, which names the option."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except InvalidRequest as error:
            raise click.BadParameter(error.one_line()) from None

    return convert


def _parse_past(text: str) -> float:
    """Wall seconds of a time as --begin has it, or of a duration ago: '2h', '3d'."""
    try:
        return time.time() - parse_duration(text)
    except InvalidRequest:
        return parse_begin(text, time.time())


def examples(*lines: str) -> str:
    """What stands at the end of a verb's help, line for line as given."""
    return "\b\nFor example:\n" + "\n".join(f"  {line}" for line in lines)


DURATION = parsed(parse_duration)
BEGIN = parsed(lambda text: parse_begin(text, time.time()))
PAST = parsed(_parse_past)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
