"""gpuq run, logs -f and wait: they follow a job as if it ran here, through whatever the controller goes through."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.e2e.cluster import Cluster, until

COUNT = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 4"
WHOLE = "".join(f"line {i}\n" for i in range(60)).encode()


def id_of(cluster: Cluster, name: str) -> str:
    """The id of the live job of this name, once it is there."""
    found = until(lambda: list(cluster.call("GET", f"/jobs?name={name}").json()["items"]), f"job {name}")
    return str(found[0]["id"])


@pytest.mark.parametrize(("line", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -SEGV $$", 139)])
def test_run_ends_as_its_job(cluster: Cluster, line: str, status: int) -> None:
    assert cluster.gpuq("run", "-G", "1", "/bin/bash", "-c", line).status == status


def test_output_is_passed_on_byte_for_byte(cluster: Cluster) -> None:
    data = bytes(range(256)) * 4096 + b"\xff no newline at the end"
    file = cluster.folder / "data"
    file.write_bytes(data)
    done = cluster.gpuq("run", "cat", str(file))
    assert (done.status, done.out == data) == (0, True)
    mixed = cluster.gpuq("run", "sh", "-c", "echo one; echo two >&2; echo three; echo four >&2")
    assert mixed.out == b"one\ntwo\nthree\nfour\n"


def test_words_reach_the_job_as_they_were_typed(cluster: Cluster) -> None:
    words = ["", " ", "a b", "*", "$HOME", "'", '"', "\\", "new\nline", "ü—λ", "--json", "-G", "--"]
    done = cluster.gpuq("run", "printf", "%s\\0", *words)
    assert done.out == b"".join(word.encode() + b"\0" for word in words)


def test_ctrl_c_cancels_the_job(cluster: Cluster) -> None:
    process = cluster.start(
        "run", "-J", "ctrl-c", "sh", "-c", "trap 'echo bye; exit 0' INT TERM; echo hi; sleep 1000 & wait"
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == b"hi\n"
    id = id_of(cluster, "ctrl-c")
    process.send_signal(signal.SIGINT)
    done = cluster.end(process)
    assert (done.status, done.out) == (130, b"bye\n")
    assert "Traceback" not in done.err
    assert cluster.job(id)["state"] == "CANCELED"


def test_a_hang_up_leaves_the_job_running(cluster: Cluster) -> None:
    gate = cluster.folder / "hup-gate"
    process = cluster.start(
        "run", "-J", "hang-up", "sh", "-c", f"echo hi; until [ -e {gate} ]; do sleep 0.05; done; exit 3"
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == b"hi\n"
    id = id_of(cluster, "hang-up")
    process.send_signal(signal.SIGHUP)
    done = cluster.end(process)
    assert done.status in (129, -signal.SIGHUP)
    assert "Traceback" not in done.err
    assert cluster.job(id)["state"] == "RUNNING"
    gate.touch()
    assert cluster.ended(id)["exit_code"] == 3


def test_followers_lose_and_double_nothing_over_restarts_of_both_daemons(cluster: Cluster) -> None:
    running = cluster.start("run", "-J", "followed", "sh", "-c", COUNT)
    id = id_of(cluster, "followed")
    logs, wait = cluster.start("logs", "-f", id), cluster.start("wait", id)
    cluster.says(id, b"line 10\n")
    cluster.kill("controller")
    cluster.up()
    cluster.says(id, b"line 30\n")
    cluster.kill("controller", "agent", number=signal.SIGTERM)
    cluster.up()
    run_done, logs_done, wait_done = (cluster.end(process) for process in (running, logs, wait))
    assert (run_done.out, run_done.status) == (WHOLE, 4)
    assert (logs_done.out, logs_done.status) == (WHOLE, 0)
    assert wait_done.status == 4
    for done in (run_done, logs_done, wait_done):
        assert "Traceback" not in done.err
        assert "trying on" in done.err


def test_logs_follow_from_the_tail_and_end_with_the_job(cluster: Cluster) -> None:
    id = cluster.sh("echo a; echo b; echo c; printf d")
    cluster.ended(id)
    assert cluster.log(id, "-f") == b"a\nb\nc\nd"
    assert cluster.log(id, "--tail", "2") == b"c\nd"
    assert cluster.log(id, "--tail", "1", "-f") == b"d"
    assert cluster.log(id, "--tail", "0") == b""
    assert cluster.log(id, "--tail", "99") == b"a\nb\nc\nd"


def test_wait_gives_the_first_failure_among_many(cluster: Cluster) -> None:
    ids = [cluster.sh(f"exit {code}") for code in (0, 7, 9)]
    assert cluster.gpuq("wait", *ids).status == 7
    assert cluster.gpuq("wait", ids[0]).status == 0
    assert cluster.gpuq("wait", ids[0], "999999").status == 3
    canceled = cluster.submit("-H", "true")
    cluster.ok("cancel", canceled)
    assert cluster.gpuq("wait", canceled).status == 1
    document = cluster.gpuq("wait", ids[1], "--json")
    assert document.status == 7
    assert b'"items"' in document.out


def test_submit_and_wait(cluster: Cluster) -> None:
    done = cluster.gpuq("submit", "-W", "sh", "-c", "exit 5")
    assert done.status == 5
    assert done.text.startswith("Submitted job ")


def test_gpuqs_own_trouble_is_not_taken_for_the_jobs(cluster: Cluster) -> None:
    nowhere = cluster.gpuq("run", "true", GPUQ_HOME=str(cluster.root / "nothing"))
    assert (nowhere.status, bool(nowhere.line)) == (125, True)
    wrong = cluster.gpuq("run", "true", GPUQ_TOKEN="gpuq_user_" + "x" * 32 + "_" + "0" * 64)
    assert (wrong.status, bool(wrong.line)) == (125, True)
    assert cluster.gpuq("run", "--no-such-option", "true").status == 2


def test_a_reader_that_leaves_costs_the_job_nothing(cluster: Cluster) -> None:
    gate = cluster.folder / "reader-gate"
    line = f"while [ ! -e {gate} ]; do echo noise; sleep 0.02; done; exit 8"
    process = cluster.start("run", "-J", "reader", "sh", "-c", line)
    assert process.stdout is not None
    id = id_of(cluster, "reader")
    process.stdout.read(6)
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr is not None
    with process.stderr as errors:
        assert b"Traceback" not in errors.read()
    assert cluster.job(id)["state"] == "RUNNING"
    gate.touch()
    assert cluster.ended(id)["exit_code"] == 8


def test_output_on_a_terminal_cannot_steer_it(cluster: Cluster) -> None:
    id = cluster.submit("printf", "\\033[31mred\\033]0;title\\007\\n\\302\\233 end\\n")
    cluster.ended(id)
    assert cluster.log(id) == b"\x1b[31mred\x1b]0;title\x07\n\xc2\x9b end\n"
    for verb in (["logs", id], ["logs", "-f", id]):
        shown = _on_terminal(cluster, *verb)
        assert b"red" in shown
        assert not set(shown) & {0x1B, 0x07, 0x9B}, shown
    assert b"\x1b[31m" in _on_terminal(cluster, "logs", "--raw", id)


def _on_terminal(cluster: Cluster, *arguments: str) -> bytes:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        cluster.command(*arguments), env=cluster.environment(), stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    process.communicate(timeout=20)
    return shown
