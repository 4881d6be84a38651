"""One bad job, client or helper process stops nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, alive, processes, until


def launcher_of(cluster: Cluster) -> int:
    agent = cluster.pid("agent")
    mark = f"{cluster.state}/agent/launcher".encode()
    for pid, arguments, _ in processes():
        if mark in arguments and f"\nPPid:\t{agent}\n" in Path(f"/proc/{pid}/status").read_text():
            return pid
    raise AssertionError("the agent has no launcher")


def says_hi(cluster: Cluster) -> None:
    done = cluster.gpuq("run", "-G", "1", "echo", "hi")
    assert (done.status, done.out) == (0, b"hi\n"), done


def test_gpus_never_have_two_holders(cluster: Cluster) -> None:
    held = cluster.folder / "held"
    held.mkdir()
    line = (
        'for g in $(echo $GPUQ_GPUS | tr , " "); do mkdir ' + str(held) + "/$g || exit 9; done; sleep 0.1; "
        'for g in $(echo $GPUQ_GPUS | tr , " "); do rmdir ' + str(held) + "/$g || exit 9; done"
    )
    ids = [cluster.sh(line, "-G", n) for n in ("3", "5", "1", "8", "2")]
    array = cluster.submit("-G", "1", "-a", "0-39", "sh", "-c", line)
    assert {cluster.ended(id)["state"] for id in [*ids, array]} == {"SUCCEEDED"}
    assert {gpu for id in ids for gpu in cluster.job(id)["nodes"][0]["gpus"]} == set(range(8))


def test_a_killed_launcher_is_replaced_and_its_jobs_run_on(cluster: Cluster) -> None:
    gate = cluster.folder / "launcher-gate"
    before = cluster.sh(f"echo a; until [ -e {gate} ]; do sleep 0.05; done; echo b; exit 2", "-G", "1")
    cluster.says(before, b"a\n")
    launcher = launcher_of(cluster)
    os.kill(launcher, signal.SIGKILL)
    until(lambda: not alive(launcher), "the launcher to be gone")
    after = cluster.sh("echo hi", "-G", "1")
    assert cluster.ended(after)["state"] == "SUCCEEDED"
    gate.touch()
    job = cluster.ended(before)
    assert (job["exit_code"], job["attempt"], cluster.log(before)) == (2, 1, b"a\nb\n")


def test_a_stopped_launcher_does_not_stop_the_controller_from_canceling(cluster: Cluster) -> None:
    launcher = launcher_of(cluster)
    os.kill(launcher, signal.SIGSTOP)
    try:
        id = cluster.sh("echo hi", "-G", "1")
        assert cluster.gpuq("queue").status == 0
        cluster.ok("cancel", id)
    finally:
        os.kill(launcher, signal.SIGCONT)
    assert cluster.ended(id)["state"] in ("CANCELED", "SUCCEEDED")


@pytest.mark.parametrize("sent", [b"", b"GET /api/v1/jobs HTTP/1.1\r\n", b"\x16\x03\x01\xff\xff", b"\0" * 1000])
def test_clients_that_only_hold_the_line_stop_nobody(cluster: Cluster, sent: bytes) -> None:
    host, _, port = cluster.json("status")["controller"]["url"].removeprefix("https://").rpartition(":")
    idle = []
    try:
        for _ in range(150):
            idle.append(socket.create_connection((host, int(port)), timeout=10))
            if sent:
                idle[-1].sendall(sent)
        assert cluster.gpuq("queue").status == 0
        says_hi(cluster)
    finally:
        for connection in idle:
            connection.close()


def test_followers_without_number_do_not_hold_up_the_rest(cluster: Cluster) -> None:
    id = cluster.sh("while :; do echo x; sleep 0.02; done", "-G", "1")
    cluster.says(id, b"x\n")
    followers = [cluster.start("logs", "-f", id) for _ in range(8)] + [cluster.start("events", "-f") for _ in range(4)]
    try:
        says_hi(cluster)
        assert cluster.gpuq("queue").status == 0
    finally:
        for process in followers:
            process.send_signal(signal.SIGINT)
        done = [cluster.end(process) for process in followers]
        cluster.ok("cancel", id)
    assert {d.status for d in done} == {130}
    assert {d.err for d in done} == {""}


def test_a_flood_of_output_stops_nobody(cluster: Cluster) -> None:
    size = 120_000_000
    flood = cluster.sh(f"yes 0123456789abcde | head -c {size}; echo end")
    for _ in range(3):
        says_hi(cluster)
    assert cluster.ended(flood)["state"] == "SUCCEEDED"
    done = cluster.gpuq("logs", "-f", flood)
    assert (len(done.out), done.out[-4:]) == (size + 4, b"end\n")


def test_a_job_that_empties_its_log_harms_only_itself(cluster: Cluster) -> None:
    id = cluster.sh("for i in 1 2 3 4 5 6 7 8; do echo line $i; done; sleep 0.5; : > /proc/self/fd/1; echo after")
    assert cluster.ended(id)["state"] == "SUCCEEDED"
    done = cluster.gpuq("logs", "-f", id)
    assert done.status == 0
    assert done.out.endswith(b"after\n"), done
    says_hi(cluster)


def test_odd_outputs_are_kept(cluster: Cluster) -> None:
    for line, expected in (
        ("exec >&- 2>&-; sleep 0.1", b""),
        ("head -c 3000000 /dev/zero | tr '\\0' x", b"x" * 3_000_000),
        ("printf '\\0\\r\\n\\377'", b"\0\r\n\xff"),
        ("(sleep 0.3; echo late) & echo early", b"early\nlate\n"),
    ):
        done = cluster.gpuq("run", "sh", "-c", line)
        assert (done.status, done.out) == (0, expected), line


def test_following_begins_before_the_job_does(cluster: Cluster) -> None:
    id = cluster.submit("-H", "sh", "-c", "echo hi; exit 2")
    logs, wait = cluster.start("logs", "-f", id), cluster.start("wait", id)
    with pytest.raises(subprocess.TimeoutExpired):
        wait.wait(0.5)
    cluster.ok("release", id)
    followed = cluster.end(logs)
    assert (followed.status, followed.out) == (0, b"hi\n")
    assert f"job {id} is QUEUED: held by" in followed.err, "who follows is told why nothing comes"
    assert cluster.end(wait).status == 2


def test_an_agent_killed_while_a_job_is_being_set_up_goes_on_with_it(cluster: Cluster) -> None:
    gate, count = cluster.folder / "setup-gate", cluster.folder / "setup-count"
    id = cluster.sh("echo ready", "-G", "1", "--setup", f"echo x >> {count}; until [ -e {gate} ]; do sleep 0.05; done")
    until(count.exists, "the setup to begin")
    assert cluster.becomes(id, "STARTING")["state"] == "STARTING"
    cluster.kill("agent", "controller")
    cluster.up()
    gate.touch()
    job = cluster.ended(id)
    assert (job["state"], job["attempt"], count.read_text()) == ("SUCCEEDED", 1, "x\n")
    assert cluster.log(id).endswith(b"ready\n")


def test_a_reader_of_up_that_leaves_does_not_take_the_cluster_along(cluster: Cluster) -> None:
    cluster.kill("controller", "agent")
    process = cluster.start("up", "--detach", "--simulate-gpus", cluster.gpus)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)
    assert process.stderr is not None
    process.stderr.close()
    found = cluster.json("status")
    cluster.up()
    assert found["controller"] is not None
    assert found["agents"]
