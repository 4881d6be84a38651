"""gpuq up: one machine becomes a cluster."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gpuq.cli.agent import check_simulated
from gpuq.cli.command import command
from gpuq.cli.controller import ADDRESS
from gpuq.cli.daemons import Daemon, Running, alone, await_ready
from gpuq.cli.joining import enrol, keep, node_name, token_path
from gpuq.cli.params import examples
from gpuq.cli.service import SERVICE, manager_in_charge, manager_or_note, run_as_service
from gpuq.cli.systemd import Systemd
from gpuq.cli.terminal import tell
from gpuq.client.http import Client
from gpuq.config import host_home, read_text, remember_home, running_as, write_private
from gpuq.errors import Conflict, GpuqError, Unavailable, Unreachable

NODE_SECONDS = 60.0  # an agent asks the driver about every GPU first; eight that sleep take a quarter of that
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 1.0
_DEFAULT_LISTEN = "127.0.0.1:0"
_SERVICE_PORT = "7443"


@command(epilog=examples("gpuq up --detach --simulate-gpus 8xH100-80GB"))
@click.option("--simulate-gpus", metavar="SPEC", help="Offer pretend GPUs, such as 8xH100-80GB, instead of real ones.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Where the controller answers; default: this machine only, any port."
)
@ADDRESS
@click.option("--home", metavar="DIR", help="Keep state in DIR, on a local file system. Later commands remember it.")
@click.option("--detach", is_flag=True, help="Return when the cluster is ready.")
@click.option("--shared-account", is_flag=True, help="Run everyone's jobs as your account.")
@SERVICE
def up(
    simulate_gpus: str | None,
    listen: str | None,
    address: str | None,
    home: str | None,
    detach: bool,
    shared_account: bool,
    service: bool,
) -> int:
    """Start the cluster on this machine: a controller and an agent, whichever is not running.

    Daemons of another version of gpuq are replaced; jobs are not touched by that. In the foreground, Ctrl-C stops both
    daemons and a closed terminal leaves them running; jobs go on either way.
    """
    running_as()  # or says why there cannot be a cluster
    home = host_home(home)
    name = node_name()
    check_simulated(simulate_gpus, name)
    with alone(home, lambda: tell("another gpuq up or down is at work here, waiting for it")):
        machine = _Machine(home, name, manager_or_note() if service else None)
        try:
            machine.ensure_controller(listen, address)
            machine.ensure_agent(simulate_gpus, shared_account)
            node = machine.await_node()
        except BaseException as error:
            machine.stop_what_was_started()
            if isinstance(error, KeyboardInterrupt):
                tell("\ninterrupted: what was started is stopped again")
            raise
        remember_home(home)
    tell(summary(machine, node))
    if detach or any(machine.systemd.values()) or not machine.started:
        return 0
    tell("\nCtrl-C stops the controller and the agent; jobs keep running.")
    return _stay(machine)


class _Machine:
    """The two daemons of a home, and which of them this command started."""

    def __init__(self, home: str, name: str, asked: Systemd | None) -> None:
        """asked: what is to run both, by --service."""
        self.home = home
        self.name = name
        self.systemd = {kind: asked or manager_in_charge(kind, home) for kind in ("controller", "agent")}
        self.controller = Daemon(home, "controller")
        self.agent = Daemon(home, "agent")
        self.started: list[Daemon] = []

    @property
    def url(self) -> str:
        return self.controller.url

    def client(self) -> Client:
        """As the administrator whose token the controller left in its home."""
        return local_client(self.home)

    def ensure_controller(self, listen: str | None, address: str | None) -> None:
        found = self._keep_or_replace(self.controller)
        told = [] if address is None else ["--address", address]
        if found:
            if told or (listen and not _same_address(listen, self.url)):
                raise Conflict(
                    f"the controller already runs, at {self.url}", "to move it, first: gpuq down --keep-jobs"
                )
            tell(f"the controller is already running at {self.url} (pid {found.pid})")
            return
        tell("starting the controller")
        if systemd := self.systemd["controller"]:
            unchanged = listen is None and not told and systemd.installed("controller", self.home)
            options = ["--listen", _fixed(self.home, _where_to_listen(self.home, listen)), *told]
            run_as_service(systemd, self.controller, [] if unchanged else options)
            self.started.append(self.controller)
        else:
            self._start_controller(listen, told)
        if listen:
            write_private(f"{self.home}/listen", listen)

    def _start_controller(self, listen: str | None, told: list[str]) -> None:
        reading, writing = os.pipe()
        arguments = [
            "--listen",
            _where_to_listen(self.home, listen),
            *told,
            "--home",
            self.home,
            "--ready-fd",
            str(writing),
        ]
        try:
            process = self.controller.start(arguments, ready=writing)
            self.started.append(self.controller)
        finally:
            os.close(writing)
        try:
            if await_ready(process, reading) is None:
                raise Unavailable(f"the controller ended as it started: {self.controller.last_words()}")
        finally:
            os.close(reading)

    def ensure_agent(self, simulate: str | None, shared_account: bool) -> None:
        told = simulate is not None or shared_account
        before = self.agent.running()
        found = self._keep_or_replace(self.agent)
        if found and simulate is not None and found.facts.get("simulate") != simulate:
            as_it_is = found.facts.get("simulate") or "real GPUs"
            raise Conflict(f"the agent already runs, with {as_it_is}", "to change that, first: gpuq down")
        if found and shared_account and not is_shared(found):
            raise Conflict("the agent already runs, without --shared-account", "to change that, first: gpuq down")
        if found and found.facts.get("url") != self.url:
            tell("the controller has another address now, replacing the agent")
            self.agent.stop(found)
            found = None
        if found:
            self.name = found.facts.get("name", self.name)
            tell(f"the agent is already running (pid {found.pid})")
            return
        if before:  # what replaces it offers the same, to the same people, unless told otherwise
            simulate = simulate or before.facts.get("simulate") or None
            shared_account = shared_account or is_shared(before)
        # Root's own controller may have root's jobs run: whoever commands it is root here anyway. An agent that someone
        # has started without that is not replaced by one that allows more.
        root_jobs = os.geteuid() == 0 and (before is None or before.facts.get("root_jobs", "yes") == "yes")
        token = read_text(token_path(self.home)) or enrol(self.client(), self.home, self.name)
        tell("starting the agent")
        options = ["--simulate-gpus", simulate] if simulate is not None else []
        options += ["--shared-account"] if shared_account else ["--root-jobs"] if root_jobs else []
        if systemd := self.systemd["agent"]:
            keep(self.home, self.name, self.url, token.strip())
            unchanged = not told and systemd.installed("agent", self.home)
            run_as_service(systemd, self.agent, [] if unchanged else options)
            self.started.append(self.agent)
            return
        self._remember_simulated(simulate)
        arguments = ["--controller", self.url, "--token", "-", "--name", self.name, "--home", self.home, *options]
        process = self.agent.start(arguments, secret=token.strip())
        self.started.append(self.agent)
        while self.agent.running() is None:
            if process.poll() is not None:
                raise Unavailable(f"the agent ended as it started: {self.agent.last_words()}")
            time.sleep(_POLL_SECONDS)

    def _remember_simulated(self, simulate: str | None) -> None:
        """Says so where the last agent here had pretend GPUs and this one is to have the real ones."""
        path = f"{self.home}/simulated"
        before = read_text(path)
        if simulate is not None:
            write_private(path, simulate)
        elif before:
            Path(path).unlink()
            tell(
                f"last time this machine simulated {before}, now it offers its real GPUs; "
                f"to simulate again: gpuq down, then gpuq up --simulate-gpus {before}"
            )

    def await_node(self) -> dict[str, Any]:
        """The node, once the controller has heard its agent."""
        client = self.client()
        deadline = time.monotonic() + NODE_SECONDS
        while True:
            node: dict[str, Any] = client.get(f"/nodes/{self.name}")
            if node["state"] == "up":
                return node
            if self.agent.running() is None:
                raise Unavailable(f"the agent ended: {self.agent.last_words()}")
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"the node {self.name} is not up after {NODE_SECONDS:.0f} s: {self.agent.last_words()}",
                    f"see {self.agent.log}",
                )
            time.sleep(_POLL_SECONDS)

    def stop_what_was_started(self) -> None:
        for daemon in reversed(self.started):
            running = daemon.running()
            if running:
                daemon.stop(running)

    def _keep_or_replace(self, daemon: Daemon) -> Running | None:
        """The daemon that runs and may stay; one of another gpuq is stopped first (by systemd, when that starts it)."""
        found = daemon.running()
        if found is None:
            return None
        systemd = self.systemd[daemon.kind]
        if found.is_this_gpuq and (systemd is None or systemd.main_pid(daemon.kind) == found.pid):
            return found
        if not found.is_this_gpuq:
            tell(f"replacing the {daemon.kind} of gpuq {found.version} (pid {found.pid}); jobs are not touched")
        if systemd is None:
            daemon.stop(found)
        return None


def local_client(home: str) -> Client:
    directory = Path(home) / "controller"
    token, ca_pem, description = (
        read_text(str(directory / name)) for name in ("admin.token", "ca.pem", "controller.json")
    )
    if not (token and ca_pem and description):
        raise Unreachable(f"the controller in {directory} has left no address and token", "start it with gpuq up")
    return Client(str(json.loads(description)["url"]), token.strip(), ca_pem)


def is_shared(agent: Running) -> bool:
    return agent.facts.get("shared_account") == "yes"


def trust_note(agent: Running | None) -> str:
    """Whose jobs may run here, and as whom."""
    account = running_as()
    if agent is not None and is_shared(agent):
        return f"--shared-account: everyone who may submit runs jobs as {account}, and can do what {account} can"
    if os.geteuid() == 0:
        of_root = "root's as root" if agent is not None and agent.facts.get("root_jobs") == "yes" else "none as root"
        return f"each job runs in the account of its user, {of_root}"
    return f"only jobs of {account} run here (gpuq up --shared-account runs everyone's, as {account})"


def gpu_text(node: Mapping[str, Any]) -> str:
    """'8 x NVIDIA H100 80GB HBM3 (simulated)', or that there are none."""
    names = [gpu["name"] for gpu in node["gpus"]]
    if not names:
        return "no GPUs (jobs that ask for none can run)"
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return f"{kinds} (simulated)" if node["simulated"] else kinds


def summary(machine: _Machine, node: Mapping[str, Any]) -> str:
    agent = machine.agent.running()
    gpus = "-G 1 " if node["gpus"] else ""
    try_it = "nvidia-smi" if node["gpus"] and not node["simulated"] else "hostname"
    return "\n".join(
        (
            "",
            f"controller  {machine.url}",
            f"node        {node['name']}: {gpu_text(node)}",
            f"trust       {trust_note(agent)}",
            "",
            "next:",
            f"  {f'gpuq run {gpus}{try_it}':<26}run something and see its output",
            f"  {'gpuq queue':<26}what waits and runs",
            f"  {'gpuq nodes':<26}the machine and its GPUs",
        )
    )


def _where_to_listen(home: str, given: str | None) -> str:
    """As given, else as given last time, else on this machine only. (To port 0 it prefers the port it had last.)"""
    return given or read_text(f"{home}/listen") or _DEFAULT_LISTEN


def _fixed(home: str, listen: str) -> str:
    """The same with a port that stays: a service whose port is taken waits for it, and its agents would not find it."""
    host, _, port = listen.rpartition(":")
    kept = (read_text(f"{home}/controller/port") or _SERVICE_PORT).strip()
    return f"{host}:{kept if port == '0' else port}"


def _same_address(listen: str, url: str) -> bool:
    """Whether a controller at `url` is where `listen` wants it; port 0 and a wildcard host match anything."""
    host, _, port = listen.rpartition(":")
    at_host, _, at_port = url.removeprefix("https://").rpartition(":")
    return port in ("0", at_port) and host in ("0.0.0.0", "[::]", "", at_host)


def _stay(machine: _Machine) -> int:
    """Waits for a signal in the foreground. SIGINT, SIGTERM: stop both. SIGHUP: leave them."""
    watched = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    while True:
        caught = signal.sigtimedwait(watched, _LOOK_SECONDS)
        if caught is None:
            for daemon in (machine.controller, machine.agent):
                if daemon.running() is None:
                    raise Unavailable(f"the {daemon.kind} ended: {daemon.last_words()}", "gpuq up starts it again")
        elif caught.si_signo == signal.SIGHUP:
            return 0
        else:
            tell("\nstopping; jobs keep running, gpuq up finds them again")
            stop_both(machine.controller, machine.agent)
            return 0


def stop_both(controller: Daemon, agent: Daemon) -> None:
    """The agent first: its last report still reaches the controller. Raises only after both were tried."""
    trouble: GpuqError | None = None
    for daemon in (agent, controller):
        running = daemon.running()
        try:
            if running and not daemon.stop(running):
                tell(f"the {daemon.kind} (pid {running.pid}) did not end when asked and was killed")
        except GpuqError as error:
            trouble = error
    if trouble:
        raise trouble
