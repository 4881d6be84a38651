"""A small controller for tests that kill it or break its disk: `python submitter.py DATABASE COUNT IN_FLIGHT`.

Submits jobs 1, 2, ... each as the change of the same number, up to COUNT, so many in flight; goes on where the database
stands. Prints `durable N` when change N is acknowledged, `full N` or `broken N` when changes from N on failed. After
`full` it rolls back to what the database holds and goes on, as a controller does; after `broken` it ends with 3.
"""

from __future__ import annotations

import queue
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpuq.store import FailureKind, Store, StoreFailure, Writer
from tests.store.builders import a_submit


def main(path: Path, count: int, in_flight: int) -> int:
    store = Store.open(path)
    news: queue.SimpleQueue[int | StoreFailure] = queue.SimpleQueue()
    writer = Writer(store, news.put, news.put)
    durable = given = store.last_seq()
    while durable < count:
        while given < min(count, durable + in_flight):
            given += 1
            writer.enqueue(given, a_submit(given))
        said = news.get(timeout=30)
        if isinstance(said, int):
            durable = said
            print(f"durable {durable}", flush=True)
            continue
        print(f"{said.kind.value} {said.first_seq}", flush=True)
        if said.kind is FailureKind.BROKEN:
            writer.enqueue(given + 1, a_submit(given + 1))  # must not become durable any more
            writer.close()
            return 3 if news.empty() else 4
        durable = given = store.load().last_seq
        writer.resume()
    writer.close()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
