"""Jobs that init ends because the machine goes down: told from jobs that somebody ended."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
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
    [(None, 15, True), (None, 9, True), (None, 1, True), (143, None, True), (0, None, False), (1, None, True)],
)
def test_only_ends_that_init_may_have_made_are_looked_into(code, signal, may):
    assert may_be_shutdown(code, signal) is may


ENDS = """
import asyncio, sys
from pathlib import Path
from tests.agent.executions import machine, shell

async def main():
    async with machine(Path(sys.argv[1])) as m:
        for job in (
            shell("trap 'exit 1' TERM; kill $$; sleep 9"),  # as torchrun does
            shell("kill $$"),
            shell("true", setup=("kill $$",)),
            shell("exit 0"),
            shell("kill -SEGV $$"),
        ):
            print((await m.result(job)).reason.value)

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /run of its own")
@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd is asked here, and not told what to say")
def test_a_machine_that_goes_down_takes_the_blame_for_whatever_it_ends(tmp_path):
    run = utmp(tmp_path, "2", "6")
    text = 'mount -n --bind "$1" /run && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", text, "sh", run, sys.executable, "-c", ENDS, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["node_lost", "node_lost", "node_lost", "exited", "exited"], done.stderr


def test_a_signal_of_the_jobs_own_is_its_own():
    assert not may_be_shutdown(None, 11)
