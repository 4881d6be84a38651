"""Every option of every verb here says what it does, and none is called like another's."""

from __future__ import annotations

import click
import pytest

from gpuq.cli import change, events, history, logs, nodes, queue, run, show, submit, wait, why

COMMANDS = [
    command
    for module in (change, events, history, logs, nodes, queue, run, show, submit, wait, why)
    for command in vars(module).values()
    if isinstance(command, click.Command)
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_every_option_has_a_help_line_and_a_name_of_its_own(command: click.Command) -> None:
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert command.help
    with click.Context(command, info_name=f"gpuq {command.name}", terminal_width=80) as ctx:
        assert max(map(len, command.get_help(ctx).splitlines())) <= 80
    assert not [option.name for option in options if not option.help]
    names = [name for option in options for name in (*option.opts, *option.secondary_opts)]
    assert len(names) == len(set(names))
