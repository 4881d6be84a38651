"""Jobs start and end as ever while no thread can be started, or those that are shared are stuck."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from agent import daemon
from agent.daemon import AgentSettings, run_agent
from agent.executor import Executor
from agent.runs import RunDir
from agent.survivors import Traces, end_all
from agent.threads import started
from gpuq.errors import Unavailable
from gpuq.model import EndReason, RankPhase
from tests.agent.agent_process import SocketPeer
from tests.agent.executions import Machine, alive, machine, order, shell, supervisor_of, until
from tests.agent.stage import Stage, play, staged


@contextmanager
def no_new_threads(but: int = 0) -> Iterator[list[threading.Thread]]:
    """What starts a thread fails as it does where the account has no process left, but for the first ones; those."""
    there: list[threading.Thread] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if len(there) == but:
            raise RuntimeError("can't start new thread")
        there.append(thread)
        real(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield there


@contextmanager
def stuck(count: int) -> Iterator[None]:
    """So many of the threads that are shared hang meanwhile."""
    over = threading.Event()
    try:
        for _ in range(count):
            asyncio.get_running_loop().run_in_executor(None, over.wait)
        yield
    finally:
        over.set()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(Stage) as stage:
        yield stage


def play_with_agent(stage: Stage, scene: Callable[[], Awaitable[None]]) -> None:
    """The scene begins when the controller knows the GPUs of an agent that runs in this process."""

    async def with_agent() -> None:
        settings = AgentSettings("a1", "", "", "", stage.state, simulate="2xH100-80GB", shared_account=True)
        agent = asyncio.ensure_future(run_agent(settings, lambda _: SocketPeer(stage.controller.path)))
        try:
            await stage.until(lambda: agent.done() or any(r.inventory for r in stage.controller.requests))
            await scene()
        finally:
            agent.cancel()
            await asyncio.wait({agent})

    play(stage, with_agent)


def gpu_of(stage: Stage) -> str:
    inventory = next(r.inventory for r in stage.controller.requests if r.inventory)
    return inventory.gpus[0].uuid


def test_agent_that_can_start_no_thread_runs_jobs_and_tells_their_ends_and_logs(stage: Stage) -> None:
    async def scene() -> None:
        with no_new_threads(), stuck(daemon.THREADS - 1):
            stage.order("lost", "sleep", "600")
            await stage.until(lambda: stage.phase("lost") is RankPhase.RUNNING)
            os.kill(supervisor_of(stage.state / "runs" / "lost.0"), signal.SIGKILL)
            said = "CUDA out of memory"
            stage.order("full", "sh", "-c", f"echo {said}; exit 3", gpus=(0,), gpu_uuids=(gpu_of(stage),))
            await stage.until(lambda: {"lost", "full"} <= stage.controller.ends.keys())
            assert stage.controller.ends["lost"].reason is EndReason.SUPERVISOR_LOST
            assert (stage.controller.ends["full"].exit_code, stage.controller.ends["full"].gpu_oom) == (3, said)
            await stage.until(lambda: stage.controller.logs.get("full") == f"{said}\n".encode())

    play_with_agent(stage, scene)


def test_shared_threads_that_are_all_stuck_hold_up_neither_an_order_nor_an_end(stage: Stage) -> None:
    async def scene() -> None:
        with stuck(daemon.THREADS):
            stage.order("full", "sh", "-c", "exit 3", gpus=(0,), gpu_uuids=(gpu_of(stage),))
            await stage.until(lambda: "full" in stage.controller.ends)
            assert stage.controller.ends["full"].exit_code == 3

    play_with_agent(stage, scene)


def test_agent_whose_threads_cannot_all_be_started_says_so_in_one_line_and_keeps_none(tmp_path: Path) -> None:
    settings = AgentSettings("a1", "", "", "", tmp_path, simulate="2xH100-80GB", shared_account=True)
    with no_new_threads(but=2) as there, pytest.raises(Unavailable) as raised:
        asyncio.run(run_agent(settings))
    said = raised.value.one_line()
    assert said.startswith(f"the agent cannot start the {daemon.THREADS} threads it needs: can't start new thread: ")
    assert "ulimit -u" in said
    for thread in there:
        thread.join(20)
        assert not thread.is_alive()


def test_started_threads_are_never_more_nor_fewer() -> None:
    pool = started(3, "few")
    over = threading.Event()
    with no_new_threads():
        waiting = [pool.submit(over.wait) for _ in range(5)]
        over.set()
        assert all(future.result(20) for future in waiting)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("few")]
    pool.shutdown()
    assert len(names) == 3


class PausedMachine(Machine):
    """Its executor tries again when it is told to."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.pausing, self.again = asyncio.Event(), asyncio.Event()
        self.executor = Executor(state_dir, self.events.append, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        assert seconds > 0
        self.pausing.set()
        await self.again.wait()


def test_end_of_a_run_whose_supervisor_died_is_tried_again_when_looking_for_what_is_left_failed(tmp_path: Path) -> None:
    async def scene() -> None:
        m = PausedMachine(tmp_path)
        await m.executor.start()
        try:
            lost = order("sleep", "600")
            m.executor.launch(lost)
            await m.running(lost)
            with no_new_threads():
                os.kill(m.supervisor(lost), signal.SIGKILL)
                await asyncio.wait_for(m.pausing.wait(), 20)
            m.again.set()
            assert (await m.end(lost)).reason is EndReason.SUPERVISOR_LOST
            assert alive(lost.uid) == []
        finally:
            await m.executor.close()

    asyncio.run(scene())


def test_run_is_not_told_as_never_started_when_a_look_that_failed_may_have_killed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Traces] = []

    async def fails_once(traces: Traces) -> bool:
        looks.append(traces)
        if len(looks) == 1:
            raise OSError("too many open files")
        return await end_all(traces)

    monkeypatch.setattr("agent.executor.end_all", fails_once)

    async def scene() -> None:
        m = PausedMachine(tmp_path)
        m.again.set()
        await m.executor.start()
        try:
            unprepared = order("true")
            m.run_dir(unprepared).mkdir()  # in the way
            end = await m.result(unprepared)
            assert (end.reason, len(looks)) == (EndReason.SUPERVISOR_LOST, 2)
            assert "it may have been begun" in end.text
        finally:
            await m.executor.close()

    asyncio.run(scene())


