"""A real executor with real processes in a directory of the test's own, that leaves nothing behind."""

from __future__ import annotations

import asyncio
import resource
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.cgroups import NONE, Cgroups
from agent.executor import Executor
from agent.process_tree import read_proc, start_time
from agent.runs import RunEvent
from gpuq.model import AttemptUid, ExitRecord, RankPhase, StopKind
from gpuq.protocol import RunOrder
from tests.agent.orders import run_order

PATIENCE_SECONDS = 40.0
PATH = "/usr/local/bin:/usr/bin:/bin"


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def order(
    *command: str,
    script: str | None = None,
    cwd: str | None = "/",
    environment: dict[str, str] | None = None,
    time_limit: int | None = None,
    grace: int = 30,
    **spec: Any,
) -> RunOrder:
    """An order of an attempt nobody else has."""
    plain = run_order(uuid.uuid4().hex, environment=environment or {"PATH": PATH})
    job = replace(plain.job, time_limit_seconds=time_limit, grace_seconds=grace)
    return replace(plain, job=job, spec=replace(plain.spec, command=command, script=script, cwd=cwd, **spec))


def shell(text: str, **options: Any) -> RunOrder:
    return order("sh", "-c", text, **options)


def alive(uid: AttemptUid) -> list[int]:
    """Processes started for an attempt."""
    mark = b"GPUQ_ATTEMPT=%s" % uid.encode()
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if mark in read_proc(f"/proc/{pid}/environ").split(b"\0") and start_time(pid)]


def supervisor_of(run_dir: Path) -> int:
    return int(str((run_dir / "supervisor").readlink()).split(":")[1])


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


class Machine:
    """One executor and what it told."""

    def __init__(self, state_dir: Path, cgroups: Cgroups = NONE) -> None:
        self.state_dir = state_dir
        self.events: list[RunEvent] = []
        self.executor = Executor(state_dir, self.events.append, cgroups=cgroups)

    def run_dir(self, order: RunOrder) -> Path:
        return self.state_dir / "runs" / f"{order.uid}.{order.rank}"

    def log(self, order: RunOrder) -> bytes:
        return (self.run_dir(order) / "log").read_bytes()

    def supervisor(self, order: RunOrder) -> int:
        return supervisor_of(self.run_dir(order))

    def disk_is_full_for(self, order: RunOrder, full: bool = True) -> None:
        """What its supervisor writes from now on fails, as on a full disk."""
        size = 0 if full else resource.RLIM_INFINITY
        resource.prlimit(self.supervisor(order), resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def of(self, order: RunOrder) -> list[RunEvent]:
        """What was told of it, but that its supervisor has spoken."""
        spoken = RunEvent(order.uid, order.rank, RankPhase.ACCEPTED)
        return [e for e in self.events if e.uid == order.uid and e != spoken]

    async def running(self, order: RunOrder) -> None:
        await until(lambda: any(e.phase is RankPhase.RUNNING for e in self.of(order)))

    async def logged(self, order: RunOrder, text: bytes) -> None:
        log = self.run_dir(order) / "log"
        await until(lambda: log.exists() and text in log.read_bytes())

    async def end(self, order: RunOrder) -> ExitRecord:
        await until(lambda: any(e.phase is RankPhase.ENDED for e in self.of(order)))
        end = self.of(order)[-1].exit
        assert end is not None
        return end

    async def result(self, order: RunOrder, lease_deadline: float | None = None) -> ExitRecord:
        self.executor.launch(order, lease_deadline)
        return await self.end(order)

    async def stop_all(self) -> None:
        for uid, rank in list(self.executor._runs):
            self.executor.stop(uid, rank, StopKind.CANCEL, 0)
        ended = {(e.uid, e.rank) for e in self.events if e.phase is RankPhase.ENDED}
        await until(
            lambda: (
                set(self.executor._runs) <= ended | {(e.uid, e.rank) for e in self.events if e.phase is RankPhase.ENDED}
            )
        )


@asynccontextmanager
async def machine(state_dir: Path, cgroups: Cgroups = NONE) -> AsyncIterator[Machine]:
    """A started executor; whatever still runs at the end is ended, and seen to be gone."""
    m = Machine(state_dir, cgroups)
    await m.executor.start()
    try:
        yield m
    finally:
        try:
            await m.stop_all()
        finally:
            await m.executor.close()
        runs = [uid for uid, _ in m.executor._runs]
        await until(lambda: not any(alive(uid) for uid in runs))
