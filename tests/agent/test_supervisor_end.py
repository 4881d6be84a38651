"""How a supervisor ends what it has started: by its own limits, when asked, and after the job."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace

from gpuq.model import EndReason, RankPhase, StopKind, WarningSignal
from tests.agent.executions import alive, boottime, machine, order, shell, until

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
            began = time.time()
            end = await m.result(shell("sleep 300", time_limit=1))
            assert (end.stopped, end.signal) == (StopKind.TIME_LIMIT, signal.SIGTERM)
            assert end.ended_at - began >= 1

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


WARNED = WarningSignal(signal.SIGUSR1, seconds=300)  # more than the limit: at once


def test_a_job_is_warned_before_its_time_limit_and_may_still_end_well(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            text = "trap 'echo saved; exit 0' USR1; echo up; while :; do sleep 0.05; done"
            job = order("bash", "-c", text, time_limit=100, warning=replace(WARNED, main_only=True, seconds=99))
            end = await m.result(job)
            said = b"up\n[gpuq] SIGUSR1 is sent to this job, 99 s before its time limit\nsaved\n"
            assert (end.exit_code, end.stopped, m.log(job)) == (0, None, said)

    asyncio.run(scenario())


def test_a_job_that_dies_of_the_warning_ended_by_its_time_limit(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("sleep", "300", time_limit=100, warning=WARNED)
            end = await m.result(job)
            assert (end.signal, end.stopped) == (signal.SIGUSR1, StopKind.TIME_LIMIT)
            assert end.text == "ended by SIGUSR1, which told it that its time limit was near"

    asyncio.run(scenario())


def test_the_warning_goes_to_what_a_shell_has_started_and_not_to_the_shell(tmp_path):
    program = "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\nprint('up', flush=True)\n"
    program += "while True: signal.pause()"

    async def scenario():
        async with machine(tmp_path) as m:
            job = order(
                "bash",
                "-c",
                f'python3 -S -c "{program}"; echo it ended with $?',
                time_limit=100,
                warning=replace(WARNED, seconds=99),
            )
            end = await m.result(job)
            assert (end.exit_code, end.stopped) == (0, None)
            assert b"it ended with 7\n" in m.log(job)

    asyncio.run(scenario())
