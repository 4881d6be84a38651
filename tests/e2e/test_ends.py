"""How jobs begin and end, as users are told: the real exit code, signal, cause and log."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.cluster import FINAL, Cluster, until


@pytest.fixture(scope="module", autouse=True)
def retried(cluster: Cluster) -> str:
    """A job that fails until its third attempt; back-off takes its time, so it begins before all else here."""
    count = cluster.folder / "attempts"
    line = f"echo x >> {count}; n=$(wc -l < {count}); echo attempt $n says $GPUQ_ATTEMPT_NUMBER; [ $n -eq 3 ]"
    return cluster.sh(line, "--max-retries", "2", "-J", "retried")


@pytest.mark.parametrize(
    ("line", "state", "code", "signal", "cause", "status"),
    [
        ("exit 0", "SUCCEEDED", 0, None, None, 0),
        ("exit 3", "FAILED", 3, None, "exit_code", 3),
        ("exit 255", "FAILED", 255, None, "exit_code", 255),
        ("kill -SEGV $$", "FAILED", None, 11, "signal", 139),
        ("kill -KILL $$", "FAILED", None, 9, "signal", 137),
        ("trap 'exit 5' TERM; kill -TERM $$; sleep 5", "FAILED", 5, None, "exit_code", 5),
    ],
)
def test_the_end_shown_is_the_real_one(
    cluster: Cluster, line: str, state: str, code: int | None, signal: int | None, cause: str | None, status: int
) -> None:
    id = cluster.submit("-G", "1", "/bin/bash", "-c", line)
    assert cluster.gpuq("wait", id).status == status
    job = cluster.json("show", id)
    assert (job["state"], job["exit_code"], job["signal"]) == (state, code, signal)
    assert (job["cause"] and job["cause"]["code"]) == cause
    assert job["finished_at"] >= job["started_at"] >= job["submitted_at"]
    assert job["reason"] is None


def test_what_is_enforced_is_said_and_a_job_beyond_its_memory_ends_for_that_cause(cluster: Cluster) -> None:
    (node,) = cluster.json("nodes")["items"]
    greedy = "x = b'x' * (300 << 20); print(len(x))"
    id = cluster.submit("--mem", "64M", "-c", "1", "python3", "-S", "-c", greedy)
    status = cluster.gpuq("wait", id).status
    job, enforced = cluster.json("show", id), node["enforced"]
    (limits,) = job["limits"]
    assert (limits["memory"], limits["cpus"]) == (enforced["memory"], enforced["cpus"])
    said = cluster.gpuq("show", id).out.decode()
    if enforced["memory"]:
        assert (status, job["signal"], job["cause"]["code"]) == (137, 9, "oom")
        assert "the kernel killed 1 of its processes; its limit was 64M" in job["cause"]["text"]
        assert "--mem is enforced" in said
    else:
        assert (status, job["state"]) == (0, "SUCCEEDED")
        assert f"--mem is not enforced on {node['name']}" in said


def test_a_full_gpu_is_told_by_the_end_of_the_log(cluster: Cluster) -> None:
    line = "echo torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB; exit 1"
    id, without = cluster.sh(line, "-G", "1"), cluster.sh(line)
    for job in (id, without):
        assert cluster.gpuq("wait", job).status == 1
    cause = cluster.json("show", id)["cause"]
    assert (cause["code"], cause["text"][:36]) == ("gpu_oom", "torch.OutOfMemoryError: CUDA out of ")
    assert cluster.json("show", without)["cause"]["code"] == "exit_code"  # it had no GPU


def test_a_log_is_complete_as_soon_as_wait_returns(cluster: Cluster) -> None:
    size = 24_000_000
    for _ in range(3):
        id = cluster.sh(f"head -c {size} /dev/zero; echo; echo end")
        assert cluster.gpuq("wait", id).status == 0
        assert cluster.log(id, "--tail", "1") == b"end\n"
        assert len(cluster.log(id)) == size + 5


def test_a_time_limit_ends_the_job(cluster: Cluster) -> None:
    id = cluster.sh("echo begun; trap 'echo told; exit 1' TERM; sleep 1000 & wait", "-t", "0:01")
    job = cluster.ended(id)
    assert (job["state"], job["cause"]["code"]) == ("FAILED", "time_limit")
    assert cluster.log(id) == b"begun\ntold\n"
    assert "time limit" in cluster.gpuq("wait", id).line


@pytest.mark.parametrize(
    ("options", "command", "cause", "text"),
    [
        ([], ["/nowhere/program"], "launch_failed", "/nowhere/program"),
        ([], ["no-such-program-at-all"], "launch_failed", "no-such-program-at-all"),
        ([], ["/etc/passwd"], "launch_failed", "ermission"),
        ([], ["/"], "launch_failed", "'/'"),
        (["-D", "/nowhere/folder"], ["true"], "launch_failed", "/nowhere/folder"),
        (["-D", "/etc/hostname"], ["true"], "launch_failed", "/etc/hostname"),
        (["--setup", "A=1; export A", "--setup", "echo setting; exit 4"], ["true"], "setup_failed", "exit code 4"),
        (["--venv", "/nowhere/venv"], ["true"], "setup_failed", "/nowhere/venv"),
        (["--conda-env", "nowhere"], ["true"], "setup_failed", "nowhere"),
    ],
)
def test_what_cannot_start_fails_and_says_why(
    cluster: Cluster, options: list[str], command: list[str], cause: str, text: str
) -> None:
    id = cluster.submit(*options, *command)
    job = cluster.ended(id)
    assert (job["state"], job["cause"]["code"]) == ("FAILED", cause)
    assert job["signal"] is None
    assert text in job["cause"]["text"]
    assert text in cluster.ok("show", id)
    assert cluster.gpuq("wait", id).status != 0


def test_a_file_that_may_not_be_executed_is_named(cluster: Cluster) -> None:
    file = cluster.folder / "plain"
    file.write_text("echo never\n")
    job = cluster.ended(cluster.submit(str(file)))
    assert (job["cause"]["code"], str(file) in job["cause"]["text"]) == ("launch_failed", True)


def test_setup_prepares_the_command_and_is_labelled_in_the_log(cluster: Cluster) -> None:
    id = cluster.sh("echo got $A; pwd", "--setup", "export A=7", "--setup", "cd /tmp")
    assert cluster.ended(id)["state"] == "SUCCEEDED"
    log = cluster.log(id).decode()
    assert "got 7\n" in log
    assert log.count("[gpuq] setup") == 4


def test_a_venv_is_used(cluster: Cluster) -> None:
    venv = cluster.folder / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("#!/bin/sh\necho venv python $VIRTUAL_ENV\n")
    (venv / "bin" / "python").chmod(0o755)
    id = cluster.submit("--venv", str(venv), "python")
    assert cluster.ended(id)["state"] == "SUCCEEDED"
    assert f"venv python {venv}\n" in cluster.log(id).decode()


def test_a_script_is_stored_when_submitted_with_its_options(cluster: Cluster) -> None:
    script = cluster.folder / "train.sh"
    script.write_text("#!/bin/bash\n#GPUQ -G 2 -J named\n#GPUQ --env COLOR=red\necho first $1 $COLOR $GPUQ_GPUS\n")
    script.chmod(0o755)
    id = cluster.submit("-H", str(script), "word")
    script.write_text("#!/bin/bash\necho second\n")
    cluster.ok("release", id)
    job = cluster.ended(id)
    assert (job["name"], job["gpus"], job["state"]) == ("named", 2, "SUCCEEDED")
    gpus = ",".join(map(str, job["nodes"][0]["gpus"]))
    assert cluster.log(id).decode() == f"first word red {gpus}\n"
    script.unlink()


def test_an_array_runs_each_index_once_and_never_more_than_its_limit(cluster: Cluster) -> None:
    marks = cluster.folder / "marks"
    marks.mkdir()
    line = (
        f"mkdir {marks}/$GPUQ_ARRAY_TASK_ID; ls {marks} | wc -l; sleep 0.1; rmdir {marks}/$GPUQ_ARRAY_TASK_ID; "
        "[ $GPUQ_ARRAY_TASK_ID -ne 5 ]"
    )
    id = cluster.submit("-a", "1-9:2%2", "sh", "-c", line)
    job = cluster.ended(id)
    assert (job["state"], job["array"]["counts"]) == ("FAILED", {"SUCCEEDED": 4, "FAILED": 1})
    assert all(int(cluster.log(f"{id}_{i}")) <= 2 for i in (1, 3, 5, 7, 9))
    assert cluster.gpuq("show", f"{id}_2").status == 3


def test_dependencies_decide_who_runs(cluster: Cluster) -> None:
    good, bad = cluster.submit("-H", "true"), cluster.submit("-H", "false")
    runs = [
        cluster.submit("-d", f"{kind}:{id}", "true")
        for kind, id in (("afterok", good), ("afternotok", bad), ("afterany", good), ("afterany", bad))
    ]
    never = [cluster.submit("-d", f"afterok:{bad}", "true"), cluster.submit("-d", f"afternotok:{good}", "true")]
    cascade = cluster.submit("-d", f"afterok:{never[0]}", "true")
    assert {cluster.job(id)["reason"]["code"] for id in [*runs, *never, cascade]} == {"dependency"}
    cluster.ok("release", good, bad)
    assert [cluster.ended(id)["state"] for id in runs] == ["SUCCEEDED"] * 4
    for id in [*never, cascade]:
        job = cluster.ended(id)
        assert (job["state"], job["cause"]["code"], job["attempt"]) == ("FAILED", "dependency", 0)
    unknown = cluster.gpuq("submit", "-d", "afterok:999999", "true")
    assert (unknown.status, "999999" in unknown.line) == (3, True)


def test_a_job_begins_when_it_was_told_to(cluster: Cluster) -> None:
    before = time.time()
    id = cluster.submit("-b", "now+2", "true")
    job = cluster.job(id)
    assert (job["state"], job["reason"]["code"]) == ("QUEUED", "begin")
    attempt = cluster.ended(id)["attempts"][0]
    begun = cluster.call("GET", f"/events?job={id}&kind=job.allocated").json()["items"][0]["at"]
    assert begun == attempt["granted_at"]
    assert _seconds(begun) >= before + 1.9


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_held_jobs_wait_for_their_release(cluster: Cluster) -> None:
    id = cluster.submit("-b", "now+1hour", "true")
    cluster.ok("hold", id)
    assert cluster.job(id)["reason"]["code"] == "held"
    cluster.ok("release", id)
    assert cluster.job(id)["reason"]["code"] == "begin"
    cluster.ok("cancel", id)
    held = cluster.submit("-H", "true")
    assert "held" in cluster.ok("why", held)
    cluster.ok("release", held)
    assert cluster.ended(held)["state"] == "SUCCEEDED"


def test_a_running_job_can_be_requeued(cluster: Cluster) -> None:
    gate = cluster.folder / "second"
    id = cluster.sh(f"echo attempt $GPUQ_ATTEMPT_NUMBER; [ -e {gate} ] || sleep 1000", "-G", "1")
    cluster.says(id, b"attempt 1\n")
    gate.touch()
    cluster.ok("requeue", id)
    job = cluster.ended(id)
    assert (job["state"], job["attempt"], job["retries_used"]) == ("SUCCEEDED", 2, 0)
    assert [attempt["cause"] and attempt["cause"]["code"] for attempt in job["attempts"]] == ["requeued", None]
    assert [cluster.log(id, "--attempt", n) for n in "12"] == [b"attempt 1\n", b"attempt 2\n"]


def test_cancel_lets_a_job_say_goodbye(cluster: Cluster) -> None:
    id = cluster.sh("trap 'echo goodbye; exit 0' TERM; echo begun; sleep 1000 & wait", "-G", "1")
    cluster.says(id, b"begun\n")
    cluster.ok("cancel", id)
    job = cluster.ended(id)
    assert (job["state"], job["cause"]["code"]) == ("CANCELED", "canceled")
    assert "root" in job["cause"]["text"] or os.environ.get("USER", "") in job["cause"]["text"]
    assert cluster.log(id) == b"begun\ngoodbye\n"
    again = cluster.gpuq("cancel", id)
    assert (again.status, "already" in again.text + again.err) == (0, True)


def test_gpus_are_reused_only_when_the_whole_tree_of_a_canceled_job_is_gone(cluster: Cluster) -> None:
    """Two processes that ignore SIGTERM, one of them in a session of its own and orphaned."""
    beat = cluster.folder / "beat"
    one, other = (  # whole files only: they may be killed at any moment
        f"trap '' TERM; while :; do date +%s.%N > {beat}.{name}; mv {beat}.{name} {beat}; sleep 0.02; done"
        for name in ("one", "other")
    )
    body = {
        "command": ["/bin/bash", "-c", f'(setsid bash -c "{one}" &) ; {other}'],
        "cwd": "/",
        "gpus": 8,
        "grace_seconds": 1,
    }
    id = cluster.call("POST", "/jobs", body).json()["id"]
    until(beat.exists, "the job to begin")
    after = cluster.sh(f"cat {beat}; sleep 0.3; cat {beat}", "-G", "1")
    assert cluster.job(after)["reason"]["code"] == "resources"
    cluster.ok("cancel", id)
    job = cluster.ended(id)
    assert job["state"] == "CANCELED"
    assert cluster.ended(after)["state"] == "SUCCEEDED"
    cluster.ok("wait", after)  # for its log, which may come after its end
    first, second = cluster.log(after).split()
    assert first == second
    granted = cluster.job(after)["attempts"][0]["granted_at"]
    assert granted >= job["finished_at"]
    assert _seconds(job["finished_at"]) >= float(first)


def test_children_left_behind_are_ended_with_the_job(cluster: Cluster) -> None:
    pid = cluster.folder / "left-pid"
    id = cluster.sh(f"setsid sleep 1000 & echo $! > {pid}; exit 6", "-G", "1")
    job = cluster.ended(id)
    assert (job["state"], job["exit_code"]) == ("FAILED", 6)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_queued_jobs_and_whole_arrays_are_canceled(cluster: Cluster) -> None:
    queued, array = cluster.submit("-H", "true"), cluster.submit("-a", "0-99%2", "sleep", "1000")
    until(lambda: cluster.job(array)["array"]["counts"].get("RUNNING") == 2, "two elements to run")
    cluster.ok("cancel", f"{array}_0", f"{array}_50")
    cluster.ok("cancel", queued, array)
    assert cluster.becomes(queued, *FINAL)["state"] == "CANCELED"
    job = cluster.becomes(array, *FINAL)
    assert (job["state"], job["array"]["counts"]) == ("CANCELED", {"CANCELED": 100})
    assert cluster.job(f"{array}_0")["state"] == "CANCELED"


def test_a_job_larger_than_any_node_says_so_and_may_give_up(cluster: Cluster) -> None:
    id = cluster.submit("-G", "16", "--scheduling-timeout", "1s", "true")
    reason = cluster.job(id)["reason"]
    if reason:
        assert (reason["code"], "16" in reason["text"]) == ("too_large", True)
    job = cluster.ended(id)
    assert (job["state"], job["cause"]["code"]) == ("FAILED", "scheduling_timeout")


def test_a_failing_job_is_tried_again_as_often_as_asked(cluster: Cluster, retried: str) -> None:
    job = cluster.ended(retried)
    assert (job["state"], job["attempt"], job["retries_used"]) == ("SUCCEEDED", 3, 2)
    assert [(a["number"], a["exit_code"]) for a in job["attempts"]] == [(1, 1), (2, 1), (3, 0)]
    for n in (1, 2, 3):
        assert cluster.log(retried, "--attempt", str(n)) == f"attempt {n} says {n}\n".encode()
    assert cluster.log(retried) == b"attempt 3 says 3\n"
    assert cluster.gpuq("logs", retried, "--attempt", "4").status == 3
