"""A job whose supervisor, folder or records are gone: it never runs on unseen, and never counts as not started."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from agent.process_tree import descendants, start_time
from gpuq.model import EndReason, RankPhase, StopKind
from tests.agent.executions import Machine, machine, order, until

HIDDEN = {
    "its environment cleared": "exec env -i sleep 601",
    "its environment cleared, in its own session": "env -i setsid sleep 601; :",
    "nothing of it left": "env -i setsid sleep 601 > /dev/null 2>&1 < /dev/null; :",
    "an orphan, nothing of it left": "(env -i setsid sleep 601 > /dev/null 2>&1 &) ; exec sleep 602",
    "its environment overwritten": """exec python3 -c '
import ctypes, time
lines = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
begin, end = int(lines[47]), int(lines[48])
ctypes.memset(begin, 0, end - begin)
time.sleep(601)
'""",
}


def shell(text: str, **options):
    return order("bash", "-c", text, **options)


async def below(m: Machine, job, count: int) -> list[int]:
    """The processes of the job, once there are so many and all have become what they are to be."""
    supervisor = m.supervisor(job)
    await until(lambda: len(descendants(supervisor)) == count)
    await asyncio.sleep(0.1)
    return [pid for pid in descendants(supervisor) if start_time(pid)]


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("lease", [None, 1e9])
def test_what_a_killed_supervisor_left_is_gone_before_the_end_is_told(tmp_path, how, lease):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell(HIDDEN[how])
            m.executor.launch(job, lease)
            await m.running(job)
            left = await below(m, job, 1 if "exec env" in HIDDEN[how] or "python3" in HIDDEN[how] else 2)
            os.kill(m.supervisor(job), signal.SIGKILL)
            end = await m.end(job)
            assert not any(map(start_time, left))
            assert end.reason is EndReason.SUPERVISOR_LOST
            assert end.text == "the supervisor of this rank died; all that it had started was killed"

    asyncio.run(scenario())


@pytest.mark.parametrize("how", [how for how in HIDDEN if "nothing" not in how])
def test_without_launcher_too_they_are_recognised_and_the_text_says_by_what(tmp_path, how):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell(HIDDEN[how])
            m.executor.launch(job)
            await m.running(job)
            left = await below(m, job, 2 if "session" in how else 1)
            os.kill(m.executor._launcher.pid, signal.SIGKILL)
            await until(lambda: start_time(m.executor._launcher.pid))
            os.kill(m.supervisor(job), signal.SIGKILL)
            end = await m.end(job)
            assert not any(map(start_time, left))
            assert end.text == (
                "the supervisor of this rank died; what was recognised by its environment, session or output was killed"
            )

    asyncio.run(scenario())


