"""Which supervisor serves which run: one that is known to be clean may serve another."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from agent.process_tree import start_time
from gpuq.model import RankPhase, StopKind
from tests.agent.executions import Machine, machine, order, until


def shell(text: str, **options):
    return order("sh", "-c", text, **options)


async def served(m: Machine, *jobs) -> list[int]:
    """The pids of the supervisors of jobs that are run one after the other."""
    pids = []
    for job in jobs:
        await m.result(job)
        pids.append(m.supervisor(job))
        await until(partial(is_idle, pids[-1]))
    return pids


def is_idle(pid: int) -> bool:
    """Whether it is gone, or waits and holds nothing of a run: its streams, its wake-up pipe, its line are left."""
    try:
        waits = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        clean = len(list(Path(f"/proc/{pid}/fd").iterdir())) == 6 and Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    except OSError:
        return True
    return waits and clean


def is_gone(pid: int) -> bool:
    return start_time(pid) is None


def test_supervisor_whose_run_came_to_a_plain_end_serves_the_next_with_nothing_left_of_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()

    async def scenario():
        async with machine(tmp_path / "state") as m:
            first = shell("umask 0; echo one; exit 3", cwd=str(tmp_path / "elsewhere"))
            second = shell("umask; pwd; ls /proc/self/fd | wc -l; ulimit -n", cwd="/")
            third = shell("exit 1", setup=("export X=1",))
            fourth = shell('echo "${X-unset}"; exit 2')
            pids = await served(m, first, second, third, fourth)
            assert len(set(pids)) == 1
            assert [(await m.end(job)).exit_code for job in (first, second, third, fourth)] == [3, 0, 1, 2]
            assert m.log(second).split()[:3] == [b"0022", b"/", b"4"]
            assert m.log(fourth) == b"unset\n"

    asyncio.run(scenario())


def test_the_memory_that_a_run_is_said_to_have_used_is_not_that_of_the_one_before(tmp_path):
    large = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do export V$i=$(head -c 120000 /dev/zero | tr '\\0' x); done"

    async def scenario():
        async with machine(tmp_path) as m:
            jobs = shell("exit 0"), shell("exit 0", setup=(large,)), shell("exit 0")
            assert len(set(await served(m, *jobs))) == 1
            before, itself, after = [(await m.end(job)).max_rss_bytes or 0 for job in jobs]
            assert itself - before > 1 << 20
            assert after - before < (itself - before) / 2

    asyncio.run(scenario())


def test_runs_at_the_same_time_have_supervisors_of_their_own(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            await served(m, shell("exit 0"))
            jobs = [shell("while [ ! -e go ]; do sleep 0.02; done", cwd=str(tmp_path)) for _ in range(3)]
            for job in jobs:
                m.executor.launch(job)
            for job in jobs:
                await m.running(job)
            assert len({m.supervisor(job) for job in jobs}) == 3
            (tmp_path / "go").touch()
            for job in jobs:
                assert (await m.end(job)).exit_code == 0

    asyncio.run(scenario())


def test_supervisor_that_had_to_force_an_end_serves_no_other_run(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            stopped, left_over = shell("sleep 300"), shell("sleep 300 & exit 0")
            m.executor.launch(stopped)
            await m.running(stopped)
            m.executor.stop(stopped.uid, 0, StopKind.CANCEL, 0)
            await m.end(stopped)
            await m.result(left_over)
            for job in (stopped, left_over):
                await until(partial(is_gone, m.supervisor(job)))

    asyncio.run(scenario())


def test_end_is_found_although_the_supervisor_lives_on_with_another_run(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            first, second = shell("exit 4"), shell("sleep 300")
            await served(m, first)
            m.executor.launch(second)
            await m.running(second)
            assert m.supervisor(first) == m.supervisor(second)
            again = Machine(tmp_path)  # as an agent that starts now finds it
            await again.executor.start()
            assert (await again.end(first)).exit_code == 4
            await again.running(second)
            assert again.of(second)[-1].phase is RankPhase.RUNNING
            await again.executor.close()
            m.executor.stop(second.uid, 0, StopKind.CANCEL, 0)
            await m.end(second)

    asyncio.run(scenario())


def test_idle_supervisors_are_dismissed(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            (pid,) = await served(m, shell("exit 0"))
            await until(partial(is_gone, pid))
            await m.result(shell("exit 0"))

    asyncio.run(scenario())
