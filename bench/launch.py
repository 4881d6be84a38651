"""What running one job costs its node: processor time of launcher and supervisor, and memory while it runs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from agent.process_tree import children, descendants, read_proc
from bench.cluster import Cluster, cluster
from bench.figures import Figure

JOBS = 400
RUNNING = 32
_SETTLE_SECONDS = 3.0  # supervisors without a run are gone after a second, and their time is their launcher's then


def measure() -> list[Figure]:
    floor = _bare_spawn()
    with cluster(RUNNING) as c:
        launcher = next(pid for pid in children(c.pids()["agent"]) if _is(pid, b"gpuq-launcher"))
        plain = _cost_ms(c, launcher, {}) - floor
        limited = _cost_ms(c, launcher, {"cpus": 1, "memory_bytes": 64 << 20}) - floor
        memory = _memory_of_each(c, launcher)
    return [
        Figure("launch of a job, processor time beside its own", plain, "ms", must=5, floor=floor),
        Figure("the same with -c and --mem", limited, "ms", must=5, floor=floor),
        Figure("private memory for each running job", memory, "MB", must=6),
    ]


def _cost_ms(c: Cluster, launcher: int, limits: dict[str, int]) -> float:
    """Of one /bin/true, its own time included."""
    before = _with_children(launcher)
    _run(c, ["/bin/true"], JOBS, limits, "SUCCEEDED")
    time.sleep(_SETTLE_SECONDS)
    return (_with_children(launcher) - before) / JOBS * 1e3


def _memory_of_each(c: Cluster, launcher: int) -> float:
    """Mean of what supervisors do not share with anyone."""
    _run(c, ["/bin/sleep", "1000"], RUNNING, {}, "RUNNING")
    supervisors = [pid for pid in descendants(launcher) if _is(pid, b"gpuq-supervisor")]
    kib = sum(
        int(line.split()[1])
        for pid in supervisors
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Private_")
    )
    return kib / 1024 / len(supervisors)


def _run(c: Cluster, command: list[str], count: int, limits: dict[str, int], until: str) -> None:
    body = {"command": command, "cwd": "/", "environment": {"PATH": os.environ["PATH"]}, "gpus": 1, **limits}
    id = c.client.post("/jobs", {**body, "array": f"1-{count}"})["id"]

    def all_there() -> bool:
        counts = c.client.get(f"/jobs/{id}")["array"]["counts"]
        return bool(counts.get(until, 0) == count)

    c.wait_until(all_there, f"{count} jobs {until}")


def _bare_spawn() -> float:
    """Processor time of starting and awaiting /bin/true, in ms."""
    before = os.times()
    for _ in range(JOBS):
        subprocess.run(["/bin/true"], check=True)
    after = os.times()
    spent = sum(after[n] - before[n] for n in (2, 3))  # of children: this process' own is Python's
    return spent / JOBS * 1e3


def _with_children(pid: int) -> float:
    """Seconds a process and those it has awaited have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _is(pid: int, name: bytes) -> bool:
    return read_proc(f"/proc/{pid}/comm").strip() == name
