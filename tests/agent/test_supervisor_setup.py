"""Set-up lines, which come before the job: real shells, seen through a real executor."""

from __future__ import annotations

import asyncio

from gpuq.model import EndReason, RankPhase, StopKind
from tests.agent.executions import PATH, machine, shell


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


def test_the_time_limit_counts_from_the_first_set_up_line(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.result(shell("echo ran", setup=("sleep 300",), time_limit=1))
            assert (end.reason, end.stopped, end.started_at) == (EndReason.SETUP_FAILED, StopKind.TIME_LIMIT, None)
            assert end.text == "stopped in setup 1/1"

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
