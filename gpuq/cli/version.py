"""gpuq version."""

from __future__ import annotations

import json
import platform

import click

from gpuq.version import VERSION
from gpuq.wire import PROTOCOL


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def version(as_json: bool) -> None:
    """Print the version of this gpuq, of the protocol it speaks, and of its Python."""
    python = platform.python_version()
    if as_json:
        click.echo(json.dumps({"version": VERSION, "protocol": PROTOCOL, "python": python}))
    else:
        click.echo(f"gpuq {VERSION} (protocol {PROTOCOL}, Python {python})")
