"""--controller and --token on a command, and the client they lead to.

A token in the argument list can be read by everyone on the machine. So a command that was given one starts itself
again, in the same process, without it: the token waits in a pipe that the new program inherits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from gpuq.client.http import Client, fetch_ca
from gpuq.client.tls import fingerprint_in
from gpuq.config import Context, keep_ca, resolve
from gpuq.errors import InvalidRequest

F = TypeVar("F", bound=Callable[..., Any])

_CONTROLLER, _TOKEN = "gpuq.controller", "gpuq.token"
_HANDED_OVER = "fd:"  # no token looks like this: they begin with gpuq_


def connection(command: F) -> F:
    """Gives a verb --controller and --token; its callback does not see them, `connect` does."""
    command = click.option(
        "--token",
        metavar="TOKEN",
        help="Who to be: a token, or - to read it from standard input. Default: $GPUQ_TOKEN.",
        callback=_remember_token,
        expose_value=False,
    )(command)
    return click.option(
        "--controller",
        metavar="URL",
        help="Controller to talk to. Default: $GPUQ_URL, the context in config.toml, the local one.",
        callback=_remember_controller,
        expose_value=False,
    )(command)


def connect() -> Client:
    """A client for the controller that this command means; raises as config.resolve does, or Unreachable."""
    client = client_for(context())
    click.get_current_context().call_on_close(client.close)
    return client


def client_for(chosen: Context) -> Client:
    return Client(chosen.url, chosen.token, trusted_ca(chosen))


def context() -> Context:
    """Where this command is to talk to, by its options and the environment."""
    given = click.get_current_context().meta
    return resolve(given.get(_CONTROLLER), given.get(_TOKEN))


def given_controller() -> str | None:
    value: str | None = click.get_current_context().meta.get(_CONTROLLER)
    return value


def given_token() -> str | None:
    value: str | None = click.get_current_context().meta.get(_TOKEN)
    return value


def trusted_ca(chosen: Context) -> str:
    """The CA (PEM) of a context: as kept here, else fetched, compared with the token's fingerprint, and kept."""
    wanted = fingerprint_in(chosen.token)
    if chosen.ca_pem is not None:
        return chosen.ca_pem
    ca_pem = fetch_ca(chosen.url, wanted)
    keep_ca(ca_pem, wanted)
    return ca_pem


def _remember_controller(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    ctx.meta[_CONTROLLER] = value


def _remember_token(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    if value == "-":
        value = sys.stdin.readline()
    elif value.startswith(_HANDED_OVER) and value[len(_HANDED_OVER) :].isdigit():
        value = _take_over(int(value[len(_HANDED_OVER) :]))
    else:
        _start_again_without(value)
    if not value.strip():
        raise InvalidRequest("the token given is empty")
    ctx.meta[_TOKEN] = value.strip()


def _take_over(descriptor: int) -> str:
    try:
        with open(descriptor, encoding="utf-8") as pipe:
            return pipe.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--token {_HANDED_OVER}{descriptor} cannot be read") from error


def _start_again_without(token: str) -> NoReturn:
    """Replaces this process by the same command with the token in a pipe."""
    reading, writing = os.pipe()
    os.write(writing, token.encode())  # far below a pipe's 64 KiB: cannot block
    os.close(writing)
    os.set_inheritable(reading, True)
    arguments = without_token(sys.orig_argv, token, f"{_HANDED_OVER}{reading}")
    os.execv(sys.executable, arguments)


def without_token(arguments: list[str], token: str, replacement: str) -> list[str]:
    """The arguments with the first `--token VALUE` or `--token=VALUE` changed to the replacement.

    Only the first: a job's own command may well have such an option, and options of gpuq come before it.
    """
    for at, word in enumerate(arguments):
        if word == f"--token={token}":
            return [*arguments[:at], f"--token={replacement}", *arguments[at + 1 :]]
        if word == "--token" and arguments[at + 1 : at + 2] == [token]:
            return [*arguments[: at + 1], replacement, *arguments[at + 2 :]]
    raise InvalidRequest("give the token as --token TOKEN")
