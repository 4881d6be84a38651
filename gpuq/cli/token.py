"""gpuq token: what people, nodes and new machines prove themselves by."""

from __future__ import annotations

import sys
from typing import Any

import click

from gpuq.cli.command import group
from gpuq.cli.connect import connect, connection
from gpuq.cli.params import DURATION, JSON, examples
from gpuq.cli.table import table
from gpuq.cli.terminal import local_time, note, say, say_json, stdout_width, visible

HEADER = ("ID", "ROLE", "OF", "STATE", "CREATED", "EXPIRES")
_LOCAL = ("https://127.", "https://localhost", "https://[::1]")


@group(no_args_is_help=False)
def token() -> None:
    """Make, list and revoke tokens. Making takes an administrator; everyone may list and revoke their own."""


@token.command(
    epilog=examples("gpuq token create --role join", "gpuq token create --user ann --expires 90d | ssh ann@laptop ...")
)
@click.option(
    "--role",
    type=click.Choice(["viewer", "user", "admin", "node", "join"]),
    help="viewer, user, admin: of a person, at most and by default the user's own. join: for machines that become"
    " nodes, for an hour. node: another for a node that lost its own.",
)
@click.option("--user", metavar="USER", help="Whose it is to be; default: yours.")
@click.option("--node", metavar="NODE", help="With --role node: which node's.")
@click.option("--expires", metavar="TIME", type=DURATION, help="When it ends, such as 30d; default: never.")
@JSON
@connection
def create(role: str | None, user: str | None, node: str | None, expires: int | None, as_json: bool) -> None:
    """Make a token. Its text is shown now and never again; the controller keeps only a hash of it.

    On a terminal it comes with the line to use it in, else it is printed alone.
    """
    body = {"role": role, "user": user, "node": node, "expires_seconds": expires}
    made = connect().post("/tokens", {name: value for name, value in body.items() if value is not None})
    if as_json:
        say_json(made)
    elif sys.stdout.isatty():
        say(how_to_use(made))
    else:
        say(made["token"])
    if made["role"] == "join" and made["url"].startswith(_LOCAL):
        note("this controller answers on its own machine only; for others: gpuq up --listen 0.0.0.0:7443")


def how_to_use(made: dict[str, Any]) -> str:
    """A new token with the line it is for. By way of echo, which is part of the shell, it is in no process list."""
    url, text = made["url"], made["token"]
    until = "" if made["expires_at"] is None else f", good until {local_time(made['expires_at'])}"
    if made["role"] in ("join", "node"):
        named = f" --name {made['node']}" if made["node"] else ""
        use = f"echo {text} | ./gpuq.pyz agent --controller {url}{named} --token -"
        said = "On the new machine, beside gpuq.pyz" if made["role"] == "join" else f"On {made['node']}"
        return f"{said} (token {made['id']}{until}):\n\n  {use}\n"
    return (
        f"For {visible(made['user'])} (role {made['role']}, token {made['id']}{until}):\n\n"
        f"  gpuq login {url}\n\nwhich asks for\n\n  {text}\n"
    )


@token.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Those that were revoked or have expired too.")
@JSON
@connection
def list_tokens(everything: bool, as_json: bool) -> None:
    """List tokens, oldest first. An administrator sees everyone's, others their own."""
    items = connect().get("/tokens", {"all": everything})["items"]
    if as_json:
        say_json({"items": items, "next": None})
        return
    say(table(HEADER, [_cells(item) for item in items], stdout_width(), cut="OF"))


def _cells(item: dict[str, Any]) -> tuple[str, ...]:
    return (
        item["id"],
        item["role"],
        visible(f"node {item['node']}" if item["node"] else item["user"]),
        item["state"],
        local_time(item["created_at"]),
        local_time(item["expires_at"]),
    )


@token.command(epilog=examples("gpuq token revoke 3f2a9c01d4e5"))
@click.argument("id")
@JSON
@connection
def revoke(id: str, as_json: bool) -> None:
    """Revoke the token of this ID. Nobody gets in with it any more, from that moment on."""
    done = connect().post(f"/tokens/{id}/revoke", {})
    if as_json:
        say_json(done)
    else:
        say(f"token {visible(id)} is revoked")
