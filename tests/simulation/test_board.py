"""Through every fault, the rows and nodes of the board and what was touched of them are the present."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gpuq.model import Job, JobId
from gpuq.service.board import Board
from gpuq.states import JobState
from tests.simulation.world import TROUBLE_SECONDS, World


class Follower:
    """Holds what a board shows, kept current by what it says was touched."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.board: Board | None = None
        self.rows: dict[str, Any] = {}
        self.nodes: dict[str, Any] = {}
        self.resets = self.updates = self._at = 0

    def update(self) -> None:
        controller = self._world.host.controller
        if controller is None:
            return
        board = controller.commit.board
        board.look()
        board.forget_ended(self._world.clock.now().wall)
        more = board is self.board
        if not more:
            self._load(board)
        while more:
            touched = board.since(self._at, most=3)
            if touched is None:
                self.resets += 1
                self._load(board)
                break
            for id in touched.rows:
                self._set(self.rows, id, self._row(id))
            for name in touched.nodes:
                self._set(self.nodes, name, self._node(name))
            self._at, more = touched.at, touched.more
            self.updates += 1

    def _load(self, board: Board) -> None:
        self.board, self._at = board, board.at
        self.rows, self.nodes = self.present()

    def present(self) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self.board is not None
        view = self._world.host.controller.view  # type: ignore[union-attr]
        ids = [job.id for job in view.live_jobs() if job.index is None] + list(self.board.ended)
        return {id: self._row(id) for id in ids}, {name: self._node(name) for name in view.nodes}

    def counted(self) -> Counter[JobState]:
        total: Counter[JobState] = Counter()
        for job, elements in self.rows.values():
            total.update({job.state: 1} if elements is None else elements)
        return total

    def _row(self, id: JobId) -> tuple[Job, Any] | None:
        assert self.board is not None
        ended = self.board.ended.get(id)
        job = self._world.host.controller.view.job(id) if ended is None else ended.job  # type: ignore[union-attr]
        elements = self.board.elements(id)
        return None if job is None else (job, None if elements is None else +Counter(elements))

    def _node(self, name: Any) -> tuple[Any, ...] | None:
        view = self._world.host.controller.view  # type: ignore[union-attr]
        held = {attempt.uid for attempt in view.attempts_on(name)}
        return (view.nodes[name], view.node_state(name), held) if name in view.nodes else None

    def _set(self, shown: dict[str, Any], key: str, value: Any) -> None:
        if value is None:
            shown.pop(key, None)
        else:
            shown[key] = value


@pytest.mark.parametrize("seed", range(6))
def test_what_is_touched_is_enough_to_follow_the_cluster_through_all_faults(seed: int) -> None:
    world = World(seed)
    follower = Follower(world)
    lives = 0
    while world.clock.time < TROUBLE_SECONDS and world.clock.step():
        if world.host.controller is None or world.clock.random.random() < 0.7:
            continue
        lives += follower.board is not world.host.controller.commit.board
        follower.update()
        assert (follower.rows, follower.nodes) == follower.present()
        assert follower.counted() == +follower.board.counts  # type: ignore[union-attr]
    assert follower.updates > 500
    assert lives + follower.resets > 1
