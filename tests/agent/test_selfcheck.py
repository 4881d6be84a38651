from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import selfcheck


def test_a_folder_that_can_be_written_is_no_trouble_and_stays_as_it_was(tmp_path: Path) -> None:
    assert selfcheck.trouble((tmp_path, tmp_path)) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = selfcheck.trouble((tmp_path, tmp_path / "gone"))
    assert text == f"cannot write to {tmp_path / 'gone'}: No such file or directory"


def test_a_disk_with_little_room_is_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "LEAST_FREE_BYTES", 1 << 62)
    assert selfcheck.trouble((tmp_path,)).startswith(f"the disk of {tmp_path} has less than ")
    monkeypatch.undo()
    if os.statvfs(tmp_path).f_files:
        monkeypatch.setattr(selfcheck, "LEAST_FREE_INODES", 1 << 62)
        assert selfcheck.trouble((tmp_path,)) == f"the disk of {tmp_path} has no room for more files"
