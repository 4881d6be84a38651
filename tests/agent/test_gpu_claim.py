"""One agent per machine for real GPUs, tried with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.claim import claim_real_gpus
from gpuq.errors import Conflict
from tests.agent.fake_nvml.machine import ROOT

HOLD = """
import sys
from pathlib import Path
from agent.claim import claim_real_gpus
from gpuq.errors import Conflict
try:
    claim = claim_real_gpus(sys.argv[1], Path(sys.argv[2]))
except Conflict as error:
    print(error.one_line(), flush=True)
else:
    print("held", flush=True)
{then}
sys.stdin.read()
"""
FORK_A_SUPERVISOR = """
import os
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("forked", flush=True)
"""
# What a process killed while one of its threads cannot be ended looks like: its first thread is a zombie.
END_THE_MAIN_THREAD = """
import ctypes, threading, time
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
import os
print(os.getpid(), flush=True)
ctypes.CDLL(None).syscall({exit}, 0)
"""


@contextmanager
def other_agent(name: str, folder: Path, then: str = "") -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), name, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_second_agent_is_refused_by_name_and_admitted_after_the_first_ended(tmp_path: Path) -> None:
    with other_agent("a3", tmp_path) as first:
        assert said(first) == "held"
        with pytest.raises(Conflict, match=rf"the agent 'a3' \(pid {first.pid}\) already offers"):
            claim_real_gpus("b1", tmp_path)
    with claim_real_gpus("b1", tmp_path):
        pass


def test_killed_agent_leaves_no_claim(tmp_path: Path) -> None:
    with other_agent("a3", tmp_path) as first:
        assert said(first) == "held"
        first.kill()
        first.wait(20)
        claim_real_gpus("b1", tmp_path).release()


def test_supervisors_forked_by_an_agent_do_not_inherit_its_claim(tmp_path: Path) -> None:
    with other_agent("a3", tmp_path, then=FORK_A_SUPERVISOR) as first:
        assert said(first) == "held"
        assert said(first) == "forked"
        first.kill()
        first.wait(20)
        claim_real_gpus("b1", tmp_path).release()


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="needs a system call's number")
def test_claim_of_an_agent_that_is_dead_but_stuck_in_the_driver_passes_on(tmp_path: Path) -> None:
    with other_agent("a3", tmp_path, then=END_THE_MAIN_THREAD.format(exit=60)) as first:
        assert said(first) == "held"
        assert said(first) == str(first.pid)
        stat = Path(f"/proc/{first.pid}/stat")
        deadline = time.monotonic() + 20
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with claim_real_gpus("b1", tmp_path), other_agent("c1", tmp_path) as third:
            assert said(third).startswith(f"the agent 'b1' (pid {os.getpid()}) already offers")


def test_one_process_claims_once(tmp_path: Path) -> None:
    with claim_real_gpus("a", tmp_path) as claim:
        with pytest.raises(Conflict, match="this process already"):
            claim_real_gpus("b", tmp_path)
        with other_agent("c", tmp_path) as third:  # the refused claim has not undone the first
            assert said(third).startswith("the agent 'a'")
        claim.release()
    claim_real_gpus("b", tmp_path).release()


def test_claims_made_at_once_have_one_winner(tmp_path: Path) -> None:
    with other_agent("a", tmp_path) as a, other_agent("b", tmp_path) as b, other_agent("c", tmp_path) as c:
        answers = [said(process) for process in (a, b, c)]
    assert answers.count("held") == 1, answers


def test_threads_claiming_at_once_have_one_winner(tmp_path: Path) -> None:
    won, lost = [], []

    def claim() -> None:
        try:
            won.append(claim_real_gpus("a", tmp_path))
        except Conflict as error:
            lost.append(error)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    won[0].release()


def test_lock_is_open_to_every_account_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        claim_real_gpus("a", tmp_path).release()
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o666}


def test_lock_is_never_followed_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "gpuq-gpus.lock").symlink_to(precious)
    with pytest.raises(Conflict, match="cannot open"):
        claim_real_gpus("a", tmp_path)
    assert precious.read_text() == "kept"


def test_a_folder_in_the_locks_place_is_a_clear_refusal(tmp_path: Path) -> None:
    (tmp_path / "gpuq-gpus.lock").mkdir()
    with pytest.raises(Conflict) as caught:
        claim_real_gpus("a", tmp_path)
    assert "gpuq-gpus.lock" in caught.value.one_line()
