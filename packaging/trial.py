"""A gpuq of its own in a temporary folder, from the built file: for the demo, the README's picture and tests of docs.

Everything it starts carries a mark in its environment, jobs included, so that what is left over can be found.
Standard library only: the demo runs on a fresh machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MARK = "TRIAL_OF_GPUQ"  # not GPUQ_...: gpuq hands those on to no job
COMMAND_SECONDS = 60.0  # the first start unpacks the file: seconds, on a slow disk many
LEAVE_SECONDS = 10.0  # daemons and jobs that were told to end are gone long before


class TrialError(Exception):
    """A command that failed, or something that did not come true in time."""


class Trial:
    """Use it with `with`: at the end, however it comes, its jobs, daemons and folder are gone."""

    def __init__(self, pyz: Path) -> None:
        self.pyz = pyz.resolve()
        self.root = Path(tempfile.mkdtemp(prefix="gpuq-trial-"))
        self.home = self.root / "home"
        self.work = self.root / "work"
        self.work.mkdir()
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        kept = {key: text for key, text in os.environ.items() if not key.startswith("GPUQ_") or key == "GPUQ_CACHE"}
        self.environment = {**kept, "GPUQ_HOME": str(self.home), name: value}

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-I", "-S", str(self.pyz), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """One gpuq command, whatever its exit status."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def gpuq(self, *arguments: str) -> str:
        """What a gpuq command printed; raises TrialError if its exit status is not 0."""
        done = self.run(*arguments)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise TrialError(f"gpuq {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace")

    def json(self, *arguments: str) -> Any:
        return json.loads(self.gpuq(*arguments, "--json"))

    def submit(self, *arguments: str) -> str:
        """The id of a new job."""
        return self.gpuq("submit", "--parsable", *arguments).strip()

    def processes(self, *also: str) -> list[int]:
        """Pids of living processes of this trial; with `also`, of those with such variables too ('NAME=' will do)."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                variables = _environment_of(path)
                if self._mark.encode() in variables and all(_has(variables, wanted) for wanted in also):
                    found.append(int(path.name))
        return found

    def close(self) -> None:
        """Ends jobs and daemons, by force if asking is not enough, and removes the folder. It may be called again."""
        if not self.root.exists():
            return
        try:
            self.run("down", "--stop-jobs")
        except (OSError, subprocess.TimeoutExpired):
            pass  # what is left is killed below
        finally:
            deadline = time.monotonic() + LEAVE_SECONDS
            while (left := self.processes()) and time.monotonic() < deadline:
                time.sleep(0.05)
            for pid in left:
                _kill(pid)
            shutil.rmtree(self.root, ignore_errors=True)


def until(what: str, seconds: float, come_true: Callable[[], bool]) -> None:
    """Returns once come_true() does; raises TrialError naming `what` if that takes too long."""
    deadline = time.monotonic() + seconds
    while not come_true():
        if time.monotonic() >= deadline:
            raise TrialError(f"{what} has not come true in {seconds:.0f} s")
        time.sleep(0.05)


def _environment_of(process: Path) -> Sequence[bytes]:
    try:
        if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X"):
            return ()
        return process.joinpath("environ").read_bytes().split(b"\0")
    except OSError:
        return ()


def _has(variables: Sequence[bytes], wanted: str) -> bool:
    return any(variable.startswith(wanted.encode()) for variable in variables)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
