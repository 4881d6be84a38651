from __future__ import annotations

import dataclasses

import pytest

from agent.simulated import SimulatedGpus, parse_simulated, sample
from gpuq.errors import InvalidRequest
from gpuq.model import NodeName
from gpuq.node import Gpu

GIB = 1 << 30
NODE = NodeName("a3")
H100 = Gpu(0, "GPU-sim-a3-0", "H100-80GB", 80 * GIB)


def named(spec: str) -> list[tuple[int, str, int | None]]:
    return [(g.index, g.name, g.memory_total_bytes) for g in parse_simulated(spec, NODE)]


def test_spec_gives_that_many_gpus_with_that_memory() -> None:
    assert named("8xH100-80GB") == [(i, "H100-80GB", 80 * GIB) for i in range(8)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("H100-80GB", [(0, "H100-80GB", 80 * GIB)]),
        ("1XA100-40g", [(0, "A100-40GB", 40 * GIB)]),
        ("RTX 6000 Ada-48GB", [(0, "RTX 6000 Ada-48GB", 48 * GIB)]),
        ("A100-SXM4-40GiB", [(0, "A100-SXM4-40GB", 40 * GIB)]),
        (
            "2xH100-80GB, 1xA100-40GB",
            [(0, "H100-80GB", 80 * GIB), (1, "H100-80GB", 80 * GIB), (2, "A100-40GB", 40 * GIB)],
        ),
    ],
)
def test_spec_in_other_spellings(spec: str, expected: list[tuple[int, str, int]]) -> None:
    assert named(spec) == expected


def test_uuids_are_stable_and_differ_between_nodes() -> None:
    here = [g.uuid for g in parse_simulated("2xH100-80GB", NODE)]
    assert here == ["GPU-sim-a3-0", "GPU-sim-a3-1"]
    assert not set(here) & {g.uuid for g in parse_simulated("2xH100-80GB", NodeName("b1"))}


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "8",
        "8xH100",
        "H100-80",
        "-1xH100-80GB",
        "0xH100-80GB",
        "65xH100-80GB",
        "40xH100-80GB,25xA100-40GB",
        "999999xH100-80GB",
        "H100-0GB",
        "H100-999999GB",
        "H100-80GB,",
        "8 x H100-80GB",
        "4xH100-80TB",
        "H100\n-80GB",
        "é100-80GB",
    ],
)
def test_bad_spec_is_refused_in_one_line_that_names_the_option(spec: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_simulated(spec, NODE)
    assert caught.value.one_line().startswith("--simulate-gpus: ")
    assert "\n" not in caught.value.one_line()


def test_idle_gpu_does_nothing_and_is_cool() -> None:
    idle = sample(H100, None, 1000.0)
    assert idle.utilization_percent == 0
    assert 0 < (idle.memory_used_bytes or 0) < GIB
    assert 25 <= (idle.temperature_c or 0) <= 40
    assert 50 <= (idle.power_w or 0) <= 100


def test_held_gpu_ramps_up_from_idle_to_busy() -> None:
    start, soon, later = (sample(H100, 1000.0, 1000.0 + age) for age in (0.0, 3.0, 300.0))
    assert start == sample(H100, None, 1000.0)
    assert 0 < (soon.utilization_percent or 0) < (later.utilization_percent or 0) <= 100
    assert (later.utilization_percent or 0) >= 80
    assert 0.4 * 80 * GIB < (later.memory_used_bytes or 0) < 80 * GIB
    assert 55 <= (later.temperature_c or 0) <= 85
    assert 400 <= (later.power_w or 0) <= 700
    assert (soon.temperature_c or 0) < (later.temperature_c or 0)


def test_values_stay_in_bounds_at_any_time() -> None:
    for kind in ("H100-80GB", "T4-16GB", "Unheard-24GB"):
        (gpu,) = parse_simulated(kind, NODE)
        for now in range(0, 4000, 7):
            one = sample(gpu, 500.0, float(now))
            assert 0 <= (one.utilization_percent or 0) <= 100
            assert 0 < (one.memory_used_bytes or 0) < (gpu.memory_total_bytes or 0)
            assert 25 <= (one.temperature_c or 0) <= 90


def test_same_question_same_answer_and_gpus_differ_from_each_other() -> None:
    assert sample(H100, 5.0, 90.0) == sample(H100, 5.0, 90.0)
    twin = dataclasses.replace(H100, uuid="GPU-sim-b1-0")
    assert sample(H100, 5.0, 90.0) != sample(twin, 5.0, 90.0)


def test_only_held_gpus_of_a_node_are_busy() -> None:
    source = SimulatedGpus(parse_simulated("4xH100-80GB", NODE))
    reading = source.read(200.0, {1: 100.0, 3: 100.0})
    assert source.simulated
    assert [(s.utilization_percent or 0) > 50 for s in reading.samples] == [False, True, False, True]
    assert [s.index for s in reading.samples] == [g.index for g in reading.gpus] == [0, 1, 2, 3]
