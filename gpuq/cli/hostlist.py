"""Hostlists, Slurm's way to write many node names: 'n[01-08],gpu3' and back to single names, never past a cap."""

from __future__ import annotations

import itertools
import math
import re

from gpuq.errors import InvalidRequest

MAX_HOSTS = 1_000  # as many as the controller takes in one request, and as the largest cluster gpuq is meant for
_PART = re.compile(r"\[([^][]*)\]")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def expand_hostlist(text: str) -> list[str]:
    """The names, sorted and each once; raises InvalidRequest before anything larger than the cap is built.

    Leading zeros keep their width ('n[08-10]' is n08, n09, n10); several brackets multiply.
    """
    names: set[str] = set()
    for item in _split(text):
        pieces = _PART.split(item)  # literal, ranges, literal, ranges, ..., literal
        choices = [[piece] if i % 2 == 0 else _expand_ranges(piece, text) for i, piece in enumerate(pieces)]
        if len(names) + math.prod(map(len, choices)) > MAX_HOSTS:
            raise _too_many(text)
        for parts in itertools.product(*choices):
            name = "".join(parts)
            if not _NAME.fullmatch(name):
                raise InvalidRequest(f"'{text[:60]}' is not a list of nodes", "write for example n1,n2 or n[01-08]")
            names.add(name)
    return sorted(names)


def _split(text: str) -> list[str]:
    """The items between commas that stand outside brackets."""
    return re.split(r",(?![^\[]*\])", text)


def _expand_ranges(text: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise InvalidRequest(f"'[{text[:40]}]' is not a range of nodes", "write for example n[01-08]")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise InvalidRequest(f"'{part}' in the list of nodes runs backwards", "write the smaller number first")
        if int(last) - int(first) >= MAX_HOSTS - len(numbers):
            raise _too_many(whole)
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers


def _too_many(text: str) -> InvalidRequest:
    return InvalidRequest(f"'{text[:60]}' names more than {MAX_HOSTS:,} nodes")
