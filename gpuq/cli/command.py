"""How verbs are declared: as click's commands, which answer -h like --help, whoever asks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

HELP_NAMES = ["-h", "--help"]


class Command(click.Command):
    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Click would take those of the first context that it is asked in, and remember them."""
        return HELP_NAMES


class Group(Command, click.Group):
    command_class = Command


def command(
    name: str | None = None, cls: type[Command] = Command, **more: Any
) -> Callable[[Callable[..., Any]], Command]:
    return click.command(name, cls, **more)


def group(name: str | None = None, **more: Any) -> Callable[[Callable[..., Any]], Group]:
    return click.group(name, Group, **more)
