"""Jobs that init ends because the machine goes down: told from jobs that somebody ended."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from agent.shutdown import goes_down, may_be_shutdown


def proc(path: Path, first: str) -> str:
    (path / "proc" / "1").mkdir(parents=True)
    (path / "proc" / "1" / "comm").write_text(first + "\n")
    return str(path / "proc")


def utmp(path: Path, *levels: str) -> str:
    """Records as sysvinit writes them: the new level in the low byte of the pid, the one before in the next."""
    (path / "run").mkdir()
    records = [struct.pack("<hxxi376x", 1, ord(level) + 256 * ord("N")) for level in levels]
    (path / "run" / "utmp").write_bytes(struct.pack("<hxxi376x", 7, 4711) + b"".join(records))
    return str(path / "run")


def test_systemd_at_its_last_stage_is_known_by_its_name(tmp_path):
    assert goes_down(proc(tmp_path, "systemd-shutdow"), str(tmp_path / "run"))


@pytest.mark.parametrize(("levels", "down"), [("2", False), ("20", True), ("26", True), ("", False), ("02", False)])
def test_the_run_level_says_it_where_there_is_no_systemd(tmp_path, levels, down):
    assert goes_down(proc(tmp_path, "init"), utmp(tmp_path, *levels)) is down


def test_this_machine_stays_up():
    assert not goes_down()


@pytest.mark.parametrize(
    ("code", "signal", "may"),
    [(None, 15, True), (None, 9, True), (None, 1, True), (143, None, True), (0, None, False), (1, None, False)],
)
def test_only_ends_that_init_may_have_made_are_looked_into(code, signal, may):
    assert may_be_shutdown(code, signal) is may


def test_a_signal_of_the_jobs_own_is_its_own():
    assert not may_be_shutdown(None, 11)
