"""Launching, stopping and removing through the executor, and what it makes of supervisors and launchers that die."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

import agent
from agent.process_tree import descendants, start_time
from gpuq.model import AttemptUid, EndReason, JobId, RankPhase, StopKind
from tests.agent.executions import PATH, alive, machine, order, shell, until

# ---------------------------------------------------------------- launching


def test_script_is_run_by_its_first_line_with_its_arguments(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            script = '#!/usr/bin/env python3\nimport sys; print(sys.argv[1:], "é")\n'
            job = order("a b", "-c", script=script, environment={"PATH": PATH, "PYTHONUTF8": "1"})
            end = await m.result(job)
            assert (end.exit_code, m.log(job).decode()) == (0, "['a b', '-c'] é\n")
            assert stat.S_IMODE((m.run_dir(job) / "job" / "script").stat().st_mode) == 0o700
            assert stat.S_IMODE(m.run_dir(job).stat().st_mode) == 0o700

    asyncio.run(scenario())


def test_launching_twice_runs_once(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo once")
            m.executor.launch(job)
            m.executor.launch(job)
            await m.end(job)
            m.executor.launch(job)
            assert m.log(job) == b"once\n"
            assert len(m.of(job)) == 2

    asyncio.run(scenario())


def test_a_state_directory_deeper_than_a_socket_address(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)

    async def scenario():
        async with machine(deep) as m:
            job = shell("sleep 300")
            m.executor.launch(job)
            await m.running(job)
            async with machine(deep) as successor:
                await successor.running(job)
                successor.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
                assert (await successor.end(job)).stopped is StopKind.CANCEL
            await m.end(job)

    asyncio.run(scenario())


def test_a_directory_that_cannot_be_made_is_never_started(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("true")
            m.run_dir(job).write_text("in the way")
            end = await m.result(job)
            assert end.reason is EndReason.NEVER_STARTED
            assert "File exists" in end.text
            m.run_dir(job).unlink()

    asyncio.run(scenario())


def test_large_environment_and_arguments_arrive(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            big = {f"BIG{i}": "x" * 100_000 for i in range(10)}
            job = order("sh", "-c", "echo ${#BIG9} ${#1}", "sh", "y" * 120_000, environment={"PATH": PATH, **big})
            await m.result(job)
            assert m.log(job) == b"100000 120000\n"
            too_big = order("true", environment={"PATH": PATH, "X": "x" * 200_000})
            end = await m.result(too_big)
            assert (end.reason, end.text) == (
                EndReason.LAUNCH_FAILED,
                "cannot execute 'true': Argument list too long",
            )

    asyncio.run(scenario())


def test_a_hundred_at_once_all_end_as_they_should(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            jobs = [shell(f"echo {i}; exit {i}") for i in range(100)]
            for job in jobs:
                m.executor.launch(job)
            ends = [await m.end(job) for job in jobs]
            assert [end.exit_code for end in ends] == list(range(100))
            assert [m.log(job) for job in jobs] == [b"%d\n" % i for i in range(100)]

    asyncio.run(scenario())


def test_array_element_knows_its_place(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            plain = order("sh", "-c", "echo $GPUQ_JOB_ID $GPUQ_ARRAY_TASK_ID $SLURM_ARRAY_JOB_ID")
            job = replace(plain, job=replace(plain.job, id=JobId("1042_7"), index=7))
            await m.result(job)
            assert m.log(job) == b"1042_7 7 1042\n"

    asyncio.run(scenario())


# ---------------------------------------------------------------- stop, sweep, remove


def test_unknown_ranks_are_not_held(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            nobody = AttemptUid("nobody")
            assert not m.executor.stop(nobody, 0, StopKind.CANCEL, 0)
            assert not m.executor.extend(nobody, 0, 5.0)
            m.executor.remove(nobody, 0)

    asyncio.run(scenario())


def test_remove_deletes_an_ended_run_and_refuses_a_live_one(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order(script="#!/bin/sh\ntouch $(dirname $0)/stray; sleep 300\n")
            m.executor.launch(job)
            await m.running(job)
            with pytest.raises(ValueError, match="has not ended"):
                m.executor.remove(job.uid, 0)
            await until((m.run_dir(job) / "job" / "stray").exists)
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 30)
            await m.end(job)
            m.executor.remove(job.uid, 0)
            await until(lambda: not m.run_dir(job).exists())
            assert not m.executor.stop(job.uid, 0, StopKind.CANCEL, 30)

    asyncio.run(scenario())


def test_sweep_kills_what_carries_the_attempt_and_nothing_else(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            mine, other = uuid.uuid4().hex, uuid.uuid4().hex
            command = ["sh", "-c", "trap '' TERM; sleep 300 & wait"]
            strays = [subprocess.Popen(command, env={"PATH": PATH, "GPUQ_ATTEMPT": uid}) for uid in (mine, other)]
            await until(lambda: len(alive(AttemptUid(mine))) == 2 == len(alive(AttemptUid(other))))
            await m.executor.sweep(AttemptUid(mine))
            assert alive(AttemptUid(mine)) == []
            assert len(alive(AttemptUid(other))) == 2
            await m.executor.sweep(AttemptUid(other))
            for process in strays:
                process.wait()  # a shell may have outlived its sleep long enough to end by itself
            assert alive(AttemptUid(other)) == []

    asyncio.run(scenario())


# ---------------------------------------------------------------- what dies


def test_killed_supervisor_takes_its_tree_along_and_no_exit_code_is_made_up(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("trap '' TERM; setsid sleep 300 & sleep 300 & echo up; wait")
            m.executor.launch(job)
            await m.logged(job, b"up")
            os.kill(m.supervisor(job), signal.SIGKILL)
            end = await m.end(job)
            assert alive(job.uid) == []
            assert (end.reason, end.exit_code, end.signal, end.stopped) == (EndReason.SUPERVISOR_LOST, None, None, None)
            assert (end.log_size, end.started_at) == (3, m.of(job)[0].started_at)

    asyncio.run(scenario())


def test_killed_launcher_is_replaced_and_running_jobs_are_untouched(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("echo up; while [ ! -e go ]; do sleep 0.02; done; exit 3", cwd=str(tmp_path))
            m.executor.launch(job)
            await m.logged(job, b"up")
            shutil.rmtree(tmp_path / "launcher")  # as when a cache is emptied
            first = m.executor._launcher.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: start_time(first) is None)
            after = shell("exit 4")
            m.executor.launch(after)
            assert (await m.end(after)).exit_code == 4
            assert m.executor._launcher.pid != first
            (tmp_path / "go").touch()
            assert (await m.end(job)).exit_code == 3

    asyncio.run(scenario())


def test_code_and_launcher_may_vanish_under_a_running_job(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = shell("trap '' TERM; echo up; sleep 300 & wait", setup=("sleep 0.3",))
            m.executor.launch(job)
            await until(m.run_dir(job).joinpath("log").exists)
            shutil.rmtree(tmp_path / "launcher")
            os.kill(m.executor._launcher.pid, signal.SIGKILL)
            await m.logged(job, b"up\n")
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 0.1)
            end = await m.end(job)
            assert (end.signal, end.stopped) == (signal.SIGKILL, StopKind.CANCEL)
            assert (m.run_dir(job) / "exit.json").exists()

    asyncio.run(scenario())


def test_supervisor_that_cannot_begin_is_a_run_never_started(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            launcher = m.executor._launcher.pid
            (_, hard), found = resource.prlimit(launcher, resource.RLIMIT_NOFILE), []
            for files in (9, 10):  # it may open so many: not for its pipe, or not for its log
                resource.prlimit(launcher, resource.RLIMIT_NOFILE, (files, hard))
                found.append((await m.result(shell("echo ran >>ran", cwd=str(tmp_path)))).reason)
            assert set(found) == {EndReason.NEVER_STARTED}
            assert not (tmp_path / "ran").exists()

    asyncio.run(scenario())


def test_launcher_that_cannot_fork_is_a_run_never_started(tmp_path):
    # A launcher whose user may have no further process answers so on the connection.
    code = (
        "import sys, socket; sys.path.insert(0, sys.argv[1]); from agent import launcher; import os\n"
        "def fork(): raise BlockingIOError(11, 'x')\n"
        "os.fork = fork; launcher.main(int(sys.argv[2]))"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    root = str(Path(agent.__file__).parent.parent)
    with ours, theirs:
        process = subprocess.Popen([sys.executable, "-c", code, root, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        near, far = socket.socketpair()
        with near, far:
            socket.send_fds(ours, [b"+"], [far.fileno()])
            far.close()
            assert json.loads(near.recv(1000))["error"].startswith("cannot start a supervisor: Resource temporarily")
            assert near.recv(10) == b""
        ours.close()
        assert process.wait() == 0


def test_launcher_outlives_its_agent_for_as_long_as_there_are_runs_and_ends_what_a_killed_supervisor_left(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            ended, job = shell("exit 0"), shell("echo $$; env -i setsid sleep 300 > /dev/null 2>&1")
            await m.result(ended)
            m.executor.launch(job)
            await m.logged(job, b"\n")
            await until(lambda: m.of(job) and m.of(job)[-1].phase is RankPhase.RUNNING)
            pid, main = m.executor._launcher.pid, int(m.log(job))
            await m.executor.close()
            assert start_time(pid) is not None
            assert start_time(m.supervisor(job)) is not None
            await until(lambda: len(descendants(m.supervisor(job))) == 2)
            below = descendants(m.supervisor(job))
            assert main in below
            os.kill(m.supervisor(job), signal.SIGKILL)
            await until(lambda: not any(map(start_time, [pid, *below])))
            m.executor._runs.clear()

    asyncio.run(scenario())
