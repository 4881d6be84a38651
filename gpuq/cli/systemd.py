"""systemd, as far as gpuq needs it: what its units say, where they lie, and the manager that runs them.

Root has the system's manager; everyone else their own, which goes on without a login once lingering is on. Only this
file asks systemctl and loginctl.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuq.config import read_text
from gpuq.errors import Conflict, Unavailable

_ASK_SECONDS = 60.0  # a manager that is starting up answers late; `systemctl stop` waits for the daemon's end
_BOOTED = Path("/run/systemd/system")  # there if and only if systemd is process 1

_UNIT = """\
# Written by `gpuq service install`; change it by running that again, take it away with `gpuq service uninstall`.
[Unit]
Description=gpuq {kind}
{when}StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=always
RestartSec=3
TimeoutStopSec=30
SyslogIdentifier=gpuq-{kind}
{more}
[Install]
WantedBy={target}
"""
_ON_NETWORK = """\
Wants=network-online.target
After=network-online.target
"""
_OF_CONTROLLER = """\
# It says when it answers: `systemctl restart` returns then, and what is ordered after it can rely on it.
Type=notify
TimeoutStartSec=300
"""
_OF_AGENT = """\
Type=exec
# Jobs are children of the agent's supervisors and live in this unit's cgroup: only the agent itself is ever stopped.
KillMode=process
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
# RDMA and pinned memory: jobs inherit it.
LimitMEMLOCK=infinity
"""


def unit_text(kind: str, command: Sequence[str], machine: str | None) -> str:
    """The unit that keeps `command` running as the daemon `kind`: the system's, or an account's on one machine.

    machine: that one's id. Other machines with the same home directory see the unit too, and must not run it.
    """
    return _UNIT.format(
        kind=kind,
        command=" ".join(_quoted(word, at) for at, word in enumerate(command)),
        when=_ON_NETWORK if machine is None else _only_on(machine),
        more=_OF_AGENT if kind == "agent" else _OF_CONTROLLER,
        target="multi-user.target" if machine is None else "default.target",
    )


def _only_on(machine: str) -> str:
    return f"ConditionHost={machine}\n"


def _quoted(word: str, at: int) -> str:
    """A word of ExecStart that systemd reads back as it is; in the first, the program, it expands no variables."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return f'"{text if at == 0 else text.replace("$", "$$")}"'


