from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import lab

from tests.lab.catalogue import ALL, TIMED, WAITING
from tests.lab.host import HostError, kill_first_process
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


def test_no_scenario_is_both_timed_and_run_beside_others() -> None:
    assert not set(TIMED) & set(WAITING)
    assert set(ALL) >= {*TIMED, *WAITING}


@pytest.mark.parametrize("pid", [1, 0, -1, -4711])
def test_no_host_is_switched_off_by_killing_groups_or_what_all_else_descends_from(
    pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append(pid))
    with pytest.raises(HostError):
        kill_first_process(pid)
    assert killed == []
    kill_first_process(4711)
    assert killed == [4711]
