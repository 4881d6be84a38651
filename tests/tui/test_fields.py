"""Lines of a detail."""

from __future__ import annotations

import pytest

from tests.tui.stage import HOSTILE
from tui.fields import Row, field, table
from tui.line_pane import plain
from tui.pane import Subject
from tui.text import cell_width


def test_a_long_value_is_folded_at_blanks_behind_its_label() -> None:
    assert [plain(shown) for shown in field("Command", "python train.py --lr 3e-4 --epochs 10", 32)] == [
        "Command     python train.py --lr",
        "            3e-4 --epochs 10",
    ]


def test_a_value_without_blanks_is_cut_and_a_huge_one_ends() -> None:
    lines = [plain(shown) for shown in field("Command", "x" * 100_000, 40)]
    assert len(lines) == 13
    assert lines[-1].strip().startswith("... and ")
    assert all(cell_width(text) <= 40 for text in lines)


@pytest.mark.parametrize("width", [20, 41, 80])
def test_hostile_text_stays_within_its_line(width: int) -> None:
    lines = [*field("Name", HOSTILE, width), *table(["A", "NAME"], [Row([HOSTILE, HOSTILE])], width)]
    assert all("\x1b" not in plain(shown) and "\u202e" not in plain(shown) for shown in lines)
    assert all(cell_width(plain(shown)) <= width for shown in lines)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [Row(["n1", "5", ("ok", "good")]), Row(["node-22", "12", "-"], Subject("node", "node-22"))]
    lines = list(table(["NODE", "GPUS", "WHY"], rows, 80, right=("GPUS",)))
    assert [plain(shown) for shown in lines] == ["NODE     GPUS  WHY", "n1          5  ok", "node-22    12  -"]
    assert lines[1].spans[-1] == ("ok", "good")
    assert [shown.subject for shown in lines] == [None, None, Subject("node", "node-22")]


def test_the_widest_column_gives_way_first() -> None:
    (_, shown) = table(["NODES", "WHY"], [Row(["n1, n2 and 998 more nodes", "is draining"])], 30)
    assert plain(shown) == "n1, n2 and 998 m…  is draining"
