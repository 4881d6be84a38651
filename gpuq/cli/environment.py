"""Which environment a job gets, chosen where it is submitted. Pure: given variables and options, never os.environ.

On a machine of the cluster a job gets the submitter's variables, as with Slurm; from elsewhere those would name paths
that do not exist there, so it gets the account's login environment on the node. --export and --env overrule both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpuq.errors import InvalidRequest
from gpuq.units import plural

# What belongs to this login and would be wrong or harmful in a job: tokens of gpuq, agents, screens, session folders.
_LEFT_OUT = ("GPUQ_", "SSH_", "XDG_")
_PAIR = re.compile(r"""((?:[^,"']|"[^"]*"|'[^']*')*)(?:,|$)""")


class Environment(NamedTuple):
    """environment: all variables the job starts from, or None for the login environment on the node; changes: what
    is laid over it; dropped: names of the submitter's variables that are not text and cannot be sent."""

    environment: dict[str, str] | None
    changes: dict[str, str]
    dropped: tuple[str, ...] = ()

    def describe(self) -> str:
        base = "the account's login environment on the node"
        if self.environment is not None:
            base = f"this shell's, {len(self.environment)} {plural(len(self.environment), 'variable')}"
        if self.changes:
            base += ", with " + ", ".join(sorted(self.changes)) + " set"
        return base


def choose_environment(
    mine: Mapping[str, str], export: str | None, assignments: Sequence[str], on_cluster: bool
) -> Environment:
    """The environment of a job submitted by someone with the variables `mine`.

    export is --export as written: ALL, NONE, a list of K=V and K, or a list with ALL in it. A list without ALL lays
    those over the login environment. assignments are --env's K=V and K, laid over everything else.
    """
    base = on_cluster
    changes: dict[str, str] = {}
    if export is not None:
        items = _split_export(export)
        words = {item.upper() for item in items if item.upper() in ("ALL", "NONE")}
        if "NONE" in words and len(items) > 1:
            raise InvalidRequest("--export NONE goes with no other name", "use --env K=V for single variables")
        base = "ALL" in words
        for item in items:
            if item.upper() not in words:
                changes.update(_assignment(item, mine, "--export", must_exist=False))
    for item in assignments:
        changes.update(_assignment(item, mine, "--env", must_exist=True))
    if not base:
        return Environment(None, changes)
    kept = {k: v for k, v in mine.items() if not k.startswith(_LEFT_OUT) and k != "DISPLAY"}
    text = {k: v for k, v in kept.items() if _is_text(k) and _is_text(v)}
    return Environment(text, changes, tuple(sorted(k for k in kept if k not in text)))


def _split_export(text: str) -> list[str]:
    """Items between commas outside quotes; a value's own quotes are taken off."""
    items = [m[1].strip() for m in _PAIR.finditer(text) if m[1].strip()]
    if not items or sum(len(m[0]) for m in _PAIR.finditer(text)) != len(text):
        raise InvalidRequest(
            f"--export '{text[:60]}' is not a list", "ALL, NONE, or names and K=V between commas; or use --env"
        )
    return [_unquote(item) for item in items]


def _unquote(item: str) -> str:
    name, equals, value = item.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return name + equals + value


def _assignment(item: str, mine: Mapping[str, str], flag: str, must_exist: bool) -> dict[str, str]:
    name, equals, value = item.partition("=")
    if not name or not name.isprintable() or " " in name:
        raise InvalidRequest(f"{flag} '{item[:60]}' names no variable", f"write {flag} NAME=VALUE or {flag} NAME")
    if not equals:
        if name not in mine:
            if must_exist:
                raise InvalidRequest(f"{flag} {name}: {name} is not set here", f"write {flag} {name}=VALUE")
            return {}  # as Slurm: a name without a value here is nothing to send
        value = mine[name]
    if not _is_text(name) or not _is_text(value):
        raise InvalidRequest(f"{flag} {name.encode(errors='replace').decode()}: the value is not UTF-8 text")
    return {name: value}


def _is_text(value: str) -> bool:
    # os.environ gives bytes that are no UTF-8 as lone surrogates, which JSON readers refuse.
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
