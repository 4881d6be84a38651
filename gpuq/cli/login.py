"""gpuq login: which clusters this account knows, and who it is there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import client_for, given_token, read_token, token_option
from gpuq.cli.contexts import chosen, save, with_context
from gpuq.cli.params import JSON, examples
from gpuq.cli.table import table
from gpuq.cli.terminal import note, say, say_json, stdout_width, visible
from gpuq.client.connection import parse_url
from gpuq.config import Context, Settings, kept_ca, settings, write_private
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised

HEADER = ("", "CONTEXT", "CONTROLLER")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@command(epilog=examples("gpuq login https://gpu-head:7443", "gpuq login --use gpu-head", "gpuq login"))
@click.argument("url", required=False)
@click.option("--context", metavar="NAME", help="What to call it here; default: the host's name in URL.")
@click.option("--use", metavar="NAME", help="Go over to a context that is there already.")
@token_option
@JSON
def login(url: str | None, context: str | None, use: str | None, as_json: bool) -> None:
    """Log in to the cluster whose controller is at URL. Without URL, list the clusters logged in to.

    The token an administrator gave you is asked for, or read from standard input. It is sent to the controller it was
    made for and to no other, and kept beside config.toml, which then has a context more.
    """
    if url is not None and use is not None:
        raise click.UsageError("URL and --use exclude each other")
    before = settings()
    if url is not None:
        _log_in(url, context, before, as_json)
    elif context is not None or given_token() is not None:
        raise click.UsageError("--context and --token go with a URL")
    elif use is not None:
        _use(use, before, as_json)
    else:
        _list(before, as_json)


def _log_in(url: str, name: str | None, before: Settings, as_json: bool) -> None:
    address = parse_url(url)
    if name is None:
        name = _called(address.host)
        other = before.contexts.get(name, {}).get("url", address.url)
        if parse_url(other) != address:
            raise Conflict(
                f"there is a context {name} already, for {other}",
                "give --context NAME, with another name or, if the controller has moved, with this one",
            )
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"'{name}' cannot name a context", "use letters, digits, '_' and '-'")
    token = (given_token() or os.environ.get("GPUQ_TOKEN") or read_token()).strip()
    if token.split("_")[1:2] in (["join"], ["node"]):
        raise NotAuthorised("this is a machine's token, not a person's", "it is for gpuq agent --token -")
    client = client_for(Context(address.url, token, kept_ca(token), ""))
    who = client.get("/whoami")
    client.close()
    entry = {"url": address.url, "token_file": f"{name}.token"}
    text = with_context(before, name, entry)
    # The token first: a context without one would make every command fail.
    write_private(str(Path(before.path).with_name(f"{name}.token")), f"{token}\n")
    save(text, before)
    if as_json:
        say_json({"context": name, **entry, **who})
    else:
        say(f"logged in to {address.url} as {visible(who['user'])} (role {who['role']}); context {name} is in use")
    if os.environ.get("GPUQ_URL") or os.environ.get("GPUQ_CONTEXT"):
        note("GPUQ_URL and GPUQ_CONTEXT go before config.toml, and one is set in this shell")


def _called(host: str) -> str:
    """A context's name for a host: the first part of its name, or all of an address."""
    part = host if host.replace(".", "").isdigit() or ":" in host else host.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]", "-", part).strip("-")


def _use(name: str, before: Settings, as_json: bool) -> None:
    if name not in before.contexts:
        known = ", ".join(sorted(before.contexts)) or "none"
        raise InvalidRequest(f"there is no context {name} in {before.path}", f"known: {known}")
    save(chosen(before, name), before)
    if as_json:
        say_json({"context": name})
    else:
        say(f"context {name} is in use")


def _list(before: Settings, as_json: bool) -> None:
    used = os.environ.get("GPUQ_CONTEXT") or before.context
    items: list[dict[str, Any]] = [
        {"context": name, "url": entry.get("url"), "used": name == used}
        for name, entry in sorted(before.contexts.items())
    ]
    if as_json:
        say_json({"items": items, "next": None})
        return
    if not items:
        note("logged in nowhere; gpuq login URL does that")
        return
    rows = [("*" if item["used"] else "", visible(item["context"]), visible(str(item["url"]))) for item in items]
    say(table(HEADER, rows, stdout_width(), cut="CONTEXT"))
