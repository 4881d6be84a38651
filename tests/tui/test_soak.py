"""A moment of the soak; `python3 build.py soak-tui --seconds S` is as long as one likes."""

from __future__ import annotations

import asyncio

import pytest

from tests.tui.soak import Soak


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_shown_is_the_truth_after_changes_keys_resizes_and_outages(seed: int) -> None:
    assert asyncio.run(Soak(3.0, 1_000, seed, jobs=500).run()) == []
