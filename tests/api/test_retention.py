"""Logs that are too old or too many are deleted by a controller that runs, which says so; nothing that lives is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gpuq.api import serve as serving
from gpuq.api.certificates import ensure_certificates
from gpuq.api.retention import LOOK_SECONDS, Retention
from gpuq.model import AttemptUid, EndReason, ExitRecord, Now
from gpuq.service.commands import Actor, ChangeSettings
from gpuq.service.live import LiveController
from gpuq.settings import ClusterSettings, Settings
from gpuq.store import events
from tests.api.server import Agent, start, until

MIB = 1 << 20
ENDED = AttemptUid("0123456789abcdef0123")
NEWER = AttemptUid("fedcba9876543210fedc")


class Kept:
    """A controller's logs, without its server."""

    def __init__(self, home: Path, live: LiveController) -> None:
        files = ensure_certificates(home, time.time())
        self.site = serving._site(home, "https://x:1", live, files)
        self.retention = Retention(home, self.site)
        self.home, self.passed, self._changes = home, 0.0, 0

    async def set(self, keep_logs: int | None = None, log_space: int | None = None) -> None:
        settings = Settings(0, ClusterSettings(keep_logs=keep_logs, log_space=log_space))
        self._changes += 1
        await self.site.controller.execute(ChangeSettings(Actor("root", "admin"), settings), f"set-{self._changes}")

    async def look(self, seconds: float = 0.0) -> list[str]:
        """What it says."""
        self.passed += seconds
        await self.retention.look(Now(self.passed, time.time() + self.passed))
        await self.site.controller.settled()
        said = events.after(self.site.controller.store.reader, 0, events.Filter(), 100)
        return [event.event.text for event in said if event.event.kind.startswith("logs.")]

    def log(self, uid: AttemptUid, mib: int, days_old: float = 0.0) -> None:
        self.site.logs.append((uid, 0), [(0, b"x" * mib * MIB)])
        (path,) = self.home.rglob(f"{uid}.0.log")
        os.utime(path, (time.time() - days_old * 86_400,) * 2)

    def left(self) -> list[AttemptUid]:
        return [uid for uid in (ENDED, NEWER) if self.site.logs.size((uid, 0))]


@asynccontextmanager
async def kept(home: Path) -> AsyncIterator[Kept]:
    home.mkdir(mode=0o700, exist_ok=True)
    live = await LiveController.open(home / "gpuq.db")
    try:
        yield Kept(home, live)
    finally:
        await live.close()


def test_logs_older_than_they_are_kept_are_deleted_at_the_next_look(tmp_path: Path) -> None:
    async def scene() -> None:
        async with kept(tmp_path / "home") as it:
            it.log(ENDED, 1, days_old=3)
            it.log(NEWER, 1, days_old=1)
            assert await it.look() == []
            await it.set(keep_logs=2 * 86_400)
            assert await it.look() == ["1 log deleted, 1M: 1 older than 2-00:00:00"]
            assert it.left() == [NEWER]
            assert len(await it.look(LOOK_SECONDS - 1)) == 1
            assert len(await it.look(86_400)) == 2
            assert it.left() == []

    asyncio.run(scene())


def test_room_is_made_by_the_oldest_and_warned_of_once_before(tmp_path: Path) -> None:
    async def scene() -> None:
        async with kept(tmp_path / "home") as it:
            await it.set(log_space=20 * MIB)
            it.log(ENDED, 9)
            assert await it.look() == []
            (it.home / "daemon.log").write_bytes(b"x" * 8 * MIB)  # counts too
            warning = "logs take 17M of the 20M they may (log_space); the oldest go first"
            assert await it.look(LOOK_SECONDS) == [warning]
            assert await it.look(LOOK_SECONDS) == [warning]
            assert it.site.log_use.bytes == 17 * MIB
            it.log(NEWER, 5)
            said = await it.look(LOOK_SECONDS)
            assert sorted(said) == ["1 log deleted, 9M: 1 for want of room", warning]
            assert it.left() == [NEWER]

    asyncio.run(scene())


def test_what_belongs_to_a_live_attempt_stays_and_a_deleted_log_says_that_it_was(tmp_path: Path) -> None:
    running = start(tmp_path / "home")
    try:
        agent = Agent(running, "n1")
        agent.sync()
        ids = [running.submit("ann", only_nodes=["n1"]) for _ in range(2)]
        done, lives = (agent.run(id) for id in ids)
        for uid in (done, lives):
            agent.shipped((uid, 0, 0, b"text\n"))
        agent.end(done, ExitRecord(EndReason.EXITED, time.time(), exit_code=0, log_size=5))
        assert until(lambda: running.get(f"/jobs/{ids[0]}")["state"] == "SUCCEEDED")
    finally:
        running.stop()

    async def look() -> None:
        async with kept(tmp_path / "home") as it:
            await it.set(keep_logs=86_400)
            it.passed = 3 * 86_400.0
            assert len(await it.look()) == 1
            assert [it.site.logs.size((AttemptUid(uid), 0)) for uid in (done, lives)] == [0, 5]

    asyncio.run(look())
    again = start(tmp_path / "home", running.tokens)
    try:
        gone = again.ask("GET", f"/jobs/{ids[0]}/log", "ann")
        assert (gone.body, gone.headers["gpuq-log-deleted"], gone.headers["gpuq-log-end"]) == (b"", "1", "0")
        assert "gpuq-log-deleted" not in again.ask("GET", f"/jobs/{ids[1]}/log", "ann").headers
    finally:
        again.stop()
