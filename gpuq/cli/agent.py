"""gpuq agent: this machine's part in a cluster, in the foreground. It is the only file here that knows the agent."""

from __future__ import annotations

from pathlib import Path

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connection
from gpuq.cli.daemons import Daemon, log_to_stderr, registered
from gpuq.cli.joining import identity
from gpuq.cli.service import SERVICE, given_options, manager_or_note, run_as_service
from gpuq.cli.terminal import tell
from gpuq.config import host_home


@command()
@connection
@click.option("--name", metavar="NAME", help="Name of this node in the cluster; default: the host's.")
@click.option("--gpus", metavar="LIST", help="Offer only these GPUs, such as 1-3 or 0,2.")
@click.option("--home", metavar="DIR", help="Keep its state in DIR/agent, on a local file system.")
@click.option("--simulate-gpus", metavar="SPEC", help="Offer pretend GPUs, such as 8xH100-80GB.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="K[=V]",
    help="An attribute for -C to ask for, such as nvlink or rack=7.",
)
@click.option("--shared-account", is_flag=True, help="Run everyone's jobs as this account.")
@click.option("--root-jobs", is_flag=True, help="As root: run root's own jobs too, as root.")
@SERVICE
def agent(
    name: str | None,
    gpus: str | None,
    home: str | None,
    simulate_gpus: str | None,
    labels: tuple[str, ...],
    shared_account: bool,
    root_jobs: bool,
    service: bool,
) -> int:
    """Run this machine's agent in the foreground, until SIGTERM or Ctrl-C; its jobs go on without it.

    The first time, --controller and --token say which cluster it joins: a join token makes a new node of it. From then
    on its own token, its name and the controller's address are kept in DIR/agent and need not be given again;
    --controller alone says that the controller has moved.
    """
    import asyncio

    from gpuq.constraint import label

    attributes = dict(map(label, labels))
    home = host_home(home)
    check_simulated(simulate_gpus, name or "node")
    name, url, token, ca_pem = identity(home, name)
    if service and (systemd := manager_or_note()):
        run_as_service(systemd, Daemon(home, "agent"), given_options("name", "home"))  # who it is was just kept
        tell(f"the agent {name} runs, from boot on; its log: {systemd.journal('agent')}")
        return 0
    log_to_stderr()
    facts = {
        "name": name,
        "url": url,
        "simulate": simulate_gpus or "",
        "shared_account": "yes" if shared_account else "no",
        "root_jobs": "yes" if root_jobs else "no",
    }
    with registered(home, "agent", facts):
        from agent.daemon import AgentSettings, run_agent

        settings = AgentSettings(
            name=name,
            controller_url=url,
            token=token,
            ca_pem=ca_pem,
            state_dir=Path(home) / "agent",
            gpus=gpus,
            simulate=simulate_gpus,
            shared_account=shared_account,
            root_jobs=root_jobs,
            labels=attributes,
        )
        return asyncio.run(run_agent(settings))


def check_simulated(spec: str | None, name: str) -> None:
    """Raises InvalidRequest if the agent could not read `spec`: before anything is started with it."""
    if spec is not None:
        from agent.simulated import parse_simulated
        from gpuq.model import NodeName

        parse_simulated(spec, NodeName(name))
