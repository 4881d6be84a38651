"""Which jobs a verb means: ids and ranges of them, and the filters -u -p -t --me --name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from gpuq.cli.params import parsed
from gpuq.client.http import Client
from gpuq.errors import InvalidRequest
from gpuq.states import JobState

MAX_IDS = 10_000  # of one command; an array as a whole is one
_ID = re.compile(r"\d{1,18}(?:_\d{1,10})?", re.ASCII)
_ELEMENTS = re.compile(r"(\d{1,18})_(?:\[([\d,-]{1,200})\]|(\d{1,10}-\d{1,10}))", re.ASCII)
_RANGE = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)
_STATES = {state.value for state in JobState}
# What others call the same; PEERS and Slurm users type these.
_OTHER_NAMES = {
    "PENDING": "QUEUED",
    "PD": "QUEUED",
    "R": "RUNNING",
    "CG": "STOPPING",
    "COMPLETING": "STOPPING",
    "COMPLETED": "SUCCEEDED",
    "CD": "SUCCEEDED",
    "F": "FAILED",
    "CA": "CANCELED",
    "CANCELLED": "CANCELED",
    "KILLED": "CANCELED",
    "BUILDING": "STARTING",
}

F = TypeVar("F", bound=Callable[..., Any])


def parse_ids(words: Sequence[str]) -> list[str]:
    """Job ids as the controller knows them, each once, in order; '1042_3-5' and '1042_[1,4-6]' are expanded."""
    ids: list[str] = []
    for word in (part for text in words for part in re.split(r",(?![^\[]*\])", text)):
        if _ID.fullmatch(word):
            ids.append(word)
            continue
        match = _ELEMENTS.fullmatch(word)
        if not match:
            raise InvalidRequest(f"'{word[:60]}' is not a job id", "ids are like 1042, 1042_7 or 1042_3-5")
        for part in (match[2] or match[3]).split(","):
            bounds = _RANGE.fullmatch(part)
            if not bounds or int(bounds[2] or bounds[1]) < int(bounds[1]):
                raise InvalidRequest(f"'{word[:60]}' is not a range of jobs", "write for example 1042_3-5")
            first, last = int(bounds[1]), int(bounds[2] or bounds[1])
            if len(ids) + last - first >= MAX_IDS:
                raise InvalidRequest(f"'{word[:60]}' names more than {MAX_IDS:,} jobs", "name the array as a whole")
            ids += [f"{match[1]}_{index}" for index in range(first, last + 1)]
    return list(dict.fromkeys(ids))


def one_id(word: str) -> str:
    """The id of the one job a verb is about."""
    ids = parse_ids([word])
    if len(ids) != 1:
        raise InvalidRequest(f"'{word}' is not one job but {len(ids)}", "name one")
    return ids[0]


def parse_states(text: str) -> list[str]:
    """States from 'RUNNING,queued' or Slurm's words and letters for them, in gpuq's words."""
    states = []
    for word in text.upper().split(","):
        state = _OTHER_NAMES.get(word.strip(), word.strip())
        if state not in _STATES:
            raise InvalidRequest(f"'{word}' is not a state", f"one of {', '.join(s.value for s in JobState)}")
        states.append(state)
    return list(dict.fromkeys(states))


def job_filters(function: F) -> F:
    """The options -u, --me, -p, -t and --name, shared by every verb that picks jobs."""
    for option in (
        click.option("--name", "-n", metavar="NAME", help="Jobs of this name."),
        click.option(
            "-t",
            "--state",
            "--states",
            "states",
            type=parsed(parse_states),
            metavar="STATE[,STATE]",
            help="Jobs in these states.",
        ),
        click.option("-p", "--partition", "--queue", "queue", metavar="QUEUE", help="Jobs of this queue."),
        click.option("--me", is_flag=True, help="Only my own jobs."),
        click.option("-u", "--user", metavar="USER", help="Jobs of this user."),
    ):
        function = option(function)
    return function


def whose(client: Client, user: str | None, me: bool) -> str | None:
    """The user that -u and --me mean, or None for everyone."""
    if user and me:
        raise InvalidRequest("-u and --me together name two users", "give one of them")
    return str(client.get("/whoami")["user"]) if me else user
