from __future__ import annotations

import pytest
from rich.cells import cell_len

from tui.ascii import in_ascii
from tui.text import ago, clip, pad, safe, size, span

HOSTILE = [
    "plain",
    "\x1b[2J\x1b]0;x\x07",
    "a\nb\tc\r",
    "\u202egnp.exe",
    "日本語の長い名前",
    "e\u0301" * 40,
    "Z\u0337\u0334\u0321\u031b\u0353" * 20,
    "👩\u200d👩\u200d👧",
    "x" * 10_000,
    "",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_others_is_one_line_that_steers_nothing(text: str) -> None:
    assert safe(text).isprintable()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("cells", [0, 1, 2, 3, 7, 20])
def test_clipped_and_padded_text_takes_the_cells_it_is_given(text: str, cells: int) -> None:
    assert cell_len(clip(safe(text), cells)) <= cells
    assert cell_len(pad(safe(text), cells)) == cells
    assert cell_len(pad(safe(text), cells, right=True)) == cells


def test_marks_piled_on_a_letter_are_cut_to_what_a_language_may_need() -> None:
    assert safe("e\u0301\u0323" + "\u0301" * 50) == "e\u0301\u0323"


@pytest.mark.parametrize("text", HOSTILE)
def test_in_ascii_every_line_keeps_its_width(text: str) -> None:
    shown = in_ascii(safe(text))
    assert shown.isascii()
    assert cell_len(shown) == cell_len(safe(text))


def test_bars_become_digits_in_ascii() -> None:
    assert in_ascii("▁▄█ ┌─┐ …") == "148 +-+ ~"


def test_spans_are_short_and_change_seldom() -> None:
    shown = [span(seconds) for seconds in (0, 59, 60, 5999, 6000, 172_799, 172_800, 8_640_000, None, -5)]
    assert shown == ["0s", "59s", "1m", "99m", "1h40", "47h59", "2d00", "100d00", "?", "0s"]


def test_ages_are_in_one_unit() -> None:
    assert [ago(s) for s in (4, 60, 840, 7200, 200_000, None)] == ["4 s", "1 min", "14 min", "2 h", "2 d", "?"]


def test_what_is_not_known_is_no_zero() -> None:
    assert size(None) == "?"
