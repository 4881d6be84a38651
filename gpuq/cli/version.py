"""gpuq version."""

from __future__ import annotations

import json
import platform
import sys

import click

from gpuq.cli.command import command
from gpuq.version import VERSION
from gpuq.wire import PROTOCOL


@command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def version(as_json: bool) -> None:
    """Print the version of this gpuq, of the protocol it speaks, and of its Python; and what the file runs on."""
    python = platform.python_version()
    bootstrap = sys.modules.get("gpuq_bootstrap")
    if as_json:
        build, targets = (bootstrap.BUILD_ID, list(bootstrap.TARGETS)) if bootstrap else ("source", [])
        own = {"version": VERSION, "protocol": PROTOCOL, "python": python}
        click.echo(json.dumps({**own, "build": build, "targets": targets}))
        return
    click.echo(f"gpuq {VERSION} (protocol {PROTOCOL}, Python {python})")
    click.echo(f"runs on {bootstrap.where()}" if bootstrap else "runs from a source checkout")
