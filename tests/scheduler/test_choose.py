"""Where jobs go: the rules one by one, and any choice against a search through everything."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import pytest

from gpuq.model import NodeName, Rank, Request
from gpuq.node import Gpu
from gpuq.scheduler.choose import Chooser
from gpuq.scheduler.fit import Room, fits, matching
from gpuq.scheduler.free import after, free_of, kind_of
from gpuq.scheduler.placing import PLACINGS
from tests.service.builders import an_inventory

GIB = 1 << 30
H100, A100, V100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "Tesla V100-SXM2-16GB"
NO_DEMAND: Mapping[Request, int] = {}


def a_room(name: str, *gpus: str, cpus: int = 64, sizes: tuple[int, ...] = ()) -> Room:
    sizes = sizes or tuple({H100: 80, A100: 40, V100: 16}[gpu] for gpu in gpus)
    offered = tuple(
        Gpu(i, f"{name}-{i}", gpu, size * GIB) for i, (gpu, size) in enumerate(zip(gpus, sizes, strict=True))
    )
    inventory = replace(an_inventory(cpus=cpus), gpus=offered)
    every = tuple(gpu.index for gpu in offered)
    return Room(NodeName(name), inventory, every, cpus, inventory.memory_total_bytes, ranks=128)


def copied(room: Room) -> Room:
    return replace(room, shares=dict(room.shares), accepted={}, meets={})


def started(chooser: Chooser, *requests: Request) -> list[str]:
    """Places one after the other; the nodes, or '-' for what did not fit."""
    nodes = []
    for request in requests:
        ranks = chooser.choose(request)
        chooser.take(ranks or ())
        nodes.append("-" if ranks is None else "+".join(rank.node for rank in ranks))
    return nodes


# ---------------------------------------------------------------- the rules


def test_small_jobs_share_a_node_so_that_whole_ones_stay_whole() -> None:
    chooser = Chooser([a_room("a", *[A100] * 4), a_room("b", *[A100] * 4)], NO_DEMAND)
    one = Request(gpus_per_node=1)
    assert started(chooser, one, one, Request(gpus_per_node=4), one, one) == ["a", "a", "b", "a", "a"]


def test_a_model_that_others_ask_for_is_left_to_them() -> None:
    any_gpu, an_h100 = Request(gpus_per_node=1), Request(gpus_per_node=1, gpu_type="h100")
    rooms = [a_room("a", H100, H100), a_room("b", A100, A100)]
    chooser = Chooser(rooms, {any_gpu: 2, an_h100: 2})
    assert started(chooser, any_gpu, any_gpu, an_h100, an_h100) == ["b", "b", "a", "a"]


def test_it_is_kept_but_not_kept_idle() -> None:
    any_gpu, an_h100 = Request(gpus_per_node=1), Request(gpus_per_node=1, gpu_type="h100")
    chooser = Chooser([a_room("a", H100)], {any_gpu: 1, an_h100: 5})
    assert started(chooser, any_gpu) == ["a"]


def test_where_nobody_asks_for_a_model_smaller_gpus_go_first() -> None:
    chooser = Chooser([a_room("a", H100), a_room("b", V100)], NO_DEMAND)
    assert started(chooser, Request(gpus_per_node=1)) == ["b"]


def test_work_that_needs_many_cpus_leaves_enough_beside_free_gpus() -> None:
    """Either node has the GPU; on the first no job of eight CPUs could use the other three then."""
    usual, hungry = Request(gpus_per_node=1, cpus=8), Request(gpus_per_node=1, cpus=30)
    rooms = [a_room("a", *[A100] * 4, cpus=32), a_room("b", *[A100] * 4, cpus=128)]
    assert started(Chooser(rooms, {usual: 20, hungry: 1}), hungry) == ["b"]


def test_work_without_gpus_stays_away_from_cpus_that_gpus_need() -> None:
    with_gpu, without = Request(gpus_per_node=1, cpus=8), Request(cpus=8)
    rooms = [a_room("a", *[A100] * 4, cpus=32), a_room("b", A100, cpus=32), a_room("c", cpus=8)]
    assert started(Chooser(rooms, {with_gpu: 9}), *[without] * 5) == ["c", "b", "b", "b", "a"]


def test_work_that_reserves_nothing_spreads_over_nodes() -> None:
    rooms = [a_room("a"), a_room("b"), a_room("c")]
    assert started(Chooser(rooms, NO_DEMAND), *[Request()] * 6) == ["a", "b", "c", "a", "b", "c"]


def test_shares_fill_up_a_gpu_before_they_open_another() -> None:
    half, third = Request(gpus_per_node=1, gpu_share_bytes=20 * GIB), Request(gpus_per_node=1, gpu_share_bytes=10 * GIB)
    chooser = Chooser([a_room("a", A100, A100), a_room("b", A100, A100)], NO_DEMAND)
    ranks = [chooser.choose(half)]
    chooser.take(ranks[0] or ())
    for request in (third, third, Request(gpus_per_node=2), half):
        ranks.append(chooser.choose(request))
        chooser.take(ranks[-1] or ())
    assert [(r[0].node, r[0].gpus) for r in ranks if r] == [
        ("a", (0,)),
        ("a", (0,)),
        ("a", (0,)),
        ("b", (0, 1)),
        ("a", (1,)),
    ]


def test_a_gang_starts_whole_or_not_at_all() -> None:
    chooser = Chooser([a_room("a", A100, A100), a_room("b", A100, A100), a_room("c", A100)], NO_DEMAND)
    assert started(chooser, Request(nodes=3, gpus_per_node=2), Request(nodes=2, gpus_per_node=2)) == ["-", "a+b"]


def test_a_gang_runs_on_one_model_where_that_is_possible() -> None:
    rooms = [a_room("a", V100), a_room("b", H100), a_room("c", V100), a_room("d", H100), a_room("e", H100)]
    assert started(Chooser(rooms, NO_DEMAND), Request(nodes=3, gpus_per_node=1)) == ["b+d+e"]
    assert started(Chooser(rooms, NO_DEMAND), Request(nodes=2, gpus_per_node=1)) == ["a+c"]


def test_a_gang_takes_each_node_once_of_those_it_may_have() -> None:
    names = tuple(map(NodeName, "abc"))
    rooms = [a_room(name, *[A100] * 4) for name in names]
    two = Request(nodes=2, gpus_per_node=1)
    assert started(
        Chooser(rooms, NO_DEMAND), replace(two, only_nodes=names[1:]), replace(two, not_nodes=names[1:])
    ) == [
        "b+c",
        "-",
    ]


# ---------------------------------------------------------------- any choice

SEEDS = range(40)


def some_rooms(chance: random.Random) -> list[Room]:
    rooms = []
    for number in range(chance.randint(1, 5)):
        model = chance.choice([H100, A100, V100])
        gpus = [model] * chance.randint(0, 4) if chance.random() < 0.8 else chance.choices([H100, V100], k=3)
        rooms.append(a_room(f"n{number}", *gpus, cpus=chance.choice([4, 16, 64])))
    return rooms


def some_requests(chance: random.Random, many: int) -> list[Request]:
    requests = []
    for _ in range(many):
        gpus = chance.choice([0, 1, 1, 1, 2, 4])
        share = chance.choice([None, 5 * GIB, 12 * GIB, 30 * GIB]) if gpus == 1 else None
        requests.append(
            Request(
                nodes=chance.choice([1, 1, 1, 2]),
                gpus_per_node=gpus,
                gpu_share_bytes=share,
                gpu_type=chance.choice([None, None, "h100", "v100"]) if gpus else None,
                constraint=chance.choice(["", "", "a100|h100"]) if gpus else "",
                cpus=chance.choice([0, 1, 4, 9]),
                exclusive=chance.random() < 0.05,
                not_nodes=(NodeName("n1"),) if chance.random() < 0.1 else (),
                only_nodes=(NodeName("n0"), NodeName("n2")) if chance.random() < 0.1 else (),
            )
        )
    return requests


def within_its_node(room: Room) -> bool:
    memory = {gpu.index: gpu.memory_total_bytes or 0 for gpu in room.inventory.gpus}
    return (
        room.cpus >= 0
        and room.memory_bytes >= 0
        and not set(room.gpus) & set(room.shares)
        and all(0 <= left < memory[i] for i, left in room.shares.items())
    )


@pytest.mark.parametrize("placing", PLACINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_choice_takes_more_than_there_is_and_giving_back_undoes_it(seed: int, placing: str) -> None:
    chance = random.Random(seed)
    rooms, requests = some_rooms(chance), some_requests(chance, 40)
    empty = [copied(room) for room in rooms]
    chooser = Chooser(rooms, Counter(requests), placing)
    granted: list[tuple[Rank, ...]] = []
    for request in requests:
        if granted and chance.random() < 0.3:
            chooser.give(granted.pop(chance.randrange(len(granted))))
        able = [room.name for room in rooms if fits(room, request)]
        ranks = chooser.choose(request)
        assert (ranks is not None) == (len(able) >= request.nodes), "what fits is placed, and only that"
        if ranks is None:
            continue
        assert len({rank.node for rank in ranks}) == request.nodes
        assert {rank.node for rank in ranks} <= set(able)
        assert all(len(set(rank.gpus)) == request.gpus_per_node for rank in ranks)
        chooser.take(ranks)
        granted.append(ranks)
        assert all(map(within_its_node, rooms))
    for ranks in granted:
        chooser.give(ranks)
    assert [copied(room) for room in rooms] == empty


@pytest.mark.parametrize("placing", PLACINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_equal_rooms_and_demand_give_equal_choices_whatever_came_before(seed: int, placing: str) -> None:
    """Kept between choices are only things that would be found again."""
    chance = random.Random(seed)
    rooms, requests = some_rooms(chance), some_requests(chance, 30)
    chooser = Chooser(rooms, Counter(requests), placing)
    for request in requests:
        anew = [copied(room) for room in rooms]
        chance.shuffle(anew)
        demand = Counter(requests) if placing == "fgd-like" else Counter(chance.choices(requests, k=9))
        chooser.weigh(demand)
        assert chooser.choose(request) == Chooser(anew, demand, placing).choose(request)
        chooser.take(chooser.choose(request) or ())


@pytest.mark.parametrize("placing", PLACINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_choice_is_the_best_of_all_there_are(seed: int, placing: str) -> None:
    """Against every set of equal GPUs of every node."""
    chance = random.Random(seed)
    rooms, requests = some_rooms(chance), some_requests(chance, 30)
    chooser, demand = Chooser(rooms, Counter(requests), placing), Counter(requests)
    scoring = PLACINGS[placing]()
    scoring.weigh(
        demand, [free_of(kind_of(room.inventory), room) for room in sorted(rooms, key=lambda room: room.name)]
    )
    for request in requests:
        ranks = chooser.choose(request)
        if request.nodes == 1 and ranks is not None:
            ways = []
            for room in rooms:
                kind = kind_of(room.inventory)
                if not fits(room, request):
                    continue
                sets = list(combinations(sorted(matching(room, request)), request.gpus_per_node))
                if kind.mixed and request.gpu_share_bytes is None:
                    del sets[1:]  # of whole GPUs that differ in one node the first are taken, whatever the others are
                for gpus in sets:
                    rank = Rank(room.name, gpus, request.cpus, 0, request.gpu_share_bytes, request.exclusive)
                    ways.append((scoring.score(free_of(kind, room), after(kind, room, rank), request), room.name))
            assert ranks[0].node == min(ways)[1]
        chooser.take(ranks or ())
