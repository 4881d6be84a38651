"""How long a short verb takes from its first instruction to its exit, as a whole process."""

from __future__ import annotations

import subprocess
import sys

from bench.cluster import GPUQ, cluster
from bench.figures import Figure, median_ms

TIMES = 21


def measure() -> list[Figure]:
    python = median_ms(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True), TIMES)
    with cluster(8) as c:
        job = c.run("submit", "--parsable", "-H", "true").stdout.strip()
        verbs = {
            "version": ["version"],
            "submit": ["submit", "-H", "-G", "1", "true"],
            "queue": ["queue"],
            "show": ["show", job],
            "why": ["why", job],
            "nodes": ["nodes"],
            "gpus": ["gpus"],
            "events": ["events"],
            "history": ["history"],
            "update": ["update", job, "--comment", "x"],
            "status": ["status"],
        }

        def run(words: list[str]) -> float:
            command = [*GPUQ, *words]
            return median_ms(
                lambda: subprocess.run(command, env=c.environ, stdout=subprocess.DEVNULL, check=True), TIMES
            )

        return [
            Figure(f"gpuq {verb}, whole process", run(words), "ms", must=100, aim=60, floor=python)
            for verb, words in verbs.items()
        ]
