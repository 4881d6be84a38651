"""One running controller for a file of tests, and nodes to run things on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.api.server import Agent, Running, start


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    controller = start(tmp_path_factory.mktemp("home") / "controller")
    yield controller
    assert controller.stop() == 0


@pytest.fixture(scope="module")
def new_node(running: Running) -> Callable[[], Agent]:
    """Adds a node that is up and offers 4 GPUs."""
    numbers = itertools.count(1)

    def add() -> Agent:
        agent = Agent(running, f"node-{next(numbers)}")
        agent.sync()
        return agent

    return add
