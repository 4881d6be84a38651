"""What a rank's supervisor does for one job: real processes, seen through a real executor."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent.process_tree import start_time
from gpuq.model import EndReason, RankPhase, StopKind
from tests.agent.executions import PATH, alive, boottime, machine, order, until


def shell(text: str, **options):
    return order("sh", "-c", text, **options)


# Without a lease the supervisor uses posix_spawn, with one it forks: the job must not see a difference.
LEASES = pytest.mark.parametrize("lease", [None, 1e9])


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("exit 255", 255, None),
        ("kill -KILL $$", None, signal.SIGKILL),
        ("kill -SEGV $$", None, signal.SIGSEGV),
        ("kill -TERM $$", None, signal.SIGTERM),
    ],
)
@LEASES
def test_exit_code_and_signal_are_the_real_ones(tmp_path, text, code, number, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(shell(text), lease)
            assert (end.reason, end.exit_code, end.signal, end.stopped) == (EndReason.EXITED, code, number, None)
            assert end.started_at is not None
            assert end.started_at <= end.ended_at

    asyncio.run(scenario())


def test_events_tell_running_then_ended_and_nothing_twice(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("exit 0")
            await m.result(job)
            assert [e.phase for e in m.of(job)] == [RankPhase.RUNNING, RankPhase.ENDED]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("nonesuch-program",), "cannot execute 'nonesuch-program': No such file or directory"),
        (("/",), "cannot execute '/': Permission denied"),
        (("./plain",), "cannot execute './plain': Permission denied"),
        (("./headless",), "cannot execute './headless': Exec format error; a script needs a first line"),
        (("./orphan",), "cannot execute './orphan': the interpreter in its first line does not exist"),
        (("sh", "a\0b"), "cannot execute 'sh': Invalid argument"),
    ],
)
@LEASES
def test_what_cannot_be_executed_is_launch_failed_and_never_running(tmp_path, command, text, lease):
    for name, content, mode in [("plain", "x", 0o600), ("headless", "x", 0o700), ("orphan", "#!/nonesuch\n", 0o700)]:
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)

    async def scenario():
        async with machine(tmp_path / "state") as m:
            job = order(*command, cwd=str(tmp_path))
            end = await m.result(job, lease)
            assert end.reason is EndReason.LAUNCH_FAILED
            assert end.text.startswith(text)
            assert (end.exit_code, end.signal, end.started_at) == (None, None, None)
            assert [e.phase for e in m.of(job)] == [RankPhase.ENDED]

    asyncio.run(scenario())


@LEASES
@pytest.mark.parametrize("setup", [(), ("true",)])
def test_missing_working_directory_is_launch_failed_and_named(tmp_path, setup, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(order("true", cwd="/nonesuch/dir", setup=setup), lease)
            assert end.reason is EndReason.LAUNCH_FAILED
            assert end.text == "cannot enter the working directory '/nonesuch/dir': No such file or directory"

    asyncio.run(scenario())


@LEASES
def test_job_sees_its_directory_umask_and_clean_files(tmp_path, lease):
    work = tmp_path / "work"
    work.mkdir()

    async def scenario():
        async with machine(tmp_path / "state") as m:
            job = shell("umask; pwd; ls /proc/self/fd | wc -l; readlink /proc/$$/fd/0", cwd=str(work))
            await m.result(job, lease)
            # ls has 0, 1, 2 and the directory it reads
            assert m.log(job).decode().splitlines() == ["0022", str(work), "4", "/dev/null"]

    asyncio.run(scenario())


@LEASES
def test_job_starts_with_no_signal_blocked_or_ignored(tmp_path, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
            await m.result(job, lease)
            blocked, ignored = (int(line.split()[1], 16) for line in m.log(job).splitlines())
            internal = 1 << 31 | 1 << 32  # 32 and 33 are the C library's own, and posix_spawn's business
            assert (blocked, ignored & ~internal) == (0, 0)

    asyncio.run(scenario())


@LEASES
def test_job_leads_a_session_of_its_own(tmp_path, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("cat", "/proc/self/stat")
            await m.result(job, lease)
            pid, *_, group, session = m.log(job).split()[:6]
            assert pid == group == session

    asyncio.run(scenario())


def test_environment_is_exactly_what_was_ordered(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("/usr/bin/env", "-0", environment={"ONLY": "1"})
            await m.result(job)
            names = {item.split(b"=")[0].decode() for item in m.log(job).split(b"\0") if item}
            assert {n for n in names if not n.startswith(("GPUQ_", "SLURM_", "CUDA_"))} == {"ONLY", "PWD"}

    asyncio.run(scenario())


def test_broken_pipe_kills_as_in_a_shell(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("bash", "-c", "yes | head -n 1; echo ${PIPESTATUS[0]}")
            await m.result(job)
            assert m.log(job) == b"y\n141\n"

    asyncio.run(scenario())


def test_kill_0_in_the_job_ends_the_job_only(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(shell("sleep 100 & kill -TERM 0; wait"))
            assert (end.reason, end.signal) == (EndReason.EXITED, signal.SIGTERM)

    asyncio.run(scenario())


def test_log_is_complete_to_the_last_byte_and_its_size_recorded(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("head -c 3000000 /dev/zero; printf 'err' >&2; printf 'no newline'")
            end = await m.result(job)
            assert m.log(job) == bytes(3_000_000) + b"errno newline"
            assert end.log_size == 3_000_013

    asyncio.run(scenario())


def test_a_tee_behind_the_script_finishes_writing(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("bash", "-c", "exec > >(sleep 0.1; cat); echo last words")
            end = await m.result(job)
            assert m.log(job) == b"last words\n"
            assert (end.exit_code, end.stopped, end.log_size) == (0, None, 11)

    asyncio.run(scenario())


def test_resource_use_counts_the_whole_tree(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            burn = "python3 -c 'x = bytearray(60 << 20); [i for i in range(3000000)]'"
            end = await m.result(shell(f"({burn}) & wait"))
            assert end.cpu_seconds is not None
            assert end.cpu_seconds > 0.05
            assert end.max_rss_bytes is not None
            assert end.max_rss_bytes > 60 << 20

    asyncio.run(scenario())


TREE = """
for i in $(seq 12); do
    (trap '' TERM; sleep 300) &
    setsid sh -c "trap '' TERM; sleep 300 & sleep 300" &
    setsid setsid sleep 300 &
