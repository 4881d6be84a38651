"""What a rank's supervisor does for one job: real processes, seen through a real executor."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent import launcher_link
from agent.process_tree import start_time
from gpuq.model import EndReason, RankPhase
from tests.agent.executions import machine, order, shell, until

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


def test_exit_record_waits_for_room_on_the_disk(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo up; sleep 0.2; exit 6")
            m.executor.launch(job)
            await m.logged(job, b"up")
            m.disk_is_full_for(job)
            end = await m.end(job)
            assert end.exit_code == 6
            assert not (m.run_dir(job) / "exit.json").exists()
            m.disk_is_full_for(job, full=False)
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


def test_nothing_of_a_run_stays_in_the_process_that_takes_the_next(tmp_path, monkeypatch):
    """No collector runs there: one circle of references kept each of a hundred runs, 10 KiB a piece."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from agent import launcher
class Supervisor(launcher.Supervisor):
    def __del__(self):
        os.write(2, b"let go")
launcher.Supervisor = Supervisor
launcher.main(int(sys.argv[2]))
"""
    monkeypatch.setattr(launcher_link, "_MAIN", code)

    async def scenario():
        async with machine(tmp_path) as m:
            await m.result(shell("exit 0"))
            await until(lambda: b"let go" in (tmp_path / "launcher" / "launcher.log").read_bytes())

    asyncio.run(scenario())
