"""A cluster of the built file on this machine, for as long as it is measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuq.client.http import Client

PYZ = os.environ.get("GPUQ_PYZ", "dist/gpuq.pyz")
GPUQ = [sys.executable, "-I", "-S", PYZ]
PATIENCE_SECONDS = 120.0


class Cluster:
    """Controller and agent in a home of their own. client is one kept-alive connection, as a program would hold."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {**os.environ, "GPUQ_HOME": str(home)}
        for name in ("GPUQ_URL", "GPUQ_TOKEN"):
            self.environ.pop(name, None)
        self.client: Client = None  # type: ignore[assignment]  # once the controller is up

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*GPUQ, *words], env=self.environ, capture_output=True, text=True, check=True)

    def connect(self, token: str | None = None) -> Client:
        """A connection of its own; token: an administrator's if not given."""
        folder = next(self.home.glob("hosts/*/controller"))
        url = json.loads((folder / "controller.json").read_text())["url"]
        token = token or (folder / "admin.token").read_text().strip()
        return Client(url, token, (folder / "ca.pem").read_text())

    def pids(self) -> dict[str, int]:
        """Process ids of 'controller' and 'agent'."""
        status = json.loads(self.run("status", "--json").stdout)
        return {"controller": status["controller"]["pid"], "agent": status["agents"][0]["pid"]}

    def kill(self) -> None:
        """Ends both daemons at once: `down` would wait for jobs on nodes that are only played."""
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)

    def wait_until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} took more than {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.005)


@contextmanager
def cluster(gpus: int) -> Iterator[Cluster]:
    """A running cluster with `gpus` simulated GPUs; everything is ended and removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="gpuq-bench-"))
    it = Cluster(home)
    try:
        it.run("up", "--detach", "--simulate-gpus", f"{gpus}xH100-80GB")
        it.client = it.connect()
        yield it
    finally:
        if it.client is not None:
            it.client.close()
        subprocess.run([*GPUQ, "down", "--stop-jobs"], env=it.environ, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


def status_kib(pid: int, field: str = "VmRSS") -> int:
    """A memory field of /proc/PID/status, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
