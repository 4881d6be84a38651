"""What one cell says of a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tui.clusters import GIB
from tests.tui.stage import gpu, job, node, store_of
from tui.gpu_cells import Letters, Metric, Standing, gather, mark, standing, watts

MARKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (".", {}, {}),
    ("-", {"cordoned": True}, {}),
    ("-", {"cordoned": True, "draining": True}, {}),
    ("x", {"state": "lost"}, {"jobs": ["1"], "utilization_percent": 90}),
    ("~", {"state": "suspect"}, {"jobs": ["1"], "utilization_percent": 90}),
    ("!", {}, {"health": "quarantined", "jobs": ["1"]}),
    ("!", {}, {"health": "an ailment of a newer agent"}),
    ("?", {}, {"health": "unknown"}),
    ("?", {}, {"jobs": ["1"], "utilization_percent": None}),
    ("f", {}, {"memory_used_bytes": 2 * GIB}),
    ("f", {}, {"health": "foreign", "memory_used_bytes": None}),
    ("8", {}, {"health": "foreign", "jobs": ["1"], "utilization_percent": 100}),
    (".", {}, {"memory_used_bytes": GIB // 2}),
    ("0", {}, {"jobs": ["1"], "utilization_percent": 0}),
    ("1", {}, {"jobs": ["1"], "utilization_percent": 1}),
    ("8", {}, {"jobs": ["1"], "utilization_percent": 100}),
    ("8", {"cordoned": True}, {"jobs": ["1"], "utilization_percent": 100}),
]


@pytest.mark.parametrize(("character", "of_node", "of_gpu"), MARKED)
def test_a_character_alone_says_how_a_gpu_stands(character: str, of_node: Any, of_gpu: Any) -> None:
    assert mark(node("n1", **of_node), gpu(0, **of_gpu)).character == character


def test_no_two_standings_look_alike() -> None:
    shown = {standing(node("n1", **n), gpu(0, **g)): mark(node("n1", **n), gpu(0, **g)).character for _, n, g in MARKED}
    shown.pop(Standing.BUSY)
    assert len(set(shown.values())) == len(shown) == len(Standing) - 1


def test_unknown_memory_is_no_sign_of_somebody_else() -> None:
    assert standing(node("n1"), gpu(0, memory_used_bytes=None)) is Standing.FREE


@pytest.mark.parametrize(
    ("metric", "of_gpu", "character"),
    [
        (Metric.MEMORY, {"memory_used_bytes": 40 * GIB}, "4"),
        (Metric.MEMORY, {"memory_used_bytes": None}, "?"),
        (Metric.MEMORY, {"memory_total_bytes": None}, "?"),
        (Metric.TEMPERATURE, {"temperature_c": 79}, "7"),
        (Metric.TEMPERATURE, {"temperature_c": 85}, "H"),
        (Metric.TEMPERATURE, {"temperature_c": None}, "?"),
        (Metric.OWNER, {}, "B"),
    ],
)
def test_a_busy_gpu_shows_the_figure_asked_for(metric: Metric, of_gpu: dict[str, Any], character: str) -> None:
    assert mark(node("n1"), gpu(0, ("1",), **of_gpu), metric, owner="B").character == character


def test_free_gpus_have_a_temperature_and_no_owner() -> None:
    assert mark(node("n1"), gpu(0, temperature_c=38), Metric.TEMPERATURE).character == "3"
    assert mark(node("n1"), gpu(0), Metric.OWNER).character == "."
    assert mark(node("n1"), gpu(0, ("1",)), Metric.OWNER).character == "?"


def test_users_have_letters_of_their_own() -> None:
    letters = Letters(["bob", "bert", "Bea", "1337", "alice"], "alice").of
    assert letters == {"alice": "@", "1337": "A", "Bea": "B", "bert": "b", "bob": "C"}
    assert "*" in Letters([f"user{n}" for n in range(80)], "alice").of.values()


def test_the_owner_of_an_element_is_that_of_its_array() -> None:
    store = store_of([job("7", user="bob", elements={"size": 2, "counts": {"RUNNING": 2}}), job("8", user="carol")])
    letters = Letters(["bob", "carol"], "alice")
    assert letters.owner(store, gpu(0, ("7_1",))) == "B"
    assert letters.owner(store, gpu(0, ("7_1", "8"))) == "+"
    assert letters.owner(store, gpu(0, ("99",))) is None


def test_sums_leave_out_what_nobody_said() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("utilization_percent", "memory_used_bytes", "temperature_c", "power_w"))
    together = gather([node("n1", [gpu(0, ("1",), utilization_percent=60), gpu(1, **nothing)])])
    assert together.utilization_percent == 60
    assert (together.memory_used_bytes, together.memory_total_bytes) == (60 * GIB, 80 * GIB)
    assert together.hottest_c == 66
    silent = gather([node("n1", [gpu(0, ("1",))], state="suspect")])
    assert silent[2:] == (None, None, None, None, None)
    assert silent.standings == {Standing.SILENT: 1}


@pytest.mark.parametrize(
    ("power", "text"), [(None, "?"), (640.0, "640 W"), (4_900.0, "4.9 kW"), (5_120_000.0, "5.1 MW")]
)
def test_power_is_said_in_its_unit(power: float | None, text: str) -> None:
    assert watts(power) == text
