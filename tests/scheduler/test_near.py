"""GPUs of one node that are close to each other: a job gets neighbours, and leaves neighbours to the next."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from gpuq.node import Inventory
from gpuq.scheduler.near import closest
from tests.service.builders import Desk, a_node, an_inventory

# Four pairs linked by a bridge each, two pairs below each of two CPUs.
PAIRS = tuple(
    "".join("0" if i == j else "1" if i // 2 == j // 2 else "6" if i // 4 == j // 4 else "7" for j in range(8))
    for i in range(8)
)


def machine(rows: tuple[str, ...] = PAIRS) -> Inventory:
    inventory = an_inventory(gpus=len(rows), cpus=64)
    return replace(inventory, gpus=tuple(replace(g, distances=r) for g, r in zip(inventory.gpus, rows, strict=True)))


@pytest.mark.parametrize(
    ("free", "count", "chosen"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 2, (0, 1)),
        ([0, 2, 3, 5, 6], 2, (2, 3)),  # a pair, though not the first
        ([0, 2, 5, 7], 2, (0, 2)),
        ([0, 3, 4, 5, 6, 7], 4, (4, 5, 6, 7)),
        ([0, 1, 2, 4, 5], 1, (2,)),  # whole pairs stay whole
        ([1, 4, 5, 6, 7], 1, (1,)),
        ([0, 1, 2, 3, 4, 5, 6, 7], 3, (0, 1, 2)),
        ([0, 1, 2], 3, (0, 1, 2)),
        ([3, 5], 0, ()),
    ],
)
def test_neighbours_are_taken_and_neighbours_are_left(free: list[int], count: int, chosen: tuple[int, ...]) -> None:
    assert closest(machine(), free, count) == chosen


@pytest.mark.parametrize("seed", range(60))
def test_no_set_is_closer(seed: int) -> None:
    """On machines built as such machines are: groups in groups."""
    chance = random.Random(seed)
    groups = [(chance.randrange(2), chance.randrange(2)) for _ in range(chance.randint(3, 8))]
    rows = tuple(
        "".join("0" if i == j else "1" if a == b else "4" if a[0] == b[0] else "7" for j, b in enumerate(groups))
        for i, a in enumerate(groups)
    )
    free = sorted(chance.sample(range(len(groups)), chance.randint(2, len(groups))))
    count = chance.randint(1, len(free))

    def apart(chosen: tuple[int, ...]) -> int:
        return sum(int(rows[a][b]) for a in chosen for b in chosen)

    assert apart(closest(machine(rows), free, count)) == min(map(apart, itertools.combinations(free, count)))


def test_jobs_are_placed_by_it_and_without_it_by_index() -> None:
    for inventory, expected in (
        (machine(), [(0,), (2, 3), (4, 5, 6, 7)]),
        (an_inventory(8), [(0,), (1, 2), (3, 4, 5, 6)]),
    ):
        desk = Desk(a_node(inventory=inventory))
        ids = [desk.submit(gpus=count) for count in (1, 2, 4)]
        desk.plan()
        assert [desk.attempt(id).ranks[0].gpus for id in ids] == expected
