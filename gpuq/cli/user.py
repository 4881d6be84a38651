"""gpuq user: who may have tokens, and how much these may do."""

from __future__ import annotations

from typing import Any

import click

from gpuq.cli.command import group
from gpuq.cli.connect import connect, connection
from gpuq.cli.params import JSON, examples
from gpuq.cli.table import table
from gpuq.cli.terminal import local_time, say, say_json, stdout_width, visible

HEADER = ("USER", "ROLE", "STATE", "SINCE")
_NAME = click.argument("name")
_ROLE = click.Choice(["viewer", "user", "admin"])


@group(no_args_is_help=False)
def user() -> None:
    """Add, list and disable users. All of it takes an administrator."""


@user.command(epilog=examples("gpuq user add ann", "gpuq token create --user ann"))
@_NAME
@click.option("--role", type=_ROLE, default="user", show_default=True, help="The most that a token of theirs may do.")
@JSON
@connection
def add(name: str, role: str, as_json: bool) -> None:
    """Add a user, who then may be given tokens. Jobs run under this name, so it had better be that of an account."""
    added = connect().post("/users", {"name": name, "role": role})
    _say(
        added,
        f"user {visible(name)} has role {role}; to let them in: gpuq token create --user {visible(name)}",
        as_json,
    )


@user.command(name="list")
@JSON
@connection
def list_users(as_json: bool) -> None:
    """List users, disabled ones too."""
    items = connect().get("/users")["items"]
    if as_json:
        say_json({"items": items, "next": None})
        return
    say(table(HEADER, [_cells(item) for item in items], stdout_width(), cut="USER"))


def _cells(item: dict[str, Any]) -> tuple[str, ...]:
    disabled = item["disabled_at"] is not None
    since = local_time(item["disabled_at"] if disabled else item["created_at"])
    return visible(item["name"]), item["role"], "disabled" if disabled else "enabled", since


@user.command(name="role", epilog=examples("gpuq user role ann admin"))
@_NAME
@click.argument("role", type=_ROLE)
@JSON
@connection
def set_role(name: str, role: str, as_json: bool) -> None:
    """Change the most a user may do, at once also with tokens there are."""
    changed = connect().post(f"/users/{name}/role", {"role": role})
    _say(changed, f"user {visible(name)} has role {role}", as_json)


@user.command(epilog=examples("gpuq user disable ann --give-jobs-to bob"))
@_NAME
@click.option("--cancel-jobs", is_flag=True, help="Cancel their jobs that have not ended.")
@click.option("--give-jobs-to", metavar="USER", help="Make these USER's instead, with logs and environments.")
@JSON
@connection
def disable(name: str, cancel_jobs: bool, give_jobs_to: str | None, as_json: bool) -> None:
    """Revoke a user's tokens. With jobs that have not ended, say what becomes of them; history stays."""
    if cancel_jobs and give_jobs_to is not None:
        raise click.UsageError("--cancel-jobs and --give-jobs-to exclude each other")
    leaving = {"cancel_jobs": cancel_jobs, "give_jobs_to": give_jobs_to}
    disabled = connect().post(f"/users/{name}/disable", leaving)
    _say(disabled, f"user {visible(name)} is disabled, and their tokens are revoked", as_json)


@user.command()
@_NAME
@JSON
@connection
def enable(name: str, as_json: bool) -> None:
    """Let a disabled user have tokens again. Those that were revoked stay so."""
    enabled = connect().post(f"/users/{name}/enable", {})
    hint = f"to let them in: gpuq token create --user {visible(name)}"
    _say(enabled, f"user {visible(name)} is enabled; {hint}", as_json)


def _say(document: dict[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        say_json(document)
    else:
        say(line)
