"""--controller, --context and --token on a command, and the client they lead to.

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
from gpuq.client.tls import fingerprint_in, is_certificate
from gpuq.config import Context, keep_ca, resolve
from gpuq.errors import InvalidRequest

F = TypeVar("F", bound=Callable[..., Any])

_CONTROLLER, _CONTEXT, _TOKEN = "gpuq.controller", "gpuq.context", "gpuq.token"
_HANDED_OVER = "fd:"  # no token looks like this: they begin with gpuq_


def connection(command: F) -> F:
    """Gives a verb --controller, --context and --token; its callback does not see them, `connect` does."""
    command = token_option(command)
    command = click.option(
        "--context",
        metavar="NAME",
        help="Use this one of those that `gpuq login` lists. Default: $GPUQ_CONTEXT.",
        callback=_remembered_as(_CONTEXT),
        expose_value=False,
    )(command)
    return click.option(
        "--controller",
        metavar="URL",
        help="Controller to talk to. Default: $GPUQ_URL, the context in config.toml, the local one.",
        callback=_remembered_as(_CONTROLLER),
        expose_value=False,
    )(command)


def token_option(command: F) -> F:
    """Gives a verb --token, which `given_token` then has."""
    return click.option(
        "--token",
        metavar="TOKEN",
        help="Who to be: a token, or - to read it from standard input. Default: $GPUQ_TOKEN.",
        callback=_remember_token,
        expose_value=False,
    )(command)


def connect() -> Client:
    """A client for the controller that this command means; raises as config.resolve does, or Unreachable."""
    client = client_for(context())
    click.get_current_context().call_on_close(client.close)
    return client


def client_for(chosen: Context) -> Client:
    return Client(chosen.url, chosen.token, trusted_ca(chosen))


def context(token: str | None = None) -> Context:
    """Where this command is to talk to, by its options and the environment; as `token`, if that is given."""
    given = click.get_current_context().meta
    url, name = given.get(_CONTROLLER), given.get(_CONTEXT)
    if url is not None and name is not None:
        raise InvalidRequest("--controller and --context exclude each other")
    return resolve(url, token or given.get(_TOKEN), context=name)


def given_controller() -> str | None:
    value: str | None = click.get_current_context().meta.get(_CONTROLLER)
    return value


def given_token() -> str | None:
    value: str | None = click.get_current_context().meta.get(_TOKEN)
    return value


def trusted_ca(chosen: Context) -> str:
    """The CA (PEM) that a context's token names: as kept here, else fetched, compared, and kept."""
    wanted = fingerprint_in(chosen.token)
    if chosen.ca_pem is not None and is_certificate(chosen.ca_pem, wanted):
        return chosen.ca_pem
    ca_pem = fetch_ca(chosen.url, wanted)
    keep_ca(ca_pem, wanted)
    return ca_pem


def _remembered_as(key: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def remember(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:  # of `gpuq nodes` and `remove` behind it, the one that has it counts
            ctx.meta[key] = value

    return remember


def _remember_token(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    if value == "-":
        value = read_token()
    elif value.startswith(_HANDED_OVER) and value[len(_HANDED_OVER) :].isdigit():
        value = _take_over(int(value[len(_HANDED_OVER) :]))
    else:
        _start_again_without(value)
    if not value.strip():
        raise InvalidRequest("the token given is empty")
    ctx.meta[_TOKEN] = value.strip()


def read_token() -> str:
    """A token from standard input; asked for, and not shown as it is typed or pasted, if that is a terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    import getpass

    return getpass.getpass("token: ")


def _take_over(descriptor: int) -> str:
    try:
        with open(descriptor, encoding="utf-8") as pipe:
            return pipe.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--token {_HANDED_OVER}{descriptor} cannot be read") from error


def _start_again_without(token: str) -> NoReturn:
    """Replaces this process by the same command with the token in a pipe; raises NotAuthenticated if it is none."""
    without_token(sys.orig_argv, token, "")  # raises where it came from elsewhere, such as a line of a script
    fingerprint_in(token)
    reading, writing = os.pipe()
    os.write(writing, token.encode())  # a token is far below a pipe's 64 KiB: cannot block
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