def test_end_that_is_on_record_is_told_though_the_agent_was_short_of_descriptors_when_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        first, job = Machine(tmp_path), shell("until [ -e go ]; do sleep 0.01; done; exit 3", cwd=str(tmp_path))
        await first.executor.start()
        first.executor.launch(job)
        await first.running(job)
        await first.executor.close()
        (tmp_path / "go").touch()
        directory = RunDir(first.run_dir(job))
        await until(lambda: directory.exit_record() is not None)

        def short(*_: object) -> NoReturn:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        second = PausedMachine(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(RunDir, "exit_record", short)
            patched.setattr("agent.executor.end_all", short)
            await second.executor.start({(job.uid, job.rank): True})
            await asyncio.wait_for(second.pausing.wait(), 20)
        second.again.set()
        end = await second.end(job)
        assert (end.reason, end.exit_code) == (EndReason.EXITED, 3)
        await second.executor.close()

    asyncio.run(scene())


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # that is what is meant
def test_executor_lets_go_of_jobs_that_go_on_where_no_thread_can_be_started(tmp_path: Path) -> None:
    async def scene() -> None:
        first, goes_on = Machine(tmp_path), order("sleep", "600")
        await first.executor.start()
        first.executor.launch(goes_on)
        await first.running(goes_on)
        with no_new_threads():
            await first.executor.close()
        async with machine(tmp_path) as second:
            await second.running(goes_on)

    asyncio.run(scene())
