"""10,000 jobs of /bin/true submitted at once into one cluster: when the first starts, and that none gets stuck."""

from __future__ import annotations

import time
from datetime import datetime

from bench.cluster import Cluster, cluster
from bench.figures import Figure
from bench.submit import CLIENTS, fill

JOBS = 10_000
SLOTS = 64
PATIENCE_SECONDS = 600.0
_PAGE = 1_000
_LOOK_SECONDS = 1.0


def measure() -> list[Figure]:
    with cluster(SLOTS) as c:
        began = time.perf_counter()
        seconds = fill(c, JOBS)
        _until_idle(c, began + PATIENCE_SECONDS)
        took = time.perf_counter() - began
        ended = _ended(c)
    first = min(ended, key=lambda job: job["started_at"] or "9")
    wait = (_seconds(first["started_at"]) - _seconds(first["submitted_at"])) * 1e3
    stuck = JOBS - sum(job["state"] == "SUCCEEDED" for job in ended)
    return [
        Figure(f"{JOBS:,} jobs at once, {CLIENTS} connections: submitted", JOBS / seconds, "/s", rate=True),
        Figure("the first of them, from its submit to its start", wait, "ms", must=100),
        Figure(f"all of them ended, {SLOTS} slots, from the first submit", took, "s"),
        Figure("of them, those that did not end well", stuck, "jobs", must=0),
    ]


def _until_idle(c: Cluster, deadline: float) -> None:
    while c.client.get("/jobs", {"limit": 1})["items"] and time.perf_counter() < deadline:
        time.sleep(_LOOK_SECONDS)  # each look costs the controller what a job does


def _ended(c: Cluster) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    after = None
    while True:
        page = c.client.get("/jobs", {"all": 1, "limit": _PAGE, **({"after": after} if after else {})})
        found += page["items"]
        after = page["next"]
        if not after:
            return found


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
