"""gpuq controller: the cluster's head, in the foreground."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gpuq.cli.command import command
from gpuq.cli.daemons import Daemon, log_to_stderr, registered
from gpuq.cli.service import SERVICE, given_options, manager_or_note, run_as_service
from gpuq.cli.systemd import tell_ready
from gpuq.cli.terminal import tell
from gpuq.config import host_home

ADDRESS = click.option(
    "--address",
    metavar="HOST[:PORT]",
    help="Where others reach it, if not by this host's name: told to those who join, and kept; '' forgets it.",
)


@command()
@click.option("--listen", default="0.0.0.0:7443", metavar="HOST:PORT", show_default=True, help="Where to answer.")
@ADDRESS
@click.option("--home", metavar="DIR", help="Keep its state in DIR/controller, on a local file system.")
@SERVICE
@click.option("--ready-fd", type=int, hidden=True)  # `up` waits at the other end of this pipe
def controller(listen: str, address: str | None, home: str | None, service: bool, ready_fd: int | None) -> int:
    """Run a controller in the foreground, until SIGTERM or Ctrl-C.

    Its address, its CA and an administrator's token are in DIR/controller: commands given on this machine find them.
    """
    home = host_home(home)
    if service and (systemd := manager_or_note()):
        daemon = Daemon(home, "controller")
        run_as_service(systemd, daemon, given_options("home", "ready_fd"))
        tell(f"controller at {daemon.url}, from boot on; its log: {systemd.journal('controller')}")
        return 0
    import asyncio

    from gpuq.api.serve import serve

    def on_ready(url: str) -> None:
        tell_ready()
        if ready_fd is None:
            click.echo(f"controller at {url}")
        else:
            os.write(ready_fd, f"{url}\n".encode())
            os.close(ready_fd)

    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)
    log_to_stderr()
    with registered(home, "controller", {}):
        return asyncio.run(serve(Path(home) / "controller", listen, on_ready, address))
