"""A host: its own disk, network, process table, names and boot id; it can lose its power and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.lab import groups
from tests.lab.network import Switch

INIT = Path(__file__).with_name("init.sh").read_text()  # as text: the checkout may lie where the lab mounts over
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UID = 2001  # of a person, the same on all hosts
_COMMAND_SECONDS = 100.0
_BOOT_SECONDS = 60.0  # where many start at once
# Joins the groups named in $0, then becomes the rest.
_JOIN = 'for group in $0; do echo $$ > "$group/cgroup.procs" || exit; done; exec "$@"'


class HostError(Exception):
    """A command on a host that failed, or a host that did not start."""


class Cable(NamedTuple):
    """An interface of a host: where it is plugged in, and its address ('10.77.0.11')."""

    switch: Switch
    address: str
    interface: str = "eth0"


class Machine(NamedTuple):
    """What all hosts of a lab have in common.

    disks: a folder that is not on this machine's root disk. pythons: a folder of this machine with a Python in each
    folder below; every host has it too, read-only. hidden: folders of this machine that no host is to see. image: what
    is in the home folder of an account when it is made there. groups: name of the lab's cgroups.
    """

    disks: Path
    pythons: Path | None
    hidden: Sequence[str]
    image: Path
    groups: str


@dataclass
class Host:
    """python: '3.12.1' of the lab's Pythons, a folder of the host, or '' for the system's.

    gateway: where it sends what is for elsewhere. cgroup: one of groups.KINDS.
    """

    machine: Machine
    name: str
    cables: Sequence[Cable]
    python: str = ""
    gateway: str = ""
    shared_home: Path | None = None
    cgroup: str = "none"
    environment: Sequence[str] = ()  # 'NAME=VALUE' of all that is run on it, besides that of a login
    known: dict[str, str] = field(default_factory=dict)  # names to addresses, for its /etc/hosts when it boots
    pid: int = 0
    _power: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return self.cables[0].address

    @property
    def disk(self) -> Path:
        return self.machine.disks / self.name

    def port(self, cable: int = 0) -> str:
        return f"{self.name}-{self.cables[cable].interface}"

    # ---------------------------------------------------------------- power

    def boot(self) -> None:
        """Starts it from its disk, with a boot id of its own; returns when its network is there."""
        self.disk.mkdir(exist_ok=True)
        if self.cgroup != "none" and not self._groups:
            raise HostError(groups.in_words(self.cgroup))
        for group in self._groups.values():
            group.mkdir(parents=True, exist_ok=True)
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup"]
        power = subprocess.Popen(
            [*self._join(), "unshare", *namespaces, "bash", "-c", INIT, "init"],
            env={"PATH": SYSTEM_PATH, **self._layout()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._power = power
        assert power.stdin
        assert power.stdout
        assert power.stderr
        said = power.stdout.readline().strip()
        if said.isdigit() and int(said) > 1:
            self.pid = int(said)
            for cable in self.cables:
                cable.switch.plug(f"{self.name}-{cable.interface}", self.pid, cable.interface)
            power.stdin.write("\n")
            power.stdin.flush()
            said = power.stdout.readline().strip()
        if said != "up":
            power.kill()
            power.wait()
            self._power = None  # there is nothing to switch off: `pid` names no host
            raise HostError(f"{self.name} does not start: {power.stderr.read().strip() or said}")

    def power_off(self) -> None:
        """Every process gone at once, nothing written back, the network silent: as by its switch."""
        if self._power is None:
            return
        kill_first_process(self.pid)
        self._power.wait(_BOOT_SECONDS)
        for stream in (self._power.stdin, self._power.stdout, self._power.stderr):
            if stream:
                stream.close()
        self._power = None
        for group in self._groups.values():
            groups.remove(group)

    def scrap(self) -> None:
        self.power_off()
        shutil.rmtree(self.disk, ignore_errors=True)

    @property
    def _groups(self) -> dict[str, Path]:
        """By controller, the groups that all of the host is in."""
        below = f"{self.machine.groups}/{self.machine.disks.name}-{self.name}"
        return {controller: own / below for controller, own in groups.hierarchies(self.cgroup).items()}

    def _join(self) -> list[str]:
        return ["sh", "-c", _JOIN, " ".join(map(str, self._groups.values()))] if self._groups else []

    def _layout(self) -> dict[str, str]:
        return {
            "NAME": self.name,
            "DISK": str(self.disk),
            "INTERFACES": " ".join(f"{cable.interface}={cable.address}/24" for cable in self.cables),
            "GATEWAY": self.gateway,
            "BOOT_ID": str(uuid.uuid4()),
            "HOSTS": "\n".join(f"{address} {name}" for name, address in self.known.items()),
            "PYTHONS": str(self.machine.pythons or ""),
            "HIDDEN": " ".join(self.machine.hidden),
            "SHARED_HOME": str(self.shared_home or ""),
            "CGROUP": self.cgroup,
            "CONTROLLERS": " ".join(self._groups),
            "DELEGATED": str(UID),
        }

    # ---------------------------------------------------------------- use

    def add_user(self, name: str, furnished: bool = False) -> None:
        """An account without root; its home is made unless it is there already, as a shared one is.

        furnished: with gpuq in it, and unpacked, so that a scenario with many hosts does not wait for each.
        """
        if furnished:
            home = self.disk / "var-home" / name
            subprocess.run(["cp", "--archive", "--link", self.machine.image, home], check=True)
        self.run("useradd", "--uid", str(UID), "--create-home", "--shell", "/bin/bash", name)

    def command(self, words: Sequence[str], user: str = "root") -> list[str]:
        """What runs `words` on this host as that account, in its home folder, in an environment like a login's."""
        home = "/root" if user == "root" else f"/home/{user}"
        path = f"{self.machine.pythons}/{self.python}/bin:{SYSTEM_PATH}" if self.python else SYSTEM_PATH
        login = [f"HOME={home}", f"USER={user}", f"LOGNAME={user}", f"PATH={path}", "SHELL=/bin/bash", "LANG=C.UTF-8"]
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        enter = [*self._join(), "nsenter", f"--target={self.pid}", *namespaces, f"--wdns={home}"]
        account = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        return [*enter, *account, "env", "-i", *login, *self.environment, *words]

    def run(self, *words: str, user: str = "root", stdin: str = "") -> str:
        """What it printed; raises HostError if it failed."""
        done = self.attempt(*words, user=user, stdin=stdin)
        if done.returncode != 0:
            said = " / ".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-4:])
            raise HostError(f"{self.name}: {' '.join(words)} ended with {done.returncode}: {said}")
        return done.stdout

    def attempt(self, *words: str, user: str = "root", stdin: str = "") -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        return subprocess.run(
            self.command(words, user),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
            check=False,
        )

    def start(self, *words: str, user: str = "root", log: str = "/dev/null") -> subprocess.Popen[bytes]:
        """A program that goes on, its output in the file `log` of the host; it ends with its host at the latest."""
        redirected = ["sh", "-c", 'exec "$@" >> "$0" 2>&1', log, *words]
        nothing = subprocess.DEVNULL
        return subprocess.Popen(self.command(redirected, user), stdin=nothing, stdout=nothing, stderr=nothing)

    def copy_in(self, source: Path, target: str, user: str = "root") -> None:
        """As scp would: the bytes through a pipe."""
        with source.open("rb") as file:
            subprocess.run(
                self.command(["sh", "-c", 'cat > "$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0"', target], user),
                stdin=file,
                timeout=_COMMAND_SECONDS,
                check=True,
            )

    def read(self, path: str, user: str = "root") -> str:
        return self.run("cat", path, user=user)


def kill_first_process(pid: int) -> None:
    """Power-off of who has this pid. 0, 1 and below mean whole groups, this lab or every process there is: refused."""
    if pid <= 1:
        raise HostError(f"no host has process {pid} for its first one")
    os.kill(pid, signal.SIGKILL)
