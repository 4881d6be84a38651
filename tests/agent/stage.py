"""An agent of its own as a real process, and a controller in this process that speaks the real messages to it."""

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from agent.process_tree import read_proc
from gpuq.codec import decode, encode
from gpuq.model import AttemptUid, ExitRecord, RankPhase
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
from tests.agent.orders import reply_to, run_order

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


S = TypeVar("S", bound=Stage)


@contextmanager
def staged(make: Callable[[Path], S]) -> Iterator[S]:
    """A stage in a folder of its own; whatever was started on it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gpuq-") as folder:  # short: a socket's path ends at 108 bytes
        stage = make(Path(folder))
        yield stage
        for agent in stage.agents:
            if agent.poll() is None:
                agent.kill()
            with suppress(ValueError):
                agent.communicate()
        _end_jobs()
        _end_launchers(stage.state)


def _end_jobs() -> None:
    deadline = time.monotonic() + 20
    while found := [pid for pid in _processes() if MARK.encode() in read_proc(f"/proc/{pid}/environ").split(b"\0")]:
        assert time.monotonic() < deadline
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _end_launchers(state: Path) -> None:
    """A launcher ends by itself when its agent is gone; supervisors, when their job is."""
    deadline = time.monotonic() + 20
    while any(str(state).encode() in read_proc(f"/proc/{pid}/cmdline") for pid in _processes()):
        assert time.monotonic() < deadline, "a launcher or supervisor is left"


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]


def play(stage: Stage, scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await stage.controller.open()
        try:
            await scene()
        finally:
            await stage.controller.close()

    asyncio.run(main())