done
(setsid sh -c 'sleep 300 & exec sleep 300' &) &
echo ready
"""


def test_stop_is_reported_only_when_the_whole_tree_is_gone(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell(TREE + "wait")
            m.executor.launch(job)
            await m.logged(job, b"ready")
            await until(lambda: len(alive(job.uid)) >= 60)
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 0.3)
            end = await m.end(job)
            assert alive(job.uid) == []
            assert (end.reason, end.stopped, end.signal) == (EndReason.EXITED, StopKind.CANCEL, signal.SIGTERM)
            assert [(e.phase, e.stopping) for e in m.of(job)][-2:] == [
                (RankPhase.RUNNING, True),
                (RankPhase.ENDED, True),
            ]

    asyncio.run(scenario())


def test_leftovers_of_a_job_that_ended_are_ended_and_the_code_kept(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell(TREE + "exit 5", grace=1)
            end = await m.result(job)
            assert alive(job.uid) == []
            assert (end.exit_code, end.stopped) == (5, None)
            assert m.of(job)[-1].stopping

    asyncio.run(scenario())


def test_what_forks_faster_than_it_is_killed_dies_all_the_same(tmp_path):
    # Each process lives only long enough to fork the next one, in a session of its own.
    rabbit = "import os\nwhile True:\n    if os.fork(): os._exit(0)\n    os.setsid()"

    async def scenario():
        async with machine(tmp_path) as m:
            job = order("python3", "-S", "-c", rabbit)
            m.executor.launch(job)
            await m.running(job)
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
            await m.end(job)
            assert alive(job.uid) == []

    asyncio.run(scenario())


def test_suspended_processes_get_to_act_on_the_stop(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order(
                "bash", "-c", "trap 'echo bye; exit 9' TERM; echo up; kill -STOP $$; while :; do sleep 0.05; done"
            )
            m.executor.launch(job)
            await m.logged(job, b"up")
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 20)
            end = await m.end(job)
            assert (end.exit_code, m.log(job)) == (9, b"up\nbye\n")

    asyncio.run(scenario())


def test_a_second_stop_can_only_shorten_the_grace_and_keeps_the_first_kind(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("trap '' TERM; echo up; while :; do sleep 1; done")
            m.executor.launch(job)
            await m.logged(job, b"up")
            m.executor.stop(job.uid, 0, StopKind.REQUEUE, 1000)
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 1000)
            end = await m.end(job)
            assert (end.signal, end.stopped) == (signal.SIGKILL, StopKind.REQUEUE)

    asyncio.run(scenario())


def test_time_limit_ends_the_job_by_itself(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(shell("sleep 300", time_limit=1))
            assert (end.stopped, end.signal) == (StopKind.TIME_LIMIT, signal.SIGTERM)
            assert end.started_at is not None
            assert end.ended_at - end.started_at >= 1

    asyncio.run(scenario())


def test_lease_that_is_extended_outlives_its_first_deadline(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("sleep 1.2; exit 4")
            m.executor.launch(job, boottime() + 0.6)
            m.executor.extend(job.uid, 0, boottime() + 100)
            m.executor.extend(job.uid, 0, boottime() + 0.1)  # late news: must not shorten it
            end = await m.end(job)
            assert (end.exit_code, end.stopped) == (4, None)

    asyncio.run(scenario())


def test_lease_that_ends_fences_the_job(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(shell("sleep 300"), boottime() + 0.5)
            assert (end.stopped, end.signal) == (StopKind.FENCE, signal.SIGTERM)

    asyncio.run(scenario())


def test_lease_that_has_ended_already_starts_nothing(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo ran")
            end = await m.result(job, boottime() - 1)
            assert (end.reason, end.stopped, m.log(job)) == (EndReason.NEVER_STARTED, StopKind.FENCE, b"")

    asyncio.run(scenario())


def test_stop_right_behind_the_launch_starts_nothing(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo ran")
            m.executor.launch(job)
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 30)
            end = await m.end(job)
            assert (end.reason, end.stopped, m.log(job)) == (EndReason.NEVER_STARTED, StopKind.CANCEL, b"")

    asyncio.run(scenario())


def test_stop_during_set_up_ends_it_and_starts_no_job(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo ran", setup=("echo up; sleep 300",))
            m.executor.launch(job)
            await m.logged(job, b"\nup")
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 30)
            end = await m.end(job)
            assert (end.reason, end.stopped) == (EndReason.SETUP_FAILED, StopKind.CANCEL)
            assert end.text == "stopped in setup 1/1"
            assert b"ran" not in m.log(job)
            assert RankPhase.RUNNING not in [e.phase for e in m.of(job)]

    asyncio.run(scenario())


def test_set_up_lines_change_the_jobs_environment_and_are_labelled(tmp_path):
    (tmp_path / "env.sh").write_text("export FROM_FILE='a\nb'\nunset GONE\nnot_exported=1\n")
    setup = (
        f". {tmp_path}/env.sh",
        'export PATH="$PATH:/extra" CUDA_VISIBLE_DEVICES=0 GPUQ_ATTEMPT=x',
        "exit 0",
        "cd /",
    )

    async def scenario():
        async with machine(tmp_path / "state") as m:
            environment = {"PATH": PATH, "GONE": "1"}
            job = shell("env; pwd", setup=setup, environment=environment, cwd=str(tmp_path))
            end = await m.result(job)
            log = m.log(job).decode()
            assert end.exit_code == 0
            assert f"[gpuq] setup 1/4: . {tmp_path}/env.sh\n[gpuq] setup 1/4 done in 0." in log
            job_lines = log.partition("setup 4/4 done")[2].splitlines()[1:]
            assert job_lines[-1] == str(tmp_path)
            variables = dict(line.split("=", 1) for line in job_lines if "=" in line)
            assert variables["FROM_FILE"] == "a"
            assert variables["PATH"] == PATH + ":/extra"
            assert not {"GONE", "not_exported", "SHLVL", "gpuq_status"} & set(variables)
            # What was granted stays granted, whatever a profile sets.
            assert variables["CUDA_VISIBLE_DEVICES"] == ""
            assert variables["GPUQ_ATTEMPT"] == job.uid

    asyncio.run(scenario())


def test_a_set_up_line_that_fails_ends_the_run_and_names_itself(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo ran", setup=("true", "set -e; false; echo not reached", "true"))
            end = await m.result(job)
            assert (end.reason, end.exit_code) == (EndReason.SETUP_FAILED, 1)
            assert end.text == "setup 2/3 ('set -e; false; echo not reached') failed with exit code 1"
            assert b"setup 2/3 failed with exit code 1 after" in m.log(job)
            assert b"ran" not in m.log(job)
            assert b"\nnot reached" not in m.log(job)

    asyncio.run(scenario())


def test_exit_record_waits_for_room_on_the_disk(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo up; sleep 0.2; exit 6")
            m.executor.launch(job)
            await m.logged(job, b"up")
            (m.run_dir(job) / "exit.tmp").mkdir()  # the record cannot be written, as on a full disk
            end = await m.end(job)
            assert end.exit_code == 6
            assert not (m.run_dir(job) / "exit.json").exists()
            (m.run_dir(job) / "exit.tmp").rmdir()
            await until((m.run_dir(job) / "exit.json").exists)
            await until(lambda: start_time(m.supervisor(job)) is None)

    asyncio.run(scenario())


def test_hang_up_and_termination_of_the_supervisor_itself_cost_nothing(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo up; sleep 0.3; exit 8")
            m.executor.launch(job)
            await m.logged(job, b"up")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(m.supervisor(job), number)
            assert (await m.end(job)).exit_code == 8

    asyncio.run(scenario())


def test_an_idle_supervisor_sleeps(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("sleep 300")
            m.executor.launch(job)
            await m.running(job)
            pid = m.supervisor(job)
            await until(lambda: b") S " in Path(f"/proc/{pid}/stat").read_bytes())

            def switches():
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                return [line for line in lines if line.startswith("voluntary")]

            before = switches()
            await asyncio.sleep(0.3)
            assert switches() == before

    asyncio.run(scenario())
