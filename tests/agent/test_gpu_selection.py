from __future__ import annotations

import pytest

from agent.selection import ALL, GpuSelection, parse_selection
from gpuq.errors import InvalidRequest
from gpuq.node import Gpu

GPUS = [Gpu(i, f"GPU-ab0{i}-1", "x", None) for i in range(4)]


def offered(text: str) -> list[int]:
    selection = parse_selection(text)
    return [g.index for g in GPUS if selection.offers(g)]


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("all", [0, 1, 2, 3]),
        ("none", []),
        ("1-3", [1, 2, 3]),
        ("0,2-3", [0, 2, 3]),
        (" 3 , 1 ", [1, 3]),
        ("2,2,1-2", [1, 2]),
        ("GPU-ab03-1", [3]),
        ("0,GPU-AB02", [0, 2]),
    ],
)
def test_selection_offers_what_it_names(text: str, indices: list[int]) -> None:
    assert offered(text) == indices


def test_selection_tells_what_the_machine_does_not_have() -> None:
    assert parse_selection("1,7-8,GPU-ffff").missing(GPUS) == ("7", "8", "GPU-ffff")
    assert ALL.missing([]) == ()
    assert GpuSelection().missing(GPUS) == ()


@pytest.mark.parametrize("text", ["", ",", "1,", "3-1", "0-64", "-1", "1-", "one", "0;1", "GPU-", "0-99999999999999"])
def test_unreadable_selection_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_selection(text)
    line = caught.value.one_line()
    assert line.startswith("--gpus: ")
    assert "\n" not in line
    assert "0,2-3" in line
