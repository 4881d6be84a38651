"""The agent as a real process with real jobs, against a controller in this process that speaks the real messages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.process_tree import read_proc
from gpuq.codec import decode, encode
from gpuq.model import AttemptUid, EndReason, ExitRecord, OnLost, RankPhase, StopKind
from gpuq.protocol import (
    GpuPardon,
    LogAck,
    LogReply,
    LogShipment,
    RankReport,
    RunOrder,
    StopOrder,
    SyncReply,
    SyncRequest,
)
from tests.agent.agent_process import LIMIT
from tests.agent.orders import reply_to, run_order, stop_order

ROOT = Path(__file__).resolve().parents[2]
# Every job of these tests has it in its environment (no name of gpuq's, which would not be passed on): what is left at
# the end is found and ended by it.
MARK = f"TEST_MARK=daemon-{os.getpid()}"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", **dict([MARK.split("=", 1)])}


class Controller:
    """Orders what is in `run` until reported, stops what is in `stop` until ended, forgets ends, keeps logs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.generation = 1
        self.run: list[RunOrder] = []
        self.stop: dict[AttemptUid, StopOrder] = {}
        self.last: dict[AttemptUid, RankReport] = {}
        self.ends: dict[str, ExitRecord] = {}
        self.logs: dict[str, bytes] = {}
        self.pardon: tuple[GpuPardon, ...] = ()
        self.requests: list[SyncRequest] = []
        self.taken = (0, 0)
        self._poll: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=LIMIT)

    async def close(self) -> None:
        assert self._server
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        Path(self.path).unlink(missing_ok=True)

    def changed(self) -> None:
        self.generation += 1
        if self._poll is not None:
            self._poll.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(self._answer(reader, writer))
        self._serving.add(serving)
        try:
            await asyncio.wait({serving})
        finally:
            self._serving.discard(serving)
            writer.transport.abort()  # at once, answered or not

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):
            question = json.loads(await reader.readline())
            answer: Any
            if "sync" in question:
                answer = encode(await self._sync(decode(SyncRequest, question["sync"])))
            else:
                answer = encode(self._keep(decode(LogShipment, question["logs"]), question["body"].encode("latin-1")))
            writer.write(json.dumps(answer).encode() + b"\n")
            writer.write_eof()
            await reader.read()  # until the agent has it and hangs up

    async def _sync(self, request: SyncRequest) -> SyncReply:
        if (request.incarnation, request.sequence) <= self.taken:
            return SyncReply(1, self.generation, request.incarnation, request.sequence, superseded=True)
        self.taken = (request.incarnation, request.sequence)
        self.requests.append(request)
        for report in request.reports:
            self.last[report.uid] = report
            if report.exit is not None and report.uid not in self.ends:
                self.ends[report.uid] = report.exit
                self.generation += 1
        if self._poll is not None:
            self._poll.set()
        self._poll = mine = asyncio.Event()
        reply = self._reply(request)
        if not (reply.run or reply.stop or reply.forget):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(mine.wait(), request.wait_seconds)
            if self._poll is not mine:
                return SyncReply(1, self.generation, request.incarnation, request.sequence, superseded=True)
            reply = self._reply(request)
        return reply

    def _reply(self, request: SyncRequest) -> SyncReply:
        return reply_to(
            request,
            self.generation,
            run=tuple(o for o in self.run if o.uid not in self.last and o.uid not in self.stop),
            stop=tuple(s for u, s in self.stop.items() if u not in self.ends),
            forget=tuple(u for u in request.holds if u in self.ends),
            extend=tuple(u for u in request.holds if u not in self.ends),
            lease_seconds=40.0,
            pardon=self.pardon,
        )

    def _keep(self, shipment: LogShipment, body: bytes) -> LogReply:
        acks, start = [], 0
        for chunk in shipment.chunks:
            have, data = self.logs.get(chunk.uid, b""), body[start : start + chunk.length]
            start += chunk.length
            if chunk.offset <= len(have) < chunk.offset + len(data):
                have = have[: chunk.offset] + data
            self.logs[chunk.uid] = have
            acks.append(LogAck(chunk.uid, chunk.rank, len(have)))
        return LogReply(tuple(acks))


