"""What a job executes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WarningSignal:
    """A signal that a job gets before its time limit."""

    number: int
    seconds: int = 60  # before the limit
    main_only: bool = False  # to the main process alone; else to all but the shell that they were started from


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job executes. Shared by all elements of an array; never in memory longer than it takes to hand it on.

    environment is the whole base environment of the job, or None for the account's login environment on the node;
    `changes` are --env and --export assignments laid over it. setup are shell lines run in STARTING.
    """

    command: tuple[str, ...]  # argument list; with a script, the script's arguments
    script: str | None  # text of a submitted `#!` file, stored at submit
    cwd: str | None  # None: the account's home
    environment: Mapping[str, str] | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    venv: str | None = None
    conda_env: str | None = None
    pty: str = ""  # '24x80': the command runs on a pseudo-terminal with so many rows and columns
    warning: WarningSignal | None = None
    output: str | None = None  # file on the node that gets what the log gets; see outfiles.py
    error: str | None = None  # another for standard error; without output for that alone
    append: bool = False  # to these files; else they are cut to nothing first
