"""A lab: hosts on switches, made for one scenario and gone after it; and gpuq on them, as a person uses it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.lab.host import Cable, Host, HostError, Machine
from tests.lab.network import Switch

PATIENCE_SECONDS = 60.0  # for what takes seconds at most
_POLL_SECONDS = 0.2
NETWORK = "10.77.0"
BEHIND_ROUTER = "192.168.77"


class Lab:
    """Hosts h1, h2, ... at 10.77.0.11, .12, ... on one switch; more switches and hosts where a scenario has them."""

    def __init__(self, pyz: Path, machine: Machine, versions: Sequence[str]) -> None:
        """versions: the Pythons in machine.pythons that hosts are given in turn; without, all have the system's."""
        self.pyz = pyz
        self.machine = machine
        self.versions = list(versions) or [""]
        self.names: dict[str, str] = {}
        self.hosts: list[Host] = []
        self._ends = ExitStack()

    def __enter__(self) -> Lab:
        self.main = self.switch("lab0")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def switch(self, name: str) -> Switch:
        made = Switch(name)
        self._ends.callback(made.remove)
        return made

    def three_hosts(self, shared_home: Path | None = None) -> list[Gpuq]:
        """h1, h2 and h3, started and bare but for an account of alice's, each with another Python."""
        for number in range(3):
            self.host(f"h{number + 1}", [Cable(self.main, f"{NETWORK}.{number + 11}")], shared_home=shared_home)
        for host in self.hosts:
            host.boot()
            host.add_user("alice")
        return [Gpuq(host, "alice", self.pyz) for host in self.hosts]

    def host(self, name: str, cables: Sequence[Cable], gateway: str = "", shared_home: Path | None = None) -> Host:
        """A host that is off. All hosts know each other by name."""
        self.names[name] = cables[0].address
        python = self.versions[len(self.hosts) % len(self.versions)]
        made = Host(self.machine, name, cables, python, gateway, shared_home, self.names)
        self.hosts.append(made)
        self._ends.callback(made.scrap)
        return made


class Gpuq(NamedTuple):
    """gpuq in the home of an account of a host."""

    host: Host
    user: str
    pyz: Path

    @property
    def home(self) -> str:
        return "/root" if self.user == "root" else f"/home/{self.user}"

    @property
    def state(self) -> str:
        """Where this host's daemons keep what they know."""
        return f"{self.home}/.local/state/gpuq/hosts/{self.host.read('/etc/machine-id').strip()}"

    def copy(self) -> None:
        self.host.copy_in(self.pyz, f"{self.home}/gpuq.pyz", self.user)

    def __call__(self, *words: str, stdin: str = "") -> str:
        """What a command printed; raises HostError if it failed."""
        return self.host.run("./gpuq.pyz", *words, user=self.user, stdin=stdin)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def read(self, path: str) -> str:
        return self.host.read(path, self.user)

    def shell(self, line: str) -> str:
        return self.host.run("bash", "-c", line, user=self.user)

    def job(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("show", id)
        return found

    def becomes(self, id: str, *states: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The job, once it is in one of these states."""
        until(f"job {id} {' or '.join(states)}", seconds, lambda: self.job(id)["state"] in states)
        return self.job(id)

    def node_becomes(self, node: str, state: str, seconds: float = PATIENCE_SECONDS) -> None:
        def come_true() -> bool:
            return any(found["name"] == node and found["state"] == state for found in self.json("nodes")["items"])

        until(f"node {node} {state}", seconds, come_true)

    # ---------------------------------------------------------------- a cluster

    def start_cluster(self) -> None:
        """This host becomes one that others can join."""
        self("up", "--detach", "--listen", "0.0.0.0:7443", "--simulate-gpus", "2xH100-80GB")

    def url(self) -> str:
        return str(self.json("status")["controller"]["url"])

    def line_to_join(self) -> str:
        """What `token create` tells a person at a terminal to type on a new machine."""
        said = self.shell("script -qec './gpuq.pyz token create --role join' /dev/null")
        return next(line for line in said.splitlines() if "gpuq.pyz agent" in line).strip()

    def start_agent(self, line: str = "./gpuq.pyz agent") -> None:
        """What a person types to start an agent, which goes on, its log in agent.log of the home folder."""
        pretend = f"{line} --simulate-gpus 2xH100-80GB"  # hosts of the lab have no GPUs
        if self.user == "root":
            pretend += " --root-jobs"  # nor has it other users
        self.host.start("bash", "-c", pretend, user=self.user, log=f"{self.home}/agent.log")


def until(what: str, seconds: float, come_true: Callable[[], bool]) -> None:
    """Returns once come_true() does; raises HostError naming `what` if that takes too long."""
    deadline = time.monotonic() + seconds
    while not come_true():
        if time.monotonic() >= deadline:
            raise HostError(f"{what}: not in {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)
