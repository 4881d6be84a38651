"""A job that prints 200 MB: how fast its log is on the controller's disk, and what that takes of the controller."""

from __future__ import annotations

import time

from bench.cluster import cluster, cpu_seconds
from bench.figures import Figure

MEGABYTES = 200


def measure() -> list[Figure]:
    size = MEGABYTES << 20
    with cluster(1) as c:
        controller = c.pids()["controller"]
        used, began = cpu_seconds(controller), time.monotonic()
        line = f"yes 'epoch 17 step 12345 loss 0.123456 lr 0.0003 time 1.234' | head -c {size}"
        id = c.client.post("/jobs", {"command": ["/bin/sh", "-c", line], "cwd": "/"})["id"]

        def arrived() -> bool:
            headers = c.client.raw(f"/jobs/{id}/log", {"limit": 0}).headers
            return int(headers.get("gpuq-log-size", 0)) == size

        c.wait_until(arrived, f"a log of {MEGABYTES} MB")
        took, used = time.monotonic() - began, cpu_seconds(controller) - used
    return [
        Figure(f"a log of {MEGABYTES} MB, from job to the controller's disk", MEGABYTES / took, "MB/s", rate=True),
        Figure("the controller's processor time meanwhile", used * 1e3 / MEGABYTES, "ms/MB"),
        Figure("share of a core it takes meanwhile", used / took * 100, "%"),
    ]
