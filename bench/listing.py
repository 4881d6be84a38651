"""A queue of 10,000 jobs: what listing it costs the command, and what holding it costs the controller."""

from __future__ import annotations

import subprocess

from bench.cluster import GPUQ, Cluster, cluster, status_kib
from bench.figures import Figure, median_ms
from bench.submit import fill, job

QUEUED = 10_000


def measure() -> list[Figure]:
    with cluster(1) as c:
        c.client.post("/jobs", job(command=["sleep", "600"]))  # has the only GPU: whoever comes later waits
        fill(c, QUEUED)
        lines = len(c.run("queue").stdout.splitlines())
        assert lines > QUEUED, f"gpuq queue printed {lines} lines"
        return [
            Figure("list 10,000 queued jobs, whole process", _list(c, "queue"), "ms", must=150, aim=100),
            Figure("the same with --json", _list(c, "queue", "--json"), "ms"),
            Figure("controller memory at 10,000 queued", status_kib(c.pids()["controller"]) / 1024, "MB", 120, 90),
        ]


def _list(c: Cluster, *words: str) -> float:
    command = [*GPUQ, *words]
    return median_ms(lambda: subprocess.run(command, env=c.environ, stdout=subprocess.DEVNULL, check=True), 9)
