"""An agent that dies and comes back: its runs go on, and their real ends are found."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.process_tree import start_time
from gpuq.model import EndReason, RankPhase, StopKind
from tests.agent.executions import Machine, alive, boottime, machine, order, supervisor_of, until

AGENT = """
import asyncio, pickle, sys
from pathlib import Path
from agent.executor import Executor

async def main():
    def tell(event):
        if event.phase.value != "accepted":
            print(event.uid, event.phase.value, flush=True)

    executor = Executor(Path(sys.argv[1]), tell)
    await executor.start()
    for order, lease in pickle.loads(bytes.fromhex(sys.argv[2])):
        executor.launch(order, lease)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def shell(text: str, **options):
    return order("sh", "-c", text, **options)


class KilledAgent:
    """An agent in a process of its own that launches the orders, and is killed once all of them run."""

    def __init__(self, state_dir: Path, *orders, lease: float | None = None) -> None:
        data = pickle.dumps([(o, lease) for o in orders]).hex()
        root = Path(__file__).resolve().parent.parent.parent
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(state_dir), data], stdout=subprocess.PIPE, cwd=root
        )
        assert process.stdout is not None
        with process, process.stdout:
            for _ in orders:
                assert b"running" in process.stdout.readline()
            process.kill()


def test_killed_agent_finds_its_runs_again_with_their_real_ends(tmp_path):
    jobs = [
        shell("exit 3" if ends else "while [ ! -e go ]; do sleep 0.02; done; exit 4", cwd=str(tmp_path))
        for ends in (True, False, False)
    ]
    # All must be seen running: so the first one ends only after the agent's death.
    first = shell("while [ ! -e first ]; do sleep 0.02; done; exit 3", cwd=str(tmp_path))
    jobs[0] = first
    KilledAgent(tmp_path, *jobs)
    (tmp_path / "first").touch()
    record = tmp_path / "runs" / f"{first.uid}.0" / "exit.json"
    deadline = time.monotonic() + 30
    while not record.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)

    async def scenario():
        m = Machine(tmp_path)
        await m.executor.start()
        assert set(m.executor._runs) == {(job.uid, 0) for job in jobs}
        assert (await m.end(first)).exit_code == 3
        for job in jobs[1:]:
            await m.running(job)
        (tmp_path / "go").touch()
        assert [(await m.end(job)).exit_code for job in jobs[1:]] == [4, 4]
        for job in jobs:
            m.executor.remove(job.uid, 0)
        await m.executor.close()
        assert list((tmp_path / "runs").iterdir()) == []

    asyncio.run(scenario())


def test_adopted_run_can_be_stopped_and_extended_before_it_is_connected(tmp_path):
    job, fenced = shell("sleep 300"), shell("sleep 1; exit 2")
    KilledAgent(tmp_path, job, fenced, lease=boottime() + 0.9 + 1)

    async def scenario():
        async with machine(tmp_path) as m:
            assert m.executor.extend(fenced.uid, 0, boottime() + 100)
            assert m.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
            assert (await m.end(job)).stopped is StopKind.CANCEL
            end = await m.end(fenced)
            assert (end.exit_code, end.stopped) == (2, None)

    asyncio.run(scenario())


def test_lease_ends_a_job_whose_agent_is_dead(tmp_path):
    job = shell("trap '' TERM; setsid sleep 300 & sleep 300", grace=1)
    KilledAgent(tmp_path, job, lease=boottime() + 4.0)
    supervisor = supervisor_of(tmp_path / "runs" / f"{job.uid}.0")
    deadline = time.monotonic() + 30
    while start_time(supervisor) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert alive(job.uid) == []

    async def scenario():
        async with machine(tmp_path) as m:
            assert (await m.end(job)).stopped is StopKind.FENCE

    asyncio.run(scenario())


