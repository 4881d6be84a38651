"""Runs one verb's click command, and turns the ways it may fail into its one line and exit status."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import click

from gpuq.cli.complain import complain
from gpuq.cli.outcome import OWN_TROUBLE
from gpuq.errors import GpuqError


def load(where: str) -> click.Command:
    """The command at 'module:attribute'."""
    module, _, attribute = where.partition(":")
    command: click.Command = getattr(__import__(module, fromlist=[attribute]), attribute)
    return command


def invoke(
    name: str,
    where: str,
    arguments: Sequence[str],
    gives_job_status: bool,
) -> int:
    """The exit status of the verb `name`, whose command is at `where`.

    gives_job_status: the status is that of a job, so trouble of gpuq's own must not look like one.
    """
    command = load(where)
    gc.enable()
    try:
        with command.make_context(f"gpuq {name}", list(arguments)) as ctx:
            result = command.invoke(ctx)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort as error:  # Ctrl-C while click asked something
        raise KeyboardInterrupt from error
    except click.UsageError as error:
        return complain(_usage(name, error), 2, f"gpuq {name}")
    except click.ClickException as error:
        return complain(error.format_message(), error.exit_code, "gpuq")
    except GpuqError as error:
        own_trouble = gives_job_status and error.exit_status != 2
        return complain(error.one_line(), OWN_TROUBLE if own_trouble else error.exit_status, "gpuq")


def _usage(name: str, error: click.UsageError) -> str:
    message = error.format_message().replace("\n", " ")
    end = "" if message.endswith((".", "?", "!")) else "."
    return f"{message[:1].lower()}{message[1:]}{end} See gpuq {name} --help"
