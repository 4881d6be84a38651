"""gpuq agent: this machine's part in a cluster, in the foreground. It is the only file here that knows the agent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from gpuq.cli.connect import client_for, connection, given_controller, given_token, trusted_ca
from gpuq.cli.daemons import log_to_stderr, registered
from gpuq.client.http import Client
from gpuq.config import Context, host_home, kept_ca, read_text, resolve, write_private
from gpuq.errors import Conflict, NotAuthenticated, NotAuthorised


@click.command()
@connection
@click.option("--name", metavar="NAME", help="Name of this node in the cluster; default: the host's.")
@click.option("--gpus", metavar="LIST", help="Offer only these GPUs, such as 1-3 or 0,2.")
@click.option("--home", metavar="DIR", help="Keep its state in DIR/agent, on a local file system.")
@click.option("--simulate-gpus", metavar="SPEC", help="Offer pretend GPUs, such as 8xH100-80GB.")
@click.option("--shared-account", is_flag=True, help="Without root: run everyone's jobs as this account.")
def agent(name: str | None, gpus: str | None, home: str | None, simulate_gpus: str | None, shared_account: bool) -> int:
    """Run this machine's agent in the foreground, until SIGTERM or Ctrl-C; its jobs go on without it.

    --token is the node's own, as enrolling the node gave it, or an administrator's, with which the agent enrols the
    node by itself. Either way only the node's token is kept, in DIR/agent, and need not be given again.
    """
    import asyncio

    home = host_home(home)
    name = name or node_name()
    check_simulated(simulate_gpus, name)
    url, token = _identity(home, name)
    ca_pem = trusted_ca(Context(url, token, kept_ca(token), ""))
    log_to_stderr()
    shared = "yes" if shared_account else "no"
    facts = {"name": name, "url": url, "simulate": simulate_gpus or "", "shared_account": shared}
    with registered(home, "agent", facts):
        write_private(token_path(home), token)
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
        )
        return asyncio.run(run_agent(settings))


def node_name() -> str:
    """The host's name, as a node may be called."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return kept.strip("._-")[:128] or "node"


def token_path(home: str) -> str:
    return f"{home}/agent/node.token"


def check_simulated(spec: str | None, name: str) -> None:
    """Raises InvalidRequest if the agent could not read `spec`: before anything is started with it."""
    if spec is not None:
        from agent.simulated import parse_simulated
        from gpuq.model import NodeName

        parse_simulated(spec, NodeName(name))


def enrol(client: Client, home: str, name: str) -> str:
    """The token of a node newly made in the cluster; raises Conflict if there is one of that name.

    The request's id is on disk before it is sent: interrupted anywhere, the next try gets the same node's token.
    """
    pending = f"{home}/agent/enrol.id"
    request_id = read_text(pending) or os.urandom(16).hex()
    write_private(pending, request_id)
    try:
        answer = client.post("/nodes", {"name": name}, request_id=request_id)
    except Conflict as error:
        Path(pending).unlink()
        raise Conflict(
            f"the cluster has a node {name} already, and its token is not in {token_path(home)}",
            "bring that file back, or use another name or --home",
        ) from error
    write_private(token_path(home), answer["token"])
    Path(pending).unlink()
    return str(answer["token"])


def _identity(home: str, name: str) -> tuple[str, str]:
    """The controller's address and this node's token."""
    kept = read_text(token_path(home))
    given = given_token() or os.environ.get("GPUQ_TOKEN") or kept
    if given is None:
        raise NotAuthenticated("no token for this node", "give --token - and the node's or an administrator's token")
    chosen = resolve(given_controller(), given)
    role = chosen.token.split("_")[1:2]
    if role == ["node"]:
        return chosen.url, chosen.token
    if role == ["admin"]:
        return chosen.url, enrol(client_for(chosen), home, name)
    raise NotAuthorised("an agent needs its node's token, or an administrator's to enrol the node")
