"""How many jobs of /bin/true, each asking for one GPU, a full queue gets through a second."""

from __future__ import annotations

import os
import subprocess
import time

from bench.cluster import cluster
from bench.figures import Figure, median_ms

JOBS = 1_500


def measure() -> list[Figure]:
    spawns = 1_000 / median_ms(lambda: subprocess.run(["/bin/true"], check=True), 50)
    return [
        Figure(f"drain of {JOBS:,} jobs, {slots} slots", _drain(slots), "/s", 300, 630, spawns, rate=True)
        for slots in (8, 64)
    ]


def _drain(slots: int) -> float:
    with cluster(slots) as c:
        body = {"command": ["/bin/true"], "cwd": "/", "environment": {"PATH": os.environ["PATH"]}, "gpus": 1}
        id = c.client.post("/jobs", {**body, "array": f"1-{JOBS}"})["id"]
        began = time.perf_counter()
        c.wait_until(lambda: c.client.get(f"/jobs/{id}", {"wait": 5, "seen": _LIVE})["state"] == "SUCCEEDED", "drain")
        return JOBS / (time.perf_counter() - began)


_LIVE = "QUEUED,ALLOCATED,STARTING,RUNNING,STOPPING"
