"""What an agent with nothing to do costs."""

from __future__ import annotations

import time

from bench.cluster import cluster, cpu_seconds, status_kib
from bench.figures import Figure

SECONDS = 40.0


def measure() -> list[Figure]:
    with cluster(8) as c:
        pids = c.pids()
        time.sleep(5.0)  # what starting cost is not idling
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(SECONDS)
        share = {name: (cpu_seconds(pid) - before[name]) / SECONDS * 100 for name, pid in pids.items()}
        return [
            Figure("idle agent, memory", status_kib(pids["agent"]) / 1024, "MB", must=40),
            Figure("idle agent, share of a core", share["agent"], "%", must=0.3),
            Figure("idle controller, memory", status_kib(pids["controller"]) / 1024, "MB"),
            Figure("idle controller, share of a core", share["controller"], "%"),
        ]
