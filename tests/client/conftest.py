from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.scripted import Reply, ScriptedController

Start = Callable[..., ScriptedController]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts scripted controllers of one cluster: they share a CA. All are closed at the end."""
    started: list[ScriptedController] = []

    def run(reply: Reply, port: int = 0, home: str = "home") -> ScriptedController:
        (tmp_path / home).mkdir(exist_ok=True)
        started.append(ScriptedController(tmp_path / home, reply, port))
        return started[-1]

    yield run
    for controller in started:
        controller.close()