def tell_ready() -> None:
    """Tells the systemd that waits for this process, if one does, that it has started."""
    path = os.environ.pop("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)


def manager() -> Systemd:
    """The systemd of this account; raises Conflict, saying why, where there is none to be had."""
    if not _BOOTED.is_dir():
        raise Conflict("systemd does not run this machine", "keep gpuq running with: gpuq up --detach")
    found = Systemd(user=os.geteuid() != 0)
    done = found.ask("show-environment")
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        hint = (
            "log in anew as this account (not by su), or install it as root" if found.user else "see systemctl status"
        )
        raise Conflict(f"systemd cannot be asked: {why}", hint)
    return found


def manager_of(kind: str, pid: int) -> Systemd | None:
    """The systemd that runs this process as gpuq's daemon `kind`, if one does."""
    found = Systemd(user=os.geteuid() != 0)
    return found if found.has(kind) and found.main_pid(kind) == pid else None


class Systemd:
    """One manager: the system's, or with `user` this account's own."""

    def __init__(self, user: bool) -> None:
        self.user = user

    @property
    def program(self) -> Path:
        """Where the copy of gpuq.pyz lies that units start: no download folder, which somebody may clean up."""
        return (self._own("XDG_DATA_HOME", ".local/share") if self.user else Path("/usr/local/lib")) / "gpuq/gpuq.pyz"

    def unit_path(self, kind: str) -> Path:
        folder = self._own("XDG_CONFIG_HOME", ".config") / "systemd/user" if self.user else Path("/etc/systemd/system")
        return folder / unit_name(kind)

    def has(self, kind: str) -> bool:
        """Whether there is a unit for the daemon `kind`, and for this machine."""
        return bool(self._text(kind)) and (not self.user or _only_on(_machine()) in self._text(kind))

    def installed(self, kind: str, home: str) -> bool:
        """Whether there is a unit for the daemon `kind` of this home."""
        return self.has(kind) and f'"--home" {_quoted(home, 1)}' in self._text(kind)

    def main_pid(self, kind: str) -> int:
        """0 if the unit does not run."""
        return int(self.properties(kind, "MainPID").get("MainPID") or 0)

    def properties(self, kind: str, *names: str) -> Mapping[str, str]:
        """Of the unit, as systemd names and writes them; nothing if it cannot be asked."""
        done = self.ask("show", f"--property={','.join(names)}", unit_name(kind))
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def write(self, kind: str, command: Sequence[str]) -> None:
        """Puts the unit in place and makes it start at boot; raises Conflict if another machine has it."""
        path = self.unit_path(kind)
        if self._text(kind) and not self.has(kind):
            raise Conflict(
                f"{path} is the service of another machine with this home directory",
                "as root it can be this machine's own; or keep gpuq running with: gpuq up --detach",
            )
        text = unit_text(kind, command, _machine() if self.user else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text, "utf-8")
        fresh.chmod(0o644)
        fresh.replace(path)
        self._do("daemon-reload")
        self._do("enable", "--quiet", unit_name(kind))

    def remove(self, kind: str) -> None:
        self._do("disable", "--now", "--quiet", unit_name(kind))
        self.unit_path(kind).unlink(missing_ok=True)
        self._do("daemon-reload")

    def restart(self, kind: str) -> bool:
        """(Re)starts it; whether it started at once. (If not, systemd goes on trying.)"""
        return self.ask("restart", unit_name(kind)).returncode == 0

    def stop(self, kind: str) -> None:
        self._do("stop", unit_name(kind))

    def last_words(self, kind: str) -> str:
        """The last line the daemon wrote to the journal, or where to look."""
        scope = ["--user"] if self.user else []
        options = ["--quiet", "--no-pager", "--output=cat", "--lines=20", f"--identifier=gpuq-{kind}"]
        said = [line for line in _run(["journalctl", *scope, *options]).stdout.splitlines() if line.strip()]
        return said[-1].removeprefix("gpuq: ") if said else f"see {self.journal(kind)}"

    def journal(self, kind: str) -> str:
        """The command that shows what the daemon logs."""
        return f"journalctl {'--user ' if self.user else ''}-u {unit_name(kind)}"

    def linger(self) -> str | None:
        """Lets this account's units run without a login, from boot on; what is left for an administrator to do."""
        account = pwd.getpwuid(os.geteuid()).pw_name
        if not self.user or Path("/var/lib/systemd/linger", account).exists():
            return None
        if _run(["loginctl", "enable-linger", account]).returncode == 0:
            return None
        return f"it runs only while {account} is logged in; for more, as root: loginctl enable-linger {account}"

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return _run(["systemctl", *(["--user"] if self.user else []), *words])

    def _text(self, kind: str) -> str:
        try:
            return self.unit_path(kind).read_text("utf-8")
        except OSError:
            return ""

    def _do(self, *words: str) -> None:
        done = self.ask(*words)
        if done.returncode != 0:
            why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0]
            raise Unavailable(f"systemctl {' '.join(words)} failed: {why}")

    def _own(self, variable: str, default: str) -> Path:
        given = os.environ.get(variable, "")
        return Path(given) if Path(given).is_absolute() else Path(pwd.getpwuid(os.geteuid()).pw_dir) / default


def _machine() -> str:
    return (read_text("/etc/machine-id") or "").strip()


def unit_name(kind: str) -> str:
    return f"gpuq-{kind}.service"


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A program's end and words; one that is not there, or not done in time, has failed with a line that says so."""
    own = {"LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    runtime = f"/run/user/{os.geteuid()}"
    if "XDG_RUNTIME_DIR" not in os.environ and Path(runtime).is_dir():  # cron and ssh without PAM do not set it
        own["XDG_RUNTIME_DIR"] = runtime
    try:
        return subprocess.run(
            words,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]}: {error}")
