from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuq.store import Store
from tests.store.builders import Overtaken, RunningWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "controller.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store.open(path)
    yield store
    store.close()


@pytest.fixture
def overtaken(path: Path, store: Store) -> Iterator[Overtaken]:
    conn = sqlite3.connect(path, isolation_level=None, factory=Overtaken)
    yield conn
    conn.close()


@pytest.fixture
def running(store: Store) -> Iterator[RunningWriter]:
    running = RunningWriter(store)
    yield running
    running.writer.close()
