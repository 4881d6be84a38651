"""One machine's cluster made of the built file: every command a process of its own, as users start them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.e2e.wire import Answer, Wire

FINAL = ("SUCCEEDED", "FAILED", "CANCELED")
DEADLINE_SECONDS = 45.0
_MARK = "E2E_CLUSTER"  # a variable that daemons and jobs of one cluster inherit, by which its leftovers are found

T = TypeVar("T")


class Done(NamedTuple):
    """How one command ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def line(self) -> str:
        """Its complaint, which must be one line without a traceback."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        assert self.err.startswith("gpuq"), self.err
        return self.err[:-1]


def until(condition: Callable[[], T], what: str = "", seconds: float = DEADLINE_SECONDS) -> T:
    """Polls until the condition gives something true, and gives that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what or condition}"
        time.sleep(0.03)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes() -> list[tuple[int, bytes, bytes]]:
    """Pid, arguments and environment of everything that runs and may be looked at."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                entry = (int(path.name), (path / "cmdline").read_bytes(), (path / "environ").read_bytes())
            except OSError:
                continue
            if alive(entry[0]):
                found.append(entry)
    return found


@dataclass
class Cluster:
    """A home, the environment of its user, and what can be done from there. `root` holds all it leaves on disk."""

    pyz: Path
    root: Path
    cache: Path
    gpus: str = "8xH100-80GB"
    variables: dict[str, str] = field(default_factory=dict)
    _wire: Wire | None = None

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def folder(self) -> Path:
        """Where commands are typed, and so where jobs run."""
        path = self.root / "folder"
        path.mkdir(exist_ok=True)
        return path

    @property
    def state(self) -> Path:
        """The directory of this host's daemons."""
        (path,) = (self.home / "hosts").iterdir()
        return path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GPUQ_", "PYTHON", "SLURM_", "CUDA_", "PYTEST_", "COV_"))
        }
        own = {"GPUQ_HOME": str(self.home), "GPUQ_CACHE": str(self.cache), _MARK: str(self.root)}
        return {**kept, **own, **self.variables, **more}

    def command(self, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        return [sys.executable, "-I", "-S", self.pyz, *arguments]

    # ---------------------------------------------------------------- commands

    def start(self, *arguments: str | bytes | Path, **more: str) -> subprocess.Popen[bytes]:
        """A command that goes on while the test does other things; to be given to `end`."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment(**more),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[bytes], seconds: float = DEADLINE_SECONDS) -> Done:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{process.args!r} had not ended after {seconds} s: {err!r}") from None
        return Done(process.returncode, out, err.decode())

    def gpuq(
        self,
        *arguments: str | bytes | Path,
        stdin: bytes = b"",
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
        **more: str,
    ) -> Done:
        """Runs a command to its end. variables, more: set in its environment."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(**(variables or {}), **more),
            cwd=cwd or self.folder,
            input=stdin,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode("utf-8", "surrogateescape"))

    def ok(self, *arguments: str | Path, **more: str) -> str:
        done = self.gpuq(*arguments, variables=more)
        assert done.status == 0, (arguments, done)
        return done.text

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def submit(self, *arguments: str | Path, **more: str) -> str:
        """The id of a new job."""
        id = self.ok("submit", "--parsable", *arguments, **more).strip()
        assert re.fullmatch(r"\d+", id), id
        return id

    def sh(self, script: str, *options: str, **more: str) -> str:
        """The id of a new job that is a line of shell."""
        return self.submit(*options, "sh", "-c", script, **more)

    # ---------------------------------------------------------------- jobs, by the API

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            self._wire = Wire(self.state / "controller")
        return self._wire

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return self.wire.call(method, path, body, **headers)

    def job(self, id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/jobs/{id}")
        assert answer.status == 200, (id, answer)
        found: dict[str, Any] = answer.json()
        return found

    def becomes(self, id: str, *states: str, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """The job, once it is in one of these states; fails at once if it ended in another."""
        deadline = time.monotonic() + seconds
        while (job := self.job(id))["state"] not in states:
            assert job["state"] not in FINAL, (states, job)
            assert time.monotonic() < deadline, (states, job)
            self.call("GET", f"/jobs/{id}?wait=2&seen={job['state']}")
        return job

    def ended(self, id: str, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        return self.becomes(id, *FINAL, seconds=seconds)

    def log(self, id: str, *options: str) -> bytes:
        done = self.gpuq("logs", id, *options)
        assert done.status == 0, done
        return done.out

    def says(self, id: str, text: bytes) -> None:
        """Waits until the job has written this."""
        until(lambda: text in self.call("GET", f"/jobs/{id}/log").body, f"{text!r} in the log of {id}")

    # ---------------------------------------------------------------- daemons

    def up(self, *options: str, **more: str) -> str:
        return self.ok("up", "--detach", "--simulate-gpus", self.gpus, *options, **more)

    def pid(self, kind: str) -> int:
        return int(json.loads((self.state / kind / "daemon.json").read_text())["pid"])

    def kill(self, *kinds: str, number: int = signal.SIGKILL) -> None:
        """Kills daemons and returns when they are gone."""
        pids = [self.pid(kind) for kind in kinds]
        for pid in pids:
            os.kill(pid, number)
        until(lambda: not any(map(alive, pids)), f"{kinds} to be gone")
        if self._wire:
            self._wire.close()

    def leftovers(self) -> list[tuple[int, str]]:
        """Processes of this cluster: daemons, launcher, supervisors, jobs and whatever these started."""
        mark = f"{_MARK}={self.root}".encode()
        inside = f"{self.root}/".encode()
        return [
            (pid, arguments.replace(b"\0", b" ").decode(errors="replace")[:300])
            for pid, arguments, environment in processes()
            if mark in environment.split(b"\0") or inside in arguments
        ]

    def remove(self) -> None:
        """Ends everything; fails if gpuq itself could not, or left a process behind."""
        if not self.root.exists():
            return
        if self._wire:
            self._wire.close()
        problem = ""
        try:
            if self.home.exists():
                problem = self._down()
            deadline = time.monotonic() + 10
            while (left := self.leftovers()) and time.monotonic() < deadline:
                time.sleep(0.05)
            problem += f" left behind: {left}" if left else ""
        finally:
            for pid, _ in self.leftovers():
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.leftovers(), "killed processes to be gone")
        if problem:
            raise AssertionError(problem)
        shutil.rmtree(self.root)

    def _down(self) -> str:
        done = self.gpuq("down", "--stop-jobs")
        if done.status != 0 and "the controller is not running" in done.err:
            self.up()
            done = self.gpuq("down", "--stop-jobs")
        return "" if done.status == 0 else f"down failed: {done}"