class Stage:
    """An agent's state directory, its controller, and the agents started on it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "agent"
        self.controller = Controller(str(folder / "controller.sock"))
        self.agents: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.agent.agent_process", str(self.state), self.controller.path]
        agent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.agents.append(agent)
        return agent

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, f"did not come true; last reports: {self.controller.last}"
            await asyncio.sleep(0.01)

    def order(self, uid: str, *command: str, **more: Any) -> None:
        self.controller.run.append(run_order(uid, command=command, environment=ENVIRONMENT, **more))
        self.controller.changed()

    def phase(self, uid: str) -> RankPhase | None:
        report = self.controller.last.get(AttemptUid(uid))
        return report.phase if report else None

    def own_file(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.state / "agent.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    async def end(self, agent: subprocess.Popen[str], number: int) -> str:
        """What it said on standard error."""
        agent.send_signal(number)
        _, said = await asyncio.to_thread(agent.communicate, timeout=20)
        return said


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="gpuq-") as folder:  # short: a socket's path ends at 108 bytes
        stage = Stage(Path(folder))
        yield stage
        for agent in stage.agents:
            if agent.poll() is None:
                agent.kill()
            with suppress(ValueError):
                agent.communicate()
        end_jobs()
        end_launchers(stage.state)


def end_jobs() -> None:
    deadline = time.monotonic() + 20
    while found := [pid for pid in processes() if MARK.encode() in read_proc(f"/proc/{pid}/environ").split(b"\0")]:
        assert time.monotonic() < deadline
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_launchers(state: Path) -> None:
    """A launcher ends by itself when its agent is gone; supervisors, when their job is."""
    deadline = time.monotonic() + 20
    while any(str(state).encode() in read_proc(f"/proc/{pid}/cmdline") for pid in processes()):
        assert time.monotonic() < deadline, "a launcher or supervisor is left"


def processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]


def play(stage: Stage, scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await stage.controller.open()
        try:
            await scene()
        finally:
            await stage.controller.close()

    asyncio.run(main())


def test_job_runs_and_its_end_and_whole_log_arrive(stage: Stage) -> None:
    async def scene() -> None:
        stage.start()
        stage.order("aa01", "sh", "-c", "echo hello; echo oops >&2; exit 3")
        await stage.until(lambda: "aa01" in stage.controller.ends)
        end = stage.controller.ends["aa01"]
        assert (end.reason, end.exit_code, end.log_size) == (EndReason.EXITED, 3, 11)
        await stage.until(lambda: stage.controller.logs.get("aa01") == b"hello\noops\n")
        await stage.until(lambda: not list((stage.state / "runs").iterdir()))
        await stage.until(lambda: stage.controller.requests[-1].holds == ())

    play(stage, scene)


def test_inventory_sample_and_own_file_tell_who_runs_here(stage: Stage) -> None:
    async def scene() -> None:
        agent = stage.start()
        await stage.until(lambda: any(r.inventory for r in stage.controller.requests))
        await stage.until(lambda: any(r.sample for r in stage.controller.requests))
        inventory = next(r.inventory for r in stage.controller.requests if r.inventory)
        assert ([g.name for g in inventory.gpus], inventory.simulated) == (["H100-80GB"] * 2, True)
        await stage.until(lambda: stage.own_file().get("connected"))
        own = stage.own_file()
        assert (own["name"], own["pid"]) == ("a1", agent.pid)
        await stage.controller.close()
        await stage.until(lambda: stage.own_file()["connected"] is False)
        await stage.controller.open()
        await stage.until(lambda: stage.own_file()["connected"])

    play(stage, scene)


def test_stop_ends_a_running_job_and_bars_one_that_never_came(stage: Stage) -> None:
    async def scene() -> None:
        stage.start()
        stage.order("aa02", "sleep", "600")
        await stage.until(lambda: stage.phase("aa02") is RankPhase.RUNNING)
        stage.controller.stop = {AttemptUid(u): stop_order(u, grace=5) for u in ("aa02", "aa03")}
        stage.controller.changed()
        await stage.until(lambda: {"aa02", "aa03"} <= stage.controller.ends.keys())
        assert stage.controller.ends["aa02"].stopped is StopKind.CANCEL
        assert stage.controller.ends["aa02"].signal == signal.SIGTERM
        assert stage.controller.ends["aa03"].reason is EndReason.NEVER_STARTED

    play(stage, scene)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_job_goes_on_without_its_agent_and_is_taken_up_by_the_next(stage: Stage, number: int) -> None:
    go = stage.state.parent / "go"

    async def scene() -> None:
        first = stage.start()
        wait = f"echo before; while ! [ -e {go} ]; do sleep 0.05; done; echo after; exit 7"
        stage.order("aa04", "sh", "-c", wait)
        stage.order("aa05", "sh", "-c", wait, on_lost=OnLost.FENCE)
        await stage.until(lambda: stage.phase("aa04") is stage.phase("aa05") is RankPhase.RUNNING)
        await stage.end(first, number)
        assert first.returncode == (0 if number == signal.SIGTERM else -number)
        assert (stage.state / "agent.json").exists() is (number == signal.SIGKILL)
        second = stage.start()
        await stage.until(lambda: stage.controller.requests[-1].incarnation > stage.controller.requests[0].incarnation)
        go.touch()
        await stage.until(lambda: {"aa04", "aa05"} <= stage.controller.ends.keys())
        assert [stage.controller.ends[u].exit_code for u in ("aa04", "aa05")] == [7, 7]
        await stage.until(lambda: not list((stage.state / "runs").iterdir()))
        assert stage.controller.logs == {"aa04": b"before\nafter\n", "aa05": b"before\nafter\n"}
        assert "Traceback" not in await stage.end(second, signal.SIGTERM)

    play(stage, scene)


def test_job_that_ends_while_agent_and_controller_are_away_is_still_reported(stage: Stage) -> None:
    go = stage.state.parent / "go"

    async def scene() -> None:
        first = stage.start()
        stage.order("aa06", "sh", "-c", f"while ! [ -e {go} ]; do sleep 0.05; done; echo late; exit 9")
        await stage.until(lambda: stage.phase("aa06") is RankPhase.RUNNING)
        await stage.end(first, signal.SIGKILL)
        await stage.controller.close()
        go.touch()
        await stage.until((stage.state / "runs" / "aa06.0" / "exit.json").exists)
        stage.start()
        await stage.until(lambda: stage.own_file().get("connected") is False)
        await stage.controller.open()
        await stage.until(lambda: "aa06" in stage.controller.ends)
        assert stage.controller.ends["aa06"].exit_code == 9
        await stage.until(lambda: stage.controller.logs.get("aa06") == b"late\n")

    play(stage, scene)


def test_agent_killed_between_orders_and_reports_runs_nothing_twice_and_loses_nothing(stage: Stage) -> None:
    ran = stage.state.parent / "ran"
    names = [f"bb{i:02}" for i in range(30)]

    async def scene() -> None:
        for name in names:
            stage.order(name, "sh", "-c", f"echo {name} >> {ran}; echo {name}")
        while len(stage.controller.ends) < len(names):
            agent = stage.start()
            ends = len(stage.controller.ends)
            await stage.until(lambda: len(stage.controller.ends) > ends)  # noqa: B023
            await stage.end(agent, signal.SIGKILL)
        started = ran.read_text().split() if ran.exists() else []
        assert len(started) == len(set(started))
        for name in names:
            end = stage.controller.ends[name]
            if end.reason is EndReason.NEVER_STARTED:
                assert name not in started
            else:
                assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)
                assert name in started
        stage.start()
        await stage.until(lambda: stage.controller.logs == {n: f"{n}\n".encode() for n in started})

    play(stage, scene)


def test_second_agent_on_the_same_state_is_refused_by_name(stage: Stage) -> None:
    async def scene() -> None:
        first = stage.start()
        await stage.until(lambda: stage.own_file().get("connected"))
        second = stage.start()
        _, said = await asyncio.to_thread(second.communicate, timeout=20)
        assert second.returncode == 1
        assert f"the agent 'a1' (pid {first.pid}) already uses" in said
        assert len(said.splitlines()) == 1

    play(stage, scene)


def test_neither_log_nor_process_list_shows_a_jobs_environment(stage: Stage) -> None:
    async def scene() -> None:
        agent = stage.start()
        secret = {**ENVIRONMENT, "API_KEY": "hunter2"}
        stage.controller.run.append(run_order("aa07", command=("true",), environment=secret))
        stage.controller.run.append(run_order("aa08", command=("/no/such/program",), environment=secret))
        stage.controller.changed()
        await stage.until(lambda: {"aa07", "aa08"} <= stage.controller.ends.keys())
        assert "hunter2" not in await stage.end(agent, signal.SIGTERM)
        assert "hunter2" not in str(stage.controller.ends)

    play(stage, scene)
