from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from gpuq.errors import InvalidRequest
from tui.export import free_path, rendered, write_new

FIELDS = ("id", "name", "gpus", "reason", "nodes", "exit_code")
ROWS = [
    ("1042", 'train, "big"\nrun', 8, None, [{"node": "n1", "gpus": [0]}], 0),
    ("1043", '=HYPERLINK("http://x")', 0, {"code": "held", "text": "held by ann"}, [], None),
    ("1044", "日本語\x1b[2J", 1, None, [], None),
]


def test_json_is_what_the_api_gave() -> None:
    assert json.loads(rendered(FIELDS, ROWS, "json")) == [dict(zip(FIELDS, row, strict=True)) for row in ROWS]


def test_csv_is_read_back_as_it_was_and_calculates_nothing() -> None:
    read = list(csv.reader(io.StringIO(rendered(FIELDS, ROWS, "csv"))))
    assert read[0] == list(FIELDS)
    assert read[1][:3] == ["1042", 'train, "big"\\nrun', "8"]
    assert read[2][1] == '\'=HYPERLINK("http://x")'
    assert read[2][3] == "held by ann"
    assert read[2][5] == ""
    assert len(read) == 4


def test_text_lines_up_whatever_the_width_of_its_characters() -> None:
    lines = rendered(("name", "gpus"), [("日本語", 1), ("train", 16)], "text").splitlines()
    assert lines == ["NAME    GPUS", "日本語  1", "train   16"]
    assert "\x1b" not in rendered(FIELDS, ROWS, "text")


def test_a_table_without_rows_has_its_heading() -> None:
    assert rendered(("id",), [], "csv") == "id\n"
    assert rendered(("id",), [], "text") == "ID\n"
    assert json.loads(rendered(("id",), [], "json")) == []


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    first = free_path(tmp_path, "jobs", "csv")
    write_new(first, "one")
    second = free_path(tmp_path, "jobs", "csv")
    write_new(second, "two\udcff")
    assert (first.name, second.name) == ("jobs.csv", "jobs-2.csv")
    assert first.read_text() == "one"
    assert first.stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidRequest, match="File exists"):
        write_new(first, "three")
    with pytest.raises(InvalidRequest, match="No such file"):
        write_new(tmp_path / "nowhere" / "x.csv", "")
