"""The only SQL: one database file, one writer thread, one file of queries per table.

`Store` owns the file and gives read connections; `Writer` makes changes durable in groups. The modules beside them
(jobs, specs, attempts, nodes, events, replies, tokens) hold functions that take a connection.
"""

from __future__ import annotations

from gpuq.store.db import Snapshot, Store
from gpuq.store.writer import FailureKind, StoreFailure, Writer

__all__ = ["FailureKind", "Snapshot", "Store", "StoreFailure", "Writer"]
