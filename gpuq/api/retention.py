"""How long logs are kept, and how much of the disk they and the daemon's own log may take."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from gpuq.api.calls import Site
from gpuq.model import AttemptUid, Now
from gpuq.ownlog import cut_own_log
from gpuq.service.commands import Remark
from gpuq.store.logspace import Kept, survey, to_delete
from gpuq.units import format_duration, format_size, plural

logger = logging.getLogger(__name__)

LOOK_SECONDS = 300.0  # a look takes 5 us a log; a disk fills in minutes only if jobs print GB, which `log_cap` bounds
WARN_AT = 0.8  # of what they may take


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at the disk."""

    kept: list[Kept]
    own_bytes: int  # of the daemon's log

    @property
    def bytes(self) -> int:
        return self.own_bytes + sum(log.size for log in self.kept)


class Retention:
    """Of one controller, whose home has the daemon's log beside `logs`."""

    def __init__(self, home: Path, site: Site) -> None:
        self._home, self._site = home, site
        self._look_at = 0.0  # monotonic
        self._settings: object = None  # that the last look was for
        self._warned = False

    async def look(self, now: Now) -> None:
        """Deletes what is to go, every LOOK_SECONDS, and when the settings have changed. Raises OSError."""
        settings = self._site.controller.view.settings.cluster
        if now.monotonic < self._look_at and settings == self._settings:
            return
        self._look_at, self._settings = now.monotonic + LOOK_SECONDS, settings
        found = await asyncio.to_thread(self._survey)
        limit = None if settings.log_space is None else max(0, settings.log_space - found.own_bytes)
        doomed = to_delete(found.kept, self._lives, now.wall, settings.keep_logs, limit)
        if doomed:
            await asyncio.to_thread(self._delete, doomed)
            await self._say("logs.deleted", _told(doomed, now.wall, settings.keep_logs))
        self._site.log_use.bytes = found.bytes - sum(log.size for log in doomed)
        await self._warn(self._site.log_use.bytes, settings.log_space)

    async def _warn(self, used: int, limit: int | None) -> None:
        """Says once that they come near the limit, and again only after they were clear of it."""
        near = limit is not None and used >= WARN_AT * limit
        if near and not self._warned:
            said = (
                f"logs take {format_size(used)} of the {format_size(limit)} they may (log_space); the oldest go first"
            )
            await self._say("logs.space", said)
        self._warned = near

    async def _say(self, kind: str, text: str) -> None:
        logger.info("%s text=%s", kind, text)
        await self._site.controller.execute(Remark(kind, text), f"remark-{secrets.token_hex(8)}")

    def _survey(self) -> Survey:
        cut_own_log()
        own = sum(path.stat().st_size for path in self._home.glob("daemon.log*"))
        return Survey(list(survey(self._home / "logs")), own)

    def _lives(self, uid: AttemptUid) -> bool:
        return self._site.controller.view.attempt(uid) is not None

    def _delete(self, doomed: list[Kept]) -> None:
        for log in doomed:
            self._site.logs.delete((log.uid, log.rank))


def _told(doomed: list[Kept], wall: float, keep_seconds: int | None) -> str:
    old = sum(keep_seconds is not None and log.changed_at < wall - keep_seconds for log in doomed)
    why = [f"{old} older than {format_duration(keep_seconds)}"] if old else []
    why += [f"{len(doomed) - old} for want of room"] if len(doomed) > old else []
    freed = format_size(sum(log.size for log in doomed))
    return f"{len(doomed)} {plural(len(doomed), 'log')} deleted, {freed}: {', '.join(why)}"
