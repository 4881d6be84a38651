from __future__ import annotations

import pytest

from gpuq.cli.table import table
from gpuq.cli.terminal import local_time, sanitised, visible

HEADER = ("ID", "NAME", "N", "WHERE")


def test_columns_are_as_wide_as_their_content_and_the_last_is_not_padded() -> None:
    rows = [("1", "train", "8", "n1"), ("1042", "x", "16", "waits for 2 more")]
    assert table(HEADER, rows, right=("N",)) == (
        "ID    NAME    N  WHERE\n1     train   8  n1\n1042  x      16  waits for 2 more"
    )


def test_without_rows_there_is_a_header() -> None:
    assert table(HEADER, []) == "ID  NAME  N  WHERE"


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    rows = [("1", "a-rather-long-name-for-a-job", "8", "waits for something that takes long to say")]
    assert all(len(line) <= width for line in table(HEADER, rows, width).splitlines())


def test_name_gives_way_first_and_says_that_it_was_cut() -> None:
    rows = [("1", "a-rather-long-name", "8", "n1")]
    assert table(HEADER, rows, 24).splitlines() == ["ID  NAME        N  WHERE", "1   a-rather-+  8  n1"]


def test_wide_characters_keep_columns_straight() -> None:
    lines = table(("NAME", "N"), [("\u8a13\u7df4", "1"), ("abcd", "2"), ("e\u0301", "3")]).splitlines()
    assert lines == ["NAME  N", "\u8a13\u7df4  1", "abcd  2", "e\u0301     3"]


def test_control_characters_of_others_are_made_visible() -> None:
    assert visible("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert visible("plain \u00fc") == "plain \u00fc"
    assert sanitised("a\tb\r\nc\x1b]0;x\x07\x9b") == "a\tb\r\nc\\x1b]0;x\\x07\\x9b"


def test_times_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert local_time("2026-11-21T05:53:12.042Z") == "2026-11-21 07:53:12"
        assert local_time(None) == "-"
    finally:
        monkeypatch.undo()
        time.tzset()
