from __future__ import annotations

import pytest

from gpuq.cli.selection import MAX_IDS, one_id, parse_ids, parse_states
from gpuq.errors import InvalidRequest


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["1042"], ["1042"]),
        (["1", "2", "1"], ["1", "2"]),
        (["1,2"], ["1", "2"]),
        (["1042_7"], ["1042_7"]),
        (["1042_3-5"], ["1042_3", "1042_4", "1042_5"]),
        (["1042_[1,3-4]", "7"], ["1042_1", "1042_3", "1042_4", "7"]),
        (["1042_7,1043"], ["1042_7", "1043"]),
    ],
)
def test_ids_lists_and_ranges_of_elements(words: list[str], ids: list[str]) -> None:
    assert parse_ids(words) == ids


@pytest.mark.parametrize(
    "word", ["x", "1042.2", "1042_", "1042_5-3", "1042_[1", "1042_[a]", "-1", "1 2", "1042_[1,,2]"]
)
def test_what_is_no_id_is_refused(word: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_ids([word])


def test_huge_range_is_refused_before_it_is_built() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_IDS:,}"):
        parse_ids(["1_0-9999999999"])


def test_one_job_is_not_several() -> None:
    assert one_id("5_1") == "5_1"
    with pytest.raises(InvalidRequest):
        one_id("5_1-2")


def test_states_in_gpuqs_words_and_slurms() -> None:
    assert parse_states("running,PD,r,COMPLETED") == ["RUNNING", "QUEUED", "SUCCEEDED"]
    with pytest.raises(InvalidRequest, match="'SLEEPING' is not a state"):
        parse_states("sleeping")
