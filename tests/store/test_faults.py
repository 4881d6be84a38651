"""Real faults: a controller killed at any instant, a disk that fills up, a disk that breaks."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gpuq.model import JobId
from gpuq.store import Store, events, replies, specs

SUBMITTER = Path(__file__).with_name("submitter.py")


def submit(path: Path, count: int, *under: str, in_flight: int = 20) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*under, sys.executable, str(SUBMITTER), str(path), str(count), str(in_flight)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_whole(path: Path, acknowledged: int) -> int:
    """All that was acknowledged is there, and every change is there whole or not at all; gives the last one."""
    store = Store.open(path)
    try:
        snapshot = store.load()
        numbers = list(range(1, snapshot.last_seq + 1))
        assert snapshot.last_seq >= acknowledged
        assert [job.number for job in snapshot.jobs] == numbers
        assert snapshot.next_number == snapshot.last_seq + 1
        journal = events.after(store.reader, 0, events.Filter(), 10**6)
        assert [event.job for _, event in journal] == [str(number) for number in numbers]
        assert len(specs.commands(store.reader, [JobId(str(number)) for number in numbers])) == len(numbers)
        assert all(replies.reply(store.reader, f"request-{number:08d}") for number in numbers)
        assert store.reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return snapshot.last_seq
    finally:
        store.close()


def durable(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"^durable (\d+)$", said, re.MULTILINE)]


def test_a_controller_killed_in_the_middle_of_commits_loses_nothing_acknowledged(path: Path) -> None:
    rng = random.Random(11)
    last = 0
    for _ in range(6):
        process = submit(path, 10**9)
        assert process.stdout is not None
        for _ in range(rng.randrange(5, 60)):
            process.stdout.readline()
        process.kill()
        said, errors = process.communicate()
        assert process.returncode == -9, errors
        acknowledged = max(durable(said), default=last)
        now = check_whole(path, acknowledged)
        assert now > last
        last = now


PROBE = """
import resource, sys
from pathlib import Path
from gpuq.store import Store, Writer
store = Store.open(Path(sys.argv[1]))
writer = Writer(store, print, print)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in (300_000, most):  # bytes a file may have: a write beyond fails as one to a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    print(writer.probe(), flush=True)
writer.close()
store.close()
"""


def test_the_probe_for_room_believes_only_what_was_written(path: Path) -> None:
    command = [sys.executable, "-c", PROBE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SUBMITTER.parents[2])
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert not path.with_name("controller.db.probe").exists()


# ---------------------------------------------------------------- with faults injected by strace


@cache
def no_strace() -> str:
    """Why faults cannot be injected here, or ''."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=9999+", "true"],
        capture_output=True,
        check=False,
    )
    return "" if tried.returncode == 0 else "strace may not trace here"


@pytest.fixture
def prepared(path: Path) -> Path:
    """A database that exists: calls are counted per thread, and so the writer's faults do not hit its making."""
    if reason := no_strace():
        pytest.skip(reason)
    process = submit(path, 5)
    process.communicate(timeout=60)
    assert process.returncode == 0
    return path


def injected(path: Path, count: int, *faults: str) -> tuple[int, str]:
    options = [option for fault in faults for option in ("-e", f"inject={fault}")]
    process = submit(path, count, "strace", "-f", "-q", "-o", "/dev/null", *options)
    said, errors = process.communicate(timeout=100)
    assert process.returncode in (0, 3), errors
    return process.returncode, said


def test_a_disk_that_is_full_for_a_while_costs_only_what_was_not_acknowledged(prepared: Path) -> None:
    code, said = injected(prepared, 200, "pwrite64:error=ENOSPC:when=60..64")
    assert code == 0
    failed = [int(number) for number in re.findall(r"^full (\d+)$", said, re.MULTILINE)]
    assert failed
    assert "broken" not in said
    for number in failed:  # what failed was not acknowledged before, and was after
        before, after = said.split(f"full {number}\n", 1)
        assert max(durable(before), default=5) == number - 1
        assert max(durable(after)) == 200
    assert check_whole(prepared, 200) == 200


@pytest.mark.parametrize(
    "fault", ["fdatasync:error=EIO:when=6", "fsync,fdatasync:error=EIO:when=3+", "pwrite64:error=EIO:when=50"]
)
def test_a_disk_that_breaks_ends_the_writer_even_if_it_works_again(prepared: Path, fault: str) -> None:
    code, said = injected(prepared, 10_000, fault)
    assert code == 3
    assert said.count("broken") == 1
    assert said.splitlines()[-1].startswith("broken")
    first = int(said.rsplit("broken ", 1)[1])
    assert first == max(durable(said), default=5) + 1
    check_whole(prepared, first - 1)


def test_nothing_is_acknowledged_before_it_was_synced(prepared: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    under = ("strace", "-f", "-q", "-o", str(trace), "-e", "trace=fdatasync,fsync,write")
    process = submit(prepared, 60, *under, in_flight=1)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert durable(said) == list(range(6, 61))
    synced = acknowledged = 0
    for line in trace.read_text().splitlines():
        if "sync" in line and line.endswith("= 0"):
            synced += 1
        elif 'write(1, "durable ' in line:
            assert synced, line
            synced = 0
            acknowledged += 1
    assert acknowledged == 55
