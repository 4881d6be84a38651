"""python3 build.py bench [NAME...]: measures the built gpuq.pyz on this machine and prints one table.

Names: startup, submit, launch, drain, flood, logs, list, idle, tui, scheduler. Without any, all but scheduler, which
needs the published traces and a quarter of an hour.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench import drain, flood, idle, launch, listing, logs, scheduler, startup, submit, tui
from bench.figures import Figure, table

BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "startup": startup.measure,
    "submit": submit.measure,
    "launch": launch.measure,
    "drain": drain.measure,
    "flood": flood.measure,
    "logs": logs.measure,
    "list": listing.measure,
    "idle": idle.measure,
    "tui": tui.measure,
    "scheduler": scheduler.measure,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"bench: no such measurement: {unknown[0]} (one of: {', '.join(BENCHES)})", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for name in names or [name for name in BENCHES if name != "scheduler"]:
        print(f"bench: {name} ...", file=sys.stderr, flush=True)
        figures += BENCHES[name]()
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
