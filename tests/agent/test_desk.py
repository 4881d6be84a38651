"""What the agent does when its own disk fails it: nothing starts that could be forgotten, and it says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agent import daemon
from agent.accounts import LocalAccounts
from agent.actions import Accept
from agent.desk import AgentDesk
from agent.journal import Journal, JournalLost
from agent.last_words import gpu_oom_in
from gpuq.accounts import EVERYONES
from gpuq.errors import Unavailable
from gpuq.model import EndReason, ExitRecord, RankPhase
from gpuq.protocol import LogReply, LogShipment, RunOrder, SyncRequest
from tests.agent.executions import alive, supervisor_of
from tests.agent.orders import NODE, inventory, reply_to, run_order, stop_order, uid
from tests.agent.test_journal import disk_full_after
from tests.agent.test_threads import no_new_threads, stuck


class Nobody:
    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
        raise Unavailable("nobody is there")


@pytest.fixture
def state() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gpuq-"))
    yield path
    shutil.rmtree(path)


def play(state: Path, scene: Callable[[AgentDesk, Journal], Awaitable[None]]) -> None:
    async def main() -> None:
        journal = Journal(state / "journal", "boot1", time.time())
        desk = AgentDesk(state, journal, Nobody(), LocalAccounts(EVERYONES))
        try:
            await desk.start(NODE, "boot1")
            await scene(desk, journal)
        finally:
            await desk.close()
            journal.close()

    asyncio.run(main())


def ends(request: SyncRequest) -> dict[str, tuple[EndReason, str]]:
    return {r.uid: (r.exit.reason, r.exit.text) for r in request.reports if r.exit is not None}


def phase(request: SyncRequest) -> RankPhase:
    (report,) = request.reports
    return report.phase


def test_full_disk_accepts_nothing_and_says_why(state: Path) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        request = await desk.request(0.0)
        with disk_full_after(100):
            await desk.answered(reply_to(request, 1, run=(run_order("x"),)), 0.0)
        assert not list((state / "runs").iterdir())
        assert desk.news.is_set()
        request = await desk.request(0.0)
        reason, text = ends(request)["x"]
        assert reason is EndReason.NEVER_STARTED
        assert "cannot write its journal: File too large" in text
        await desk.answered(reply_to(request, 2, run=(run_order("x"), run_order("y"))), 0.0)
        assert [path.name for path in (state / "runs").iterdir()] == ["y.0"]

    play(state, scene)


def test_full_disk_does_not_keep_a_barred_attempt_from_being_reported(state: Path) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        request = await desk.request(0.0)
        with disk_full_after(100):
            await desk.answered(reply_to(request, 1, stop=(stop_order("x"),)), 0.0)
        await asyncio.wait_for(desk.news.wait(), 20)
        assert ends(await desk.request(0.0))["x"][0] is EndReason.NEVER_STARTED

    play(state, scene)


def test_accepted_order_that_was_never_launched_is_not_launched_after_a_restart(state: Path) -> None:
    journal = Journal(state / "journal", "boot1", 1.0)
    journal.write([Accept(run_order("x"), None)])
    journal.close()

    async def scene(desk: AgentDesk, journal: Journal) -> None:
        assert not list((state / "runs").iterdir())
        work = asyncio.ensure_future(desk.work())
        request = await desk.request(0.0)
        assert ends(request) == {}  # not before it has been looked for
        while not ends(request):
            await asyncio.wait_for(desk.news.wait(), 20)
            request = await desk.request(0.0)
        work.cancel()
        assert ends(request)["x"] == (EndReason.NEVER_STARTED, "the agent was restarted before this was started")
        await desk.answered(reply_to(request, 1, run=(run_order("x"),)), 0.0)
        assert not list((state / "runs").iterdir())

    play(state, scene)


def test_run_that_had_begun_is_not_told_as_never_started_however_little_is_left_of_it(state: Path) -> None:
    """Neither folder nor process, nor a supervisor that could have made the folder again: only the journal knows."""

    async def first(desk: AgentDesk, journal: Journal) -> None:
        work = asyncio.ensure_future(desk.work())
        order = run_order("x", command=("sleep", "600"), environment={"PATH": os.environ["PATH"]})
        request = await desk.request(0.0)
        await desk.answered(reply_to(request, 1, run=(order,)), 0.0)
        while not request.reports or phase(request) is not RankPhase.RUNNING:
            await asyncio.wait_for(desk.news.wait(), 20)
            request = await desk.request(0.0)
        work.cancel()
        os.kill(supervisor_of(state / "runs" / "x.0"), signal.SIGKILL)

    async def second(desk: AgentDesk, journal: Journal) -> None:
        work = asyncio.ensure_future(desk.work())
        request = await desk.request(0.0)
        while not ends(request):
            await asyncio.wait_for(desk.news.wait(), 20)
            request = await desk.request(0.0)
        work.cancel()
        assert ends(request)["x"][0] is EndReason.SUPERVISOR_LOST
        assert alive(uid("x")) == []

    play(state, first)
    shutil.rmtree(state / "runs" / "x.0")
    play(state, second)


def test_barred_attempt_of_which_something_was_found_is_not_told_as_never_started(state: Path) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        stray = subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], "GPUQ_ATTEMPT": "stray"})
        try:
            await desk.answered(reply_to(await desk.request(0.0), 1, stop=(stop_order("stray"),)), 0.0)
            request = await desk.request(0.0)
            while not ends(request):
                await asyncio.wait_for(desk.news.wait(), 20)
                request = await desk.request(0.0)
            assert ends(request)["stray"][0] is EndReason.SUPERVISOR_LOST
        finally:
            stray.kill()
            assert await asyncio.to_thread(stray.wait, 20) == -9

    play(state, scene)


def test_run_on_disk_that_the_journal_does_not_know_is_cleared_away(state: Path) -> None:
    (state / "runs" / "x.0").mkdir(parents=True)

    async def scene(desk: AgentDesk, journal: Journal) -> None:
        work = asyncio.ensure_future(desk.work())
        deadline = time.monotonic() + 20
        while list((state / "runs").iterdir()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        work.cancel()
        assert (await desk.request(0.0)).holds == ()

    play(state, scene)


def test_launch_that_blows_up_is_the_end_of_that_attempt_only(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        launch = desk.executor.launch

        def sometimes(order, lease_deadline=None):
            if order.uid == "x":
                raise ZeroDivisionError
            launch(order, lease_deadline)

        monkeypatch.setattr(desk.executor, "launch", sometimes)
        work = asyncio.ensure_future(desk.work())
        orders = (run_order("x"), run_order("y", environment={"PATH": os.environ["PATH"]}))
        await desk.answered(reply_to(await desk.request(0.0), 1, run=orders), 0.0)
        deadline = time.monotonic() + 20
        found: dict[str, tuple[EndReason, str]] = {}
        while len(found) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            found |= ends(await desk.request(0.0))
        work.cancel()
        assert found["x"] == (EndReason.LAUNCH_FAILED, "the agent failed to launch this: ZeroDivisionError")
        assert found["y"][0] is EndReason.EXITED

    play(state, scene)


def test_epoch_of_the_controller_outlives_the_agent(state: Path) -> None:
    async def first(desk: AgentDesk, journal: Journal) -> None:
        await desk.answered(reply_to(await desk.request(0.0), 1, epoch=3), 0.0)

    async def second(desk: AgentDesk, journal: Journal) -> None:
        assert not await desk.answered(reply_to(await desk.request(0.0), 9, epoch=2, run=(run_order("x"),)), 0.0)

    play(state, first)
    play(state, second)


def test_agent_ends_when_its_journal_can_no_longer_be_trusted(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def loop() -> None:
            raise JournalLost("it is gone")

        await daemon._kept_running("exchange", loop, ended)
        return await ended

    assert asyncio.run(main()) == 1
    assert "agent.state_lost text=it is gone" in caplog.text


def test_loop_that_dies_is_logged_with_its_traceback_and_started_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "RESTART_SECONDS", 0.0)

    async def main() -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        lives = 0

        async def loop() -> None:
            nonlocal lives
            lives += 1
            if lives == 3:
                raise JournalLost("enough")
            raise ZeroDivisionError

        await daemon._kept_running("logs", loop, ended)
        return lives

    assert asyncio.run(main()) == 3
    assert caplog.text.count("loop.died name=logs") == 2
    assert "ZeroDivisionError" in caplog.text


def test_events_are_told_phase_by_phase(state: Path) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        work = asyncio.ensure_future(desk.work())
        order = run_order("x", command=("sleep", "600"), environment={"PATH": os.environ["PATH"]})
        await desk.answered(reply_to(await desk.request(0.0), 1, run=(order,)), 0.0)
        request = await desk.request(0.0)
        assert phase(request) is RankPhase.ACCEPTED
        while phase(request) is not RankPhase.RUNNING:
            await asyncio.wait_for(desk.news.wait(), 20)
            request = await desk.request(0.0)
        await desk.answered(reply_to(request, 2, stop=(stop_order("x", grace=0),)), 0.0)
        while phase(request) is not RankPhase.ENDED:
            await asyncio.wait_for(desk.news.wait(), 20)
            request = await desk.request(0.0)
        assert request.holds == (uid("x"),)
        work.cancel()

    play(state, scene)


async def all_ends(desk: AgentDesk, *names: str) -> dict[str, ExitRecord]:
    """As requests tell them, once all of these have ended."""
    while True:
        request = await desk.request(0.0)
        found: dict[str, ExitRecord] = {r.uid: r.exit for r in request.reports if r.exit is not None}
        if found.keys() >= set(names):
            return found
        await asyncio.wait_for(desk.news.wait(), 20)


def fails_on_gpu(index: int, name: str) -> RunOrder:
    command = ("sh", "-c", "echo CUDA out of memory; exit 3")
    environment = {"PATH": os.environ["PATH"]}
    return run_order(name, gpus=(index,), gpu_uuids=(f"u{index}",), command=command, environment=environment)


def test_order_is_journaled_and_launched_where_no_thread_can_be_started(state: Path) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        work = asyncio.ensure_future(desk.work())
        with no_new_threads():
            order = run_order("x", environment={"PATH": os.environ["PATH"]})
            await desk.answered(reply_to(await desk.request(0.0), 1, run=(order,)), 0.0)
            assert (await all_ends(desk, "x"))["x"].reason is EndReason.EXITED
        work.cancel()

    play(state, scene)


def test_end_of_a_job_that_failed_on_its_gpu_is_told_where_no_thread_can_be_started(state: Path) -> None:
    async def scene(desk: AgentDesk, journal: Journal) -> None:
        desk.set_inventory(inventory("u0"), "h")
        work = asyncio.ensure_future(desk.work())
        await desk.answered(reply_to(await desk.request(0.0), 1, run=(fails_on_gpu(0, "x"),)), 0.0)
        with stuck(1), no_new_threads():
            assert (await all_ends(desk, "x"))["x"].gpu_oom == "CUDA out of memory"
        work.cancel()

    play(state, scene)


def test_ends_are_told_after_all_when_telling_of_them_failed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "RESTART_SECONDS", 0.0)
    read: list[Path] = []

    def fails_once(path: Path) -> str:
        read.append(path)
        if len(read) == 1:
            raise MemoryError
        return gpu_oom_in(path)

    monkeypatch.setattr("agent.desk.gpu_oom_in", fails_once)

    async def scene(desk: AgentDesk, journal: Journal) -> None:
        desk.set_inventory(inventory("u0", "u1"), "h")
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        work = asyncio.ensure_future(daemon._kept_running("work", desk.work, ended))
        orders = (fails_on_gpu(0, "x"), fails_on_gpu(1, "y"))
        await desk.answered(reply_to(await desk.request(0.0), 1, run=orders), 0.0)
        found = await all_ends(desk, "x", "y")
        work.cancel()
        assert len(read) == 3
        assert [found[name].gpu_oom for name in ("x", "y")] == ["CUDA out of memory"] * 2

    play(state, scene)