def test_supervisor_that_died_meanwhile_is_lost_and_its_survivors_are_killed(tmp_path):
    job = shell("trap '' TERM; setsid sleep 300 & echo up; wait")
    KilledAgent(tmp_path, job)
    run_dir = tmp_path / "runs" / f"{job.uid}.0"
    os.kill(supervisor_of(run_dir), signal.SIGKILL)

    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.end(job)
            assert (end.reason, end.exit_code) == (EndReason.SUPERVISOR_LOST, None)
            assert alive(job.uid) == []

    asyncio.run(scenario())


def test_run_of_another_boot_is_lost_with_its_node(tmp_path):
    job = order("true")
    run_dir = tmp_path / "runs" / f"{job.uid}.0"
    run_dir.mkdir(parents=True)
    (run_dir / "log").write_bytes(b"half a line")
    # A process with this pid and start time does exist now: the boot id alone says that it is another.
    (run_dir / "supervisor").symlink_to(f"another-boot:{os.getpid()}:{start_time(os.getpid())}")

    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.end(job)
            assert (end.reason, end.log_size, end.exit_code) == (EndReason.NODE_LOST, 11, None)

    asyncio.run(scenario())


def test_pid_that_belongs_to_another_by_now_is_not_taken_for_the_supervisor(tmp_path):
    job = order("true")
    run_dir = tmp_path / "runs" / f"{job.uid}.0"
    run_dir.mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (run_dir / "supervisor").symlink_to(f"{boot}:{os.getpid()}:1")

    async def scenario():
        async with machine(tmp_path) as m:
            assert (await m.end(job)).reason is EndReason.SUPERVISOR_LOST

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"reason": "?", "ended_at": 1}'])
def test_damaged_exit_record_says_so_and_invents_nothing(tmp_path, damage):
    job = order("true")
    run_dir = tmp_path / "runs" / f"{job.uid}.0"
    run_dir.mkdir(parents=True)
    (run_dir / "exit.json").write_bytes(damage)

    async def scenario():
        async with machine(tmp_path) as m:
            end = await m.end(job)
            assert (end.reason, end.exit_code) == (EndReason.SUPERVISOR_LOST, None)
            assert "damaged" in end.text

    asyncio.run(scenario())


def test_run_whose_supervisor_had_not_begun_is_barred_for_good(tmp_path):
    job = shell("echo ran")

    async def scenario():
        async with machine(tmp_path) as m:
            os.kill(m.executor._launcher.pid, signal.SIGSTOP)  # it has the order, and has not looked at it
            m.executor.launch(job)
            link = m.executor._runs[job.uid, 0].link
            assert link is not None
            link.close()  # as if this agent were gone
            async with machine(tmp_path) as successor:
                assert (await successor.end(job)).reason is EndReason.NEVER_STARTED
                os.kill(m.executor._launcher.pid, signal.SIGCONT)
                after = shell("exit 0")  # the same launcher gets to it only behind the first
                await m.result(after)
                assert not (m.run_dir(job) / "log").exists()
            m.events += successor.events

    asyncio.run(scenario())


def test_closing_leaves_jobs_running_and_tells_nothing_more(tmp_path):
    job = shell("echo up; sleep 300")

    async def scenario():
        m = Machine(tmp_path)
        await m.executor.start()
        m.executor.launch(job)
        await m.running(job)
        await m.executor.close()
        told = len(m.events)
        async with machine(tmp_path) as successor:
            await successor.running(job)
            assert [e.phase for e in successor.of(job)] == [RankPhase.RUNNING]
            assert successor.of(job)[0].started_at == m.of(job)[0].started_at
        assert len(m.events) == told

    asyncio.run(scenario())


def test_two_connections_see_the_same_end(tmp_path):
    job = shell("while [ ! -e go ]; do sleep 0.02; done; exit 5", cwd=str(tmp_path))

    async def scenario():
        async with machine(tmp_path) as m:
            m.executor.launch(job)
            await m.running(job)
            async with machine(tmp_path) as other:
                await other.running(job)
                (tmp_path / "go").touch()
                assert await other.end(job) == await m.end(job)
                await until(lambda: (m.run_dir(job) / "exit.json").exists())

    asyncio.run(scenario())
