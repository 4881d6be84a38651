"""Many runs that take long, on all cores, with a word on how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

_Run = TypeVar("_Run")
_Result = TypeVar("_Result")


def spread(work: Callable[[_Run], _Result], runs: Sequence[_Run], what: str) -> dict[_Run, _Result]:
    """What work makes of each run, begun in this order. The first error ends all that has not begun."""
    found: dict[_Run, _Result] = {}
    with ProcessPoolExecutor() as pool:
        coming = {pool.submit(work, run): run for run in runs}
        try:
            for future in as_completed(coming):
                found[coming[future]] = future.result()
                print(f"bench: scheduler: {what}: {len(found)} of {len(runs)}", file=sys.stderr, flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return found
