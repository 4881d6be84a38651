from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import lab

from tests.lab.catalogue import ALL
from tests.test_docs import first_cells, page, section


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the lab is skipped for that reason alone")
def test_the_lab_says_which_programs_it_lacks_and_how_they_are_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ip").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lab([]) == 0
    said = capfd.readouterr().out
    assert "the lab is skipped: nft, " in said
    assert "ip," not in said
    assert "packaging/lab-packages.sh" in said


def test_every_scenario_of_the_lab_is_documented() -> None:
    assert first_cells(section(page("lab.md"), "## What it tries")) == set(ALL)
