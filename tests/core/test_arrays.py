from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq import arrays
from gpuq.errors import InvalidRequest
from gpuq.model import Array, IndexRange, JobId


def indices(array: Array) -> list[int]:
    return list(arrays.expand(array.ranges))


@pytest.mark.parametrize(
    ("text", "expected", "limit"),
    [
        ("0", [0], None),
        ("0-3", [0, 1, 2, 3], None),
        ("5-5", [5], None),
        ("0-10:5", [0, 5, 10], None),
        ("0-9:4", [0, 4, 8], None),
        ("7,1,3", [1, 3, 7], None),
        (" 1 , 2 ", [1, 2], None),
        ("0-6:2,1-5:2", [0, 1, 2, 3, 4, 5, 6], None),
        ("0-5,3-8", list(range(9)), None),
        ("1,1,1", [1], None),
        ("0-9%3", list(range(10)), 3),
        ("2147483647", [2**31 - 1], None),
    ],
)
def test_arrays_in_every_form(text: str, expected: list[int], limit: int | None) -> None:
    array = arrays.parse_array(text)
    assert indices(array) == expected
    assert array.waiting == array.ranges
    assert array.max_running == limit
    assert array.size == len(expected)


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", "a", "-1", "1-", "3-1", "0-9:0", "0-9:-1", "1.5", "0-9:2:3", "٣", "0x1", "1-2-3", "2147483648",
     "0-9%", "0-9%0", "0-9%-1", "0-9%a", "0-9%1%2", "%5", "0-9%1000001", "0-9%0000000001" + "1" * 5_000,
     "9" * 5_000, "0-" + "9" * 5_000, "0-9%" + "9" * 5_000],
)  # fmt: skip
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        arrays.parse_array(text)


@pytest.mark.parametrize(
    "text",
    ["0-9999999999", "0-2147483647", "0-1000000", "0-999999,0-999999", ",".join(["0-999999"] * 50),
     ",".join(f"{i}-2147483647:{i + 1}" for i in range(300)), "0-2147483646:2,1-2147483647:2"],
)  # fmt: skip
def test_more_elements_than_allowed_are_refused_before_any_is_made(text: str) -> None:
    with pytest.raises(InvalidRequest):  # expanding any of these would take minutes and gigabytes
        arrays.parse_array(text)


def test_a_million_elements_are_allowed() -> None:
    assert arrays.parse_array("0-999999").size == 1_000_000
    assert arrays.parse_array("0-1999998:2").size == 1_000_000


sets = st.sets(st.integers(0, 60), min_size=1)


@given(sets)
def test_compact_keeps_the_indices_in_the_fewest_runs(numbers: set[int]) -> None:
    ranges = tuple(arrays.compact(sorted(numbers)))
    assert list(arrays.expand(ranges)) == sorted(numbers)
    assert all(b.start > a.last + 1 for a, b in pairwise(ranges))
    assert arrays.count(ranges) == len(numbers)
    assert arrays.first(ranges) == min(numbers)


parts = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 25), st.integers(1, 6)).map(lambda t: f"{t[0]}-{t[0] + t[1]}:{t[2]}"),
    min_size=1,
    max_size=6,
)


def meant(parts: list[str]) -> set[int]:
    numbers: set[int] = set()
    for part in parts:
        bounds, _, step = part.partition(":")
        start, _, last = bounds.partition("-")
        numbers |= set(range(int(start), int(last) + 1, int(step)))
    return numbers


@given(parts)
def test_ranges_are_ascending_disjoint_and_mean_what_was_written(written: list[str]) -> None:
    array = arrays.parse_array(",".join(written))
    assert indices(array) == sorted(meant(written))
    assert all(a.last < b.start for a, b in pairwise(array.ranges))
    assert indices(arrays.parse_array(arrays.text(array.ranges))) == indices(array)


@given(parts, st.data())
def test_without_takes_exactly_one_index_and_contains_knows(written: list[str], data: st.DataObject) -> None:
    left, ranges = meant(written), arrays.parse_array(",".join(written)).ranges
    while left:
        for probe in range(-1, 70):
            assert arrays.contains(ranges, probe) == (probe in left)
        assert arrays.without(ranges, 71) == ranges
        index = data.draw(st.sampled_from(sorted(left)))
        ranges = arrays.without(ranges, index)
        left.discard(index)
        assert list(arrays.expand(ranges)) == sorted(left)
        assert all(len(r) for r in ranges)
        assert all(a.last < b.start for a, b in pairwise(ranges))
    assert ranges == ()


def test_an_empty_range_has_no_elements() -> None:
    assert len(IndexRange(5, 4)) == 0
    assert list(arrays.expand([IndexRange(5, 4)])) == []


@pytest.mark.parametrize(
    ("id", "element"),
    [("5_7", ("5", 7)), ("5_0", ("5", 0)), ("5", None), ("5_07", None), ("5_", None), ("_5", None), ("5_6_7", None),
     ("5_٣", None), ("5_" + "1" * 11, None), ("", None), ("5_-1", None)],
)  # fmt: skip
def test_only_an_elements_id_as_gpuq_writes_it_names_an_element(id: str, element: tuple[str, int] | None) -> None:
    assert arrays.element(JobId(id)) == element
