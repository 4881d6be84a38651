"""gpuq config: the cluster's settings as one TOML document, shown, compared and changed."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, BinaryIO

import click

from gpuq.cli.command import group
from gpuq.cli.connect import connect, connection
from gpuq.cli.params import JSON, examples
from gpuq.cli.terminal import note, say, say_json, visible
from gpuq.config import parse_toml
from gpuq.document import BadSettings, read, render
from gpuq.errors import InvalidRequest
from gpuq.units import plural

_FILE = click.argument("file", type=click.File("rb"))


@group(no_args_is_help=False)
def config() -> None:
    """Show and change the cluster's settings: visibility, queues, quotas and times.

    Everyone sees them; changing them takes an administrator.
    """


@config.command(epilog=examples("gpuq config show > cluster.toml", "gpuq config show --json"))
@JSON
@connection
def show(as_json: bool) -> None:
    """Print the settings as TOML, with what each means and its default: change that, and apply it."""
    shown = connect().get("/settings")
    if as_json:
        say_json(shown)
        return
    settings, version = read(shown["settings"])
    say(render(replace(settings, version=version or 0)).rstrip())


@config.command(epilog=examples("gpuq config diff cluster.toml"))
@_FILE
@JSON
@connection
def diff(file: BinaryIO, as_json: bool) -> None:
    """Say what applying FILE would change. FILE may be - for standard input."""
    document = _document(file)
    version = document.pop("version", None)
    proposal = connect().post("/settings", {"settings": document}, {"dry_run": True})
    if as_json:
        say_json(proposal)
    else:
        _say_changes(proposal)
    now = proposal["from_version"]
    if version not in (None, now) and proposal["changes"]:
        note(f"{file.name} is of version {version}, the settings are at {now}: `gpuq config apply` would refuse it")


@config.command(name="apply", epilog=examples("gpuq config apply cluster.toml"))
@_FILE
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@connection
def apply(file: BinaryIO, yes: bool, as_json: bool) -> int:
    """Put what FILE says in the place of the settings, at once. Shows what changes, and asks first on a terminal."""
    document = _document(file)
    client = connect()
    proposal = client.post("/settings", {"settings": document}, {"dry_run": True})
    if not as_json:
        _say_changes(proposal)
    if proposal["changes"]:
        if not yes and not _agreed(as_json):
            say("nothing was changed")
            return 1
        # What was shown is what is applied, or nothing: not what somebody else made of it meanwhile.
        proposal = client.post("/settings", {"settings": {**document, "version": proposal["from_version"]}})
        if not as_json:
            say(f"done: the settings are at version {proposal['version']}")
    if as_json:
        say_json(proposal)
    return 0


def _document(file: BinaryIO) -> dict[str, Any]:
    """What the file says; raises InvalidRequest, after a line for each problem there is."""
    try:
        document = parse_toml(file.read().decode(), file.name)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{file.name} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond what Python takes
        raise InvalidRequest(f"{file.name} cannot be read") from error
    try:
        read(document)
    except BadSettings as error:
        for problem in error.problems:
            note(f"{file.name}: {problem}")
        count = len(error.problems)
        raise InvalidRequest(f"{file.name} has {count} {plural(count, 'problem')}, so nothing was changed") from None
    return document


def _say_changes(proposal: dict[str, Any]) -> None:
    for change in proposal["changes"]:
        say(visible(change["text"]))
    if not proposal["changes"]:
        say(f"nothing to change: the settings are at version {proposal['version']}")
    if proposal["kept_only"]:
        note(f"kept, but this version of gpuq does not act on it yet: {', '.join(proposal['kept_only'])}")


def _agreed(as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise InvalidRequest("nothing was changed, for there is nobody to ask", "say --yes")
    return click.confirm("apply this?")
