"""A lab: hosts on switches, made for one scenario and gone after it; and gpuq on them, as a person uses it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.lab.groups import KINDS, available
from tests.lab.host import Cable, Host, HostError, Machine
from tests.lab.network import Switch
from tests.lab.report import Report

PATIENCE_SECONDS = 60.0  # for what takes seconds at most
_POLL_SECONDS, _SELDOM_SECONDS = 0.2, 3.0
_UP_SECONDS = 120.0  # for many agents that start at once
SET_UP = ".set-up"  # a file with this ending says that a scenario had its first turn
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
        self._has_turn = False

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

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it no other scenario of this run is at what keeps the processors busy."""
        if self._has_turn:
            yield
            return
        with (self.machine.disks.parent / "turn").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._has_turn = True
            yield
            self._has_turn = False
        self.machine.disks.with_suffix(SET_UP).touch()

    def cluster_of_kinds(self, report: Report, *roles: str, gpus: str = "2xH100-80GB") -> tuple[Gpuq, list[Node]]:
        """A cluster of alice's on a host 'head' and, for each role, a node with cgroup v1, one with v2, one with none.

        The nodes are called ROLE-KIND and are in this order. A kind that this machine does not have is left out.
        """
        kinds = [kind for kind in KINDS if available(kind)]
        head = Gpuq(self.host("head", [Cable(self.main, f"{NETWORK}.10")]), "alice", self.pyz)
        nodes = []
        for role in roles:
            for kind in kinds:
                cable = Cable(self.main, f"{NETWORK}.{len(self.hosts) + 10}")
                host = self.host(f"{role}-{kind}", [cable], cgroup=kind)
                nodes.append(Node(Gpuq(host, "alice", self.pyz), role, kind))
        with self.turn(), report.step(f"a cluster of {len(self.hosts)} hosts"):
            for host in self.hosts:
                host.boot()
                host.add_user("alice", furnished=True)
            head.start_cluster("16xH100-80GB")
            line = head.line_to_join()
            for node in nodes:
                node.gpuq.start_agent(line, gpus)
            for node in nodes:
                head.node_becomes(node.name, "up", _UP_SECONDS)
        return head, nodes

    def host(
        self,
        name: str,
        cables: Sequence[Cable],
        gateway: str = "",
        shared_home: Path | None = None,
        cgroup: str = "none",
    ) -> Host:
        """A host that is off. All hosts know each other by name."""
        self.names[name] = cables[0].address
        python = self.versions[len(self.hosts) % len(self.versions)]
        made = Host(self.machine, name, cables, python, gateway, shared_home, cgroup, known=self.names)
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
        self.copy_file(self.pyz, "gpuq.pyz")

    def copy_file(self, source: Path, name: str) -> None:
        self.host.copy_in(source, f"{self.home}/{name}", self.user)

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

    def start_cluster(self, gpus: str = "2xH100-80GB") -> None:
        """This host becomes one that others can join."""
        self("up", "--detach", "--listen", "0.0.0.0:7443", "--simulate-gpus", gpus)

    def url(self) -> str:
        return str(self.json("status")["controller"]["url"])

    def line_to_join(self) -> str:
        """What `token create` tells a person at a terminal to type on a new machine."""
        said = self.shell("script -qec './gpuq.pyz token create --role join' /dev/null")
        return next(line for line in said.splitlines() if "gpuq.pyz agent" in line).strip()

    def submit(self, *words: str) -> str:
        """The id of a new job."""
        return self("submit", "--parsable", *words).strip()

    def pid(self, kind: str) -> str:
        """Of this host's controller or agent, or of the one there was last. Asks no gpuq, which takes its time."""
        return str(json.loads(self.read(f"{self.state}/{kind}/daemon.json"))["pid"])

    def signal(self, name: str, kind: str) -> str:
        """Sends its controller or agent a signal: 'KILL', 'STOP', 'CONT'; gives its pid."""
        pid = self.pid(kind)
        self.host.run("kill", f"-{name}", pid)
        return pid

    def has_agent(self, other_than: str) -> bool:
        """Whether an agent runs that is not this process."""
        pid = self.pid("agent")
        return pid != other_than and self.host.attempt("kill", "-0", pid).returncode == 0

    def start_agent(self, line: str = "./gpuq.pyz agent", gpus: str = "2xH100-80GB") -> None:
        """What a person types to start an agent, which goes on, its log in agent.log of the home folder."""
        pretend = f"{line} --simulate-gpus {gpus}"  # hosts of the lab have no GPUs
        if self.user == "root":
            pretend += " --root-jobs"  # nor has it other users
        self.host.start("bash", "-c", pretend, user=self.user, log=f"{self.home}/agent.log")


class Node(NamedTuple):
    """One host of cluster_of_kinds."""

    gpuq: Gpuq
    role: str
    kind: str

    @property
    def name(self) -> str:
        return self.gpuq.host.name

    @property
    def host(self) -> Host:
        return self.gpuq.host


def until(what: str, seconds: float, come_true: Callable[[], bool]) -> None:
    """Returns once come_true() does; raises HostError naming `what` if that takes too long."""
    began = time.monotonic()
    while not come_true():
        waited = time.monotonic() - began
        if waited >= seconds:
            raise HostError(f"{what}: not in {seconds:.0f} s")
        time.sleep(min(_POLL_SECONDS + waited / 10, _SELDOM_SECONDS))  # each look is a process or two
