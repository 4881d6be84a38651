"""gpuq controller: the cluster's head, in the foreground."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gpuq.cli.daemons import log_to_stderr, registered
from gpuq.config import host_home


@click.command()
@click.option("--listen", default="0.0.0.0:7443", metavar="HOST:PORT", show_default=True, help="Where to answer.")
@click.option("--home", metavar="DIR", help="Keep its state in DIR/controller, on a local file system.")
@click.option("--ready-fd", type=int, hidden=True)  # `up` waits at the other end of this pipe
def controller(listen: str, home: str | None, ready_fd: int | None) -> int:
    """Run a controller in the foreground, until SIGTERM or Ctrl-C.

    Its address, its CA and an administrator's token are in DIR/controller: commands given on this machine find them.
    """
    import asyncio

    from gpuq.api.serve import serve

    def on_ready(url: str) -> None:
        if ready_fd is None:
            click.echo(f"controller at {url}")
        else:
            os.write(ready_fd, f"{url}\n".encode())
            os.close(ready_fd)

    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)
    home = host_home(home)
    log_to_stderr()
    with registered(home, "controller", {}):
        return asyncio.run(serve(Path(home) / "controller", listen, on_ready))
