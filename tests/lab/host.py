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

from tests.lab.network import Switch

INIT = Path(__file__).with_name("init.sh").read_text()  # as text: the checkout may lie where the lab mounts over
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UID = 2001  # of a person, the same on all hosts
_COMMAND_SECONDS = 100.0
_BOOT_SECONDS = 20.0


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
    folder below; every host has it too, read-only. hidden: folders of this machine that no host is to see.
    """

    disks: Path
    pythons: Path | None
    hidden: Sequence[str]


@dataclass
class Host:
    """python: '3.12.1' of the lab's Pythons; '' for the system's. gateway: where it sends what is for elsewhere."""

    machine: Machine
    name: str
    cables: Sequence[Cable]
    python: str = ""
    gateway: str = ""
    shared_home: Path | None = None
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
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net"]
        power = subprocess.Popen(
            ["unshare", *namespaces, "bash", "-c", INIT, "init"],
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
        if said.isdigit():
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
        os.kill(self.pid, signal.SIGKILL)
        self._power.wait(_BOOT_SECONDS)
        for stream in (self._power.stdin, self._power.stdout, self._power.stderr):
            if stream:
                stream.close()
        self._power = None

    def scrap(self) -> None:
        self.power_off()
        shutil.rmtree(self.disk, ignore_errors=True)

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
        }

    # ---------------------------------------------------------------- use

    def add_user(self, name: str) -> None:
        """An account without root; its home is made unless it is there already, as a shared one is."""
        self.run("useradd", "--uid", str(UID), "--create-home", "--shell", "/bin/bash", name)

    def command(self, words: Sequence[str], user: str = "root") -> list[str]:
        """What runs `words` on this host as that account, in its home folder, in an environment like a login's."""
        home = "/root" if user == "root" else f"/home/{user}"
        path = f"{self.machine.pythons}/{self.python}/bin:{SYSTEM_PATH}" if self.python else SYSTEM_PATH
        login = [f"HOME={home}", f"USER={user}", f"LOGNAME={user}", f"PATH={path}", "SHELL=/bin/bash", "LANG=C.UTF-8"]
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", f"--wdns={home}"]
        account = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        return [*enter, *account, "env", "-i", *login, *words]

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
                self.command(["sh", "-c", 'cat > "$0" && chmod 755 "$0"', target], user),
                stdin=file,
                timeout=_COMMAND_SECONDS,
                check=True,
            )

    def read(self, path: str, user: str = "root") -> str:
        return self.run("cat", path, user=user)