def test_other_runs_are_left_alone_by_that(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            lost, kept = shell("exec env -i sleep 601"), shell("env -i sleep 602; sleep 603")
            for job in (lost, kept):
                m.executor.launch(job)
                await m.running(job)
            others = await below(m, kept, 2)
            os.kill(m.supervisor(lost), signal.SIGKILL)
            await m.end(lost)
            await m.executor.sweep(lost.uid)
            assert all(map(start_time, others))
            after = shell("exit 3")
            assert (await m.result(after)).exit_code == 3

    asyncio.run(scenario())


def test_script_that_deletes_where_it_lies_is_none_the_worse(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            text = '#!/bin/bash\nrm -rf "$(dirname "$0")"\necho done\nsleep 0.2\nexit 7\n'
            job = order(script=text, cwd=str(tmp_path))
            assert (await m.result(job)).exit_code == 7
            assert m.log(job) == b"done\n"
            assert (m.run_dir(job) / "exit.json").exists()

    asyncio.run(scenario())


def test_run_whose_folder_was_deleted_is_ended_and_lost_not_forgotten(tmp_path):
    async def scenario():
        m = Machine(tmp_path)
        await m.executor.start()
        job = shell("env -i setsid sleep 601 > /dev/null 2>&1; sleep 602")
        m.executor.launch(job)
        await m.running(job)
        left = await below(m, job, 2)
        await m.executor.close()
        shutil.rmtree(m.run_dir(job))
        again = Machine(tmp_path)
        await again.executor.start({(job.uid, 0): True})
        end = await again.end(job)
        assert end.reason is EndReason.SUPERVISOR_LOST
        assert "never" not in end.text
        assert not any(map(start_time, left))
        await again.executor.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("begun", "reason"), [(False, EndReason.NEVER_STARTED), (True, EndReason.SUPERVISOR_LOST)])
def test_run_without_folder_and_processes_never_started_only_if_none_was_ever_heard_of(tmp_path, begun, reason):
    job = shell("exit 0")

    async def scenario():
        m = Machine(tmp_path)
        await m.executor.start({(job.uid, 0): begun})
        assert (await m.end(job)).reason is reason
        await m.executor.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", ["no name", "no name, no socket", "damaged record"])
def test_run_whose_marks_were_tampered_with_is_followed_or_ended_but_never_told_over_while_it_lives(tmp_path, damage):
    async def scenario():
        m = Machine(tmp_path)
        await m.executor.start()
        job = shell("sleep 601")
        m.executor.launch(job)
        await m.running(job)
        left = await below(m, job, 1)
        await m.executor.close()
        if "name" in damage:
            (m.run_dir(job) / "supervisor").unlink()
        if "socket" in damage:
            (m.run_dir(job) / "sock").unlink()
        if "record" in damage:
            (m.run_dir(job) / "exit.json").write_text("{")
        again = Machine(tmp_path)
        await again.executor.start({(job.uid, 0): True})
        if "socket" not in damage:
            await again.running(job)
            assert all(map(start_time, left))
            assert again.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
            assert (await again.end(job)).stopped is StopKind.CANCEL
        else:
            assert (await again.end(job)).reason is EndReason.SUPERVISOR_LOST
        assert not any(map(start_time, left))
        await again.executor.close()

    asyncio.run(scenario())


def test_end_of_a_run_whose_folder_was_deleted_is_written_down_all_the_same(tmp_path):
    async def scenario():
        m = Machine(tmp_path)
        await m.executor.start()
        job = shell("echo before; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 5", cwd=str(tmp_path))
        m.executor.launch(job)
        await m.logged(job, b"before\n")
        supervisor = m.supervisor(job)
        await m.executor.close()
        shutil.rmtree(m.run_dir(job))
        (tmp_path / "go").touch()
        await until((m.run_dir(job) / "exit.json").exists)
        await until(lambda: start_time(supervisor) is None)
        again = Machine(tmp_path)
        await again.executor.start({(job.uid, 0): True})
        assert (await again.end(job)).exit_code == 5
        assert m.log(job) == b"before\nafter\n"
        await again.executor.close()

    asyncio.run(scenario())


def test_supervisor_that_was_told_to_forget_does_not_make_its_folder_again(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo up; while [ ! -e go ]; do sleep 0.02; done", cwd=str(tmp_path))
            m.executor.launch(job)
            await m.logged(job, b"up")
            supervisor = m.supervisor(job)
            m.disk_is_full_for(job)
            (tmp_path / "go").touch()
            await m.end(job)
            m.executor.remove(job.uid, 0)
            await until(lambda: start_time(supervisor) is None)
            await until(lambda: not m.run_dir(job).exists())

    asyncio.run(scenario())


LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(601,)).start()
print("up", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def is_leaderless(pid: int) -> bool:
    return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()


@pytest.mark.parametrize("end_by", ["stop", "supervisor"])
def test_process_whose_main_thread_has_ended_is_killed_like_any_other(tmp_path, end_by):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("python3", "-S", "-c", LEADERLESS)
            m.executor.launch(job)
            await m.logged(job, b"up")
            (pid,) = descendants(m.supervisor(job))
            await until(lambda: is_leaderless(pid))
            assert start_time(pid) is not None
            if end_by == "stop":
                m.executor.stop(job.uid, 0, StopKind.CANCEL, 0.2)
            else:
                os.kill(m.supervisor(job), signal.SIGKILL)
            await m.end(job)
            assert start_time(pid) is None

    asyncio.run(scenario())


def test_every_process_gets_the_one_sigterm_however_fast_they_fork(tmp_path):
    # Each generation ends at SIGTERM; one that missed it would go on until the grace of 1000 s is over.
    rabbits = """
        import os, time
        for _ in range(4):
            if not os.fork():
                break
        while True:
            if os.fork():
                os.wait()
                time.sleep(600)
            time.sleep(0.0005)
    """
    text = "\n".join(line[8:] for line in rabbits.splitlines())

    async def scenario():
        async with machine(tmp_path) as m:
            for _ in range(5):
                job = order("python3", "-S", "-c", text)
                m.executor.launch(job)
                await until(partial(_exists, m, job))
                await m.running(job)
                await until(partial(_has_many, m, job))
                m.executor.stop(job.uid, 0, StopKind.CANCEL, 1000)
                end = await m.end(job)
                assert end.signal == signal.SIGTERM

    asyncio.run(scenario())


def test_what_a_job_starts_to_clean_up_gets_no_sigterm(tmp_path):
    text = "trap 'sleep 0.5; cat /etc/hostname > saved; exit 3' TERM; echo up; sleep 600 & wait"

    async def scenario():
        async with machine(tmp_path / "state") as m:
            job = shell(text, cwd=str(tmp_path))
            m.executor.launch(job)
            await m.logged(job, b"up")
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 1000)
            assert (await m.end(job)).exit_code == 3
            assert (tmp_path / "saved").exists()
            assert RankPhase.RUNNING in {event.phase for event in m.of(job)}

    asyncio.run(scenario())


def _exists(m, job) -> bool:
    return bool(m.run_dir(job).exists())


def _has_many(m, job) -> bool:
    return len(descendants(m.supervisor(job))) > 8
