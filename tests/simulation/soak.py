"""python -m tests.simulation.soak --seeds N [--from S]: many histories on all cores; exits 1 if any breaks."""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import os
import sys
import time

from tests.simulation.invariants import run
from tests.simulation.world import Broken

PART = 25


def play(first: int, count: int) -> list[str]:
    """Breaches among `count` histories from seed `first` on, a line each."""
    logging.disable(logging.CRITICAL)
    broken = []
    for seed in range(first, first + count):
        try:
            run(seed)
        except Broken as breach:
            broken.append(str(breach))
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5_000, help="how many histories")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    began, done, breaches = time.monotonic(), 0, 0
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = {
            pool.submit(play, first, min(PART, asked.first + asked.seeds - first)): first
            for first in range(asked.first, asked.first + asked.seeds, PART)
        }
        for part in concurrent.futures.as_completed(parts):
            done += min(PART, asked.first + asked.seeds - parts[part])
            for line in part.result():
                breaches += 1
                print(f"\nbroken: {line}")
            print(f"\r{done}/{asked.seeds} histories, {breaches} broken", end="", flush=True)
    print(f"\n{asked.seeds} histories in {time.monotonic() - began:.0f} s, {breaches} broken")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
