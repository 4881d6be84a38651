"""Submitting through the API: until it is durable, until its process runs, many at once, arrays."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime

from bench.cluster import Cluster, cluster
from bench.figures import Figure, median_ms

CLIENTS = 8
SUBMITS = 2_000
STARTS = 60


def measure() -> list[Figure]:
    spawn = median_ms(lambda: subprocess.run(["/bin/true"], check=True), 50)
    fsyncs = 1_000 / median_ms(_fsync, 300)
    with cluster(8) as c:
        starts = [_start_ms(c) for _ in range(STARTS)]
    with cluster(1) as c:
        c.client.post("/jobs", job(command=["sleep", "600"]))
        single = median_ms(lambda: c.client.post("/jobs", job(hold=True)), 100)
        arrays = {
            size: median_ms(lambda n=size: c.client.post("/jobs", job(array=f"0-{n - 1}", hold=True)), 15)  # type: ignore[misc]
            for size in (10_000, 100_000)
        }
        rate = SUBMITS / fill(c, SUBMITS)
    return [
        Figure("submit through the API to process start, median", statistics.median(starts), "ms", 15, 8, spawn),
        Figure("one submit through the API, until durable", single, "ms", floor=1_000 / fsyncs),
        Figure(f"single durable submits, {CLIENTS} connections", rate, "/s", 1_000, 3_000, fsyncs, rate=True),
        Figure("array of 10,000", arrays[10_000], "ms", must=10),
        Figure("array of 100,000", arrays[100_000], "ms", must=15),
    ]


def job(**values: object) -> dict[str, object]:
    """What a client posts to submit /bin/true on one GPU; values go over it."""
    return {"command": ["/bin/true"], "cwd": "/", "environment": {"PATH": os.environ["PATH"]}, "gpus": 1, **values}


def _start_ms(c: Cluster) -> float:
    """From before the request is sent to when the supervisor saw the process exist, on the same clock."""
    began = time.time()
    id = c.client.post("/jobs", job())["id"]
    shown: dict[str, str] = {}

    def ended() -> bool:
        shown.update(c.client.get(f"/jobs/{id}", {"wait": 5, "seen": "QUEUED,ALLOCATED,STARTING,RUNNING,STOPPING"}))
        return shown["state"] == "SUCCEEDED"

    c.wait_until(ended, "one job")
    return (datetime.fromisoformat(shown["started_at"].replace("Z", "+00:00")).timestamp() - began) * 1e3


def fill(c: Cluster, count: int, make: Callable[[], dict[str, object]] = job) -> float:
    """Submits `count` single jobs over CLIENTS connections at once; gives the seconds it took."""

    def work() -> None:
        client = c.connect()
        for _ in range(count // CLIENTS):
            client.post("/jobs", make())
        client.close()

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _fsync() -> None:
    with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR")) as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
