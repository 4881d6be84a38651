"""A host whose first process is a real systemd, and what is tried on it: gpuq as services of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.host import SYSTEM_PATH, HostError, kill_first_process
from tests.lab.lab import PATIENCE_SECONDS, Lab, until
from tests.lab.report import Report

_BOOT_SECONDS = 60.0
_FILE = "/opt/gpuq.pyz"


class SystemdHost:
    """It shares the network namespace of the lab, which has no address but loopback's."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.root = disk / "root"
        for name in ("upper", "work", "root"):
            (disk / name).mkdir(parents=True)
        layers = f"lowerdir=/,upperdir={disk / 'upper'},workdir={disk / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        (self.root / "etc/machine-id").write_text("")  # made anew at the first boot
        self.pid = 0

    def boot(self) -> None:
        options = ["--quiet", "--boot", "--register=no", "--keep-unit", "--machine=gpuq-lab", "--console=pipe"]
        with (self.disk / "console").open("ab") as console:
            self._power = subprocess.Popen(
                ["systemd-nspawn", f"--directory={self.root}", *options, "systemd.unit=multi-user.target"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        until("systemd as a first process", _BOOT_SECONDS, self._found)
        running = ("running", "degraded")  # degraded: some service of this machine's own does not start in a lab
        until("systemd is up", _BOOT_SECONDS, lambda: self._state() in running)

    def _found(self) -> bool:
        self.pid = next((pid for pid in _below(self._power.pid) if _name(pid) == "systemd"), 0)
        return self.pid != 0

    def _state(self) -> str:
        return self.attempt("systemctl", "is-system-running").stdout.strip()

    def power_off(self) -> None:
        kill_first_process(self.pid)
        os.killpg(self._power.pid, signal.SIGKILL)
        self._power.wait(_BOOT_SECONDS)

    def attempt(self, *words: str, user: str = "root", stdin: str = "") -> subprocess.CompletedProcess[str]:
        home = "/root" if user == "root" else f"/home/{user}"
        login = [f"HOME={home}", f"USER={user}", f"LOGNAME={user}", f"PATH={SYSTEM_PATH}", "LANG=C.UTF-8"]
        account = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        enter = ["nsenter", f"--target={self.pid}", "--all", "--wdns=/"]
        return subprocess.run(
            [*enter, *account, "env", "-i", *login, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def run(self, *words: str, user: str = "root", stdin: str = "") -> str:
        done = self.attempt(*words, user=user, stdin=stdin)
        if done.returncode != 0:
            said = " / ".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-4:])
            raise HostError(f"{' '.join(words)} ended with {done.returncode}: {said}")
        return done.stdout


class _Account:
    """gpuq as one account of that host; person is whose jobs it looks after, by default its own."""

    def __init__(self, host: SystemdHost, user: str, person: _Account | None = None) -> None:
        self.host, self.user, self.person = host, user, person or self

    def gpuq(self, *words: str, stdin: str = "") -> str:
        return self.host.run("python3", _FILE, *words, user=self.user, stdin=stdin)

    def json(self, *words: str) -> Any:
        return json.loads(self.gpuq(*words, "--json"))

    def services(self) -> dict[str, dict[str, Any]]:
        return {item["name"]: item for item in self.json("service", "status")["items"]}

    def states(self) -> set[Any]:
        return {item["state"] for item in self.services().values()}

    def systemctl(self, *words: str) -> str:
        if self.user == "root":
            return self.host.run("systemctl", *words)
        runtime = f"XDG_RUNTIME_DIR=/run/user/{self.host.run('id', '-u', self.user).strip()}"
        return self.host.run("env", runtime, "systemctl", "--user", *words, user=self.user)

    def start_job(self) -> tuple[str, str]:
        """The id of a job that stays, and the pid of its process."""
        id = self.person.gpuq("submit", "--parsable", "-G", "1", "-D", "/tmp", "sleep", "1234").strip()
        until(f"job {id} RUNNING", PATIENCE_SECONDS, lambda: self.json("show", id)["state"] == "RUNNING")
        return id, self.job_pid()

    def job_pid(self) -> str:
        return self.host.run("pgrep", "-u", self.person.user, "-x", "sleep").strip()

    def runs_on(self, report: Report, what: str, id: str, pid: str) -> None:
        """Checks that the job is known to run, and is the process it was."""
        until("the node up", PATIENCE_SECONDS, lambda: self.json("nodes")["items"][0]["state"] == "up")
        job = self.json("show", id)
        shown = (job["state"], job["attempt"], self.job_pid())
        report.check(f"{what}: the job runs on, the same process", shown == ("RUNNING", 1, pid), shown)

    def second_attempt_runs(self, id: str) -> None:
        def come_true() -> bool:
            try:
                job = self.json("show", id)
            except HostError:  # the controller is not back yet
                return False
            return bool(job["state"] == "RUNNING" and job["attempt"] == 2)

        until("a second attempt", PATIENCE_SECONDS, come_true)


def service(lab: Lab, report: Report) -> None:
    """gpuq as services of a real systemd, of root and of an account without root: restarts, kills, a reboot."""
    host = SystemdHost(lab.machine.disks / "systemd")
    shutil.copyfile(lab.pyz, host.root / _FILE.lstrip("/"))
    with report.step("systemd boots"):
        host.boot()
    try:
        for name in ("alice", "bob"):
            host.run("useradd", "--create-home", "--shell", "/bin/bash", name)
        _as_root(_Account(host, "root", _Account(host, "alice")), report)
        _as_user(_Account(host, "bob"), report)
    finally:
        host.power_off()
        subprocess.run(["umount", "--lazy", host.root], check=True)


def _as_root(root: _Account, report: Report) -> None:
    host = root.host
    with report.step("gpuq up --service, as root"):
        root.gpuq("up", "--service", "--simulate-gpus", "2xH100-80GB")
    for kind in ("controller", "agent"):
        unit = f"/etc/systemd/system/gpuq-{kind}.service"
        verified = host.attempt("systemd-analyze", "verify", unit)
        fine = (verified.returncode, verified.stderr) == (0, "")
        report.check(f"systemd-analyze verify {kind}", fine, verified.stderr)
        report.check(f"no secret in the {kind}'s unit", "gpuq_" not in host.run("cat", unit))
    root.gpuq("user", "add", "alice")
    token = root.gpuq("token", "create", "--user", "alice")
    root.person.gpuq("login", "https://127.0.0.1:7443", "--token", "-", stdin=token)
    id, pid = root.start_job()
    with report.step("systemctl restart of both"):
        root.systemctl("restart", "gpuq-agent", "gpuq-controller")
        root.runs_on(report, "restarted", id, pid)
    agent = root.services()["agent"]["pid"]
    with report.step("agent killed, started again by systemd"):
        host.run("kill", "-9", str(agent))
        until("another agent", PATIENCE_SECONDS, lambda: root.services()["agent"]["pid"] not in (None, agent))
        root.runs_on(report, "killed", id, pid)
    root.gpuq("down", "--keep-jobs")
    # systemd takes a moment to hear of an end; one that it starts again would be active for good.
    until("both services are inactive", PATIENCE_SECONDS, lambda: root.states() == {"inactive"})
    report.check("gpuq down stops them, and systemd lets them be", root.states() == {"inactive"}, root.states())
    root.gpuq("up")
    root.runs_on(report, "down and up", id, pid)
    report.check("gpuq up had systemd start them", root.services()["agent"]["state"] == "active", root.services())
    with report.step("the machine reboots: both are back by themselves"):
        host.power_off()
        host.boot()
        root.second_attempt_runs(id)
    pid = root.job_pid()
    root.gpuq("service", "uninstall")
    report.check("uninstalled: the job runs on", root.job_pid() == pid, root.job_pid())
    root.gpuq("up", "--detach", "--simulate-gpus", "2xH100-80GB")
    report.check("as plain processes, the job is found", root.json("show", id)["state"] == "RUNNING")
    root.gpuq("down", "--stop-jobs")


def _as_user(bob: _Account, report: Report) -> None:
    host, url = bob.host, "https://127.0.0.1:7444"
    host.run("loginctl", "enable-linger", "bob")  # for want of a login, which would start bob's systemd too
    until("bob's systemd", PATIENCE_SECONDS, lambda: "systemd" in host.attempt("pgrep", "-lu", "bob").stdout)
    with socket.create_server(("127.0.0.1", 7555)):  # this process is in the same network namespace
        words = ["service", "install", "controller", "--listen", "127.0.0.1:7555"]
        refused = host.attempt("python3", _FILE, *words, user="bob")
    fine = (refused.returncode, "cannot listen on 127.0.0.1:7555" in refused.stderr) == (1, True)
    report.check("a port that is taken: refused in the daemon's words", fine, refused.stderr)
    left = bob.gpuq("service", "status")
    report.check("and no unit is left of it", "no service is installed" in left, left)
    with report.step("gpuq service install controller, then agent, without root"):
        bob.gpuq("service", "install", "controller", "--listen", "127.0.0.1:7444")
        token = bob.gpuq("token", "create", "--role", "join").strip()
        pretend = ["--simulate-gpus", "2xH100-80GB"]
        bob.gpuq("service", "install", "agent", "--controller", url, "--token", "-", *pretend, stdin=token)
    units = host.run("sh", "-c", "cat ~/.config/systemd/user/gpuq-*.service", user="bob")
    report.check("no token in the units", "gpuq_" not in units)
    id, pid = bob.start_job()
    with report.step("systemctl --user restart of both"):
        bob.systemctl("restart", "gpuq-agent", "gpuq-controller")
        bob.runs_on(report, "restarted", id, pid)
    with report.step("the machine reboots: without a login both are back"):
        host.power_off()
        host.boot()
        bob.second_attempt_runs(id)
    bob.gpuq("cancel", id)


def _below(pid: int) -> Sequence[int]:
    """The processes that descend from one."""
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
