"""Logs of jobs as the controller serves them: real files, searched by the controller's own search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuq.client.live import LogMatches, LogPiece
from gpuq.errors import GpuqError
from gpuq.store.logsearch import Wanted, backwards, forwards


@dataclass
class JobLog:
    """The log of one rank of one attempt."""

    path: Path
    ended: bool = True
    attempt: int = 1
    ranks: int = 1

    def write(self, data: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(data)


class Logs:
    """The part of a client that reads logs, by job, attempt and rank; notes the ranges that were asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[tuple[str, int, int], JobLog] = {}
        self.asked: list[tuple[int, int]] = []  # (offset, limit)
        self.trouble: GpuqError | None = None

    def add(self, data: bytes, job: str = "7", attempt: int = 1, rank: int = 0, **fields: Any) -> JobLog:
        log = JobLog(self._folder / f"{job}.{attempt}.{rank}.log", attempt=attempt, **fields)
        self._logs[job, attempt, rank] = log
        log.write(data)
        return log

    async def log_range(self, job: str, offset: int, limit: int, attempt: int | None = None, rank: int = 0) -> LogPiece:
        self.asked.append((offset, limit))
        log = self._log(job, attempt, rank)
        if log is None:
            return LogPiece(0, 0, False, 0, 0, 0, b"")
        size = log.path.stat().st_size
        start = max(0, size + offset) if offset < 0 else offset
        with open(log.path, "rb") as file:
            file.seek(start)
            return LogPiece(start, size, log.ended, log.attempt, rank, log.ranks, file.read(limit))

    async def log_search(
        self,
        job: str,
        text: str,
        after: int | None = None,
        before: int | None = None,
        limit: int = 1000,
        attempt: int | None = None,
        rank: int = 0,
        ignore_case: bool = True,
    ) -> LogMatches:
        log = self._log(job, attempt, rank)
        if log is None:
            return LogMatches([], None, 0, 0)
        size, wanted = log.path.stat().st_size, Wanted(text.encode(), ignore_case, limit)
        with open(log.path, "rb") as file:
            search, place = (forwards, after or 0) if before is None else (backwards, before)
            found = search(file.fileno(), size, wanted, place)
        lines = [(at, line.decode("utf-8", "replace")) for at, line in found.lines]
        return LogMatches(lines, None if found.done else found.reached, size, found.reached)

    def _log(self, job: str, attempt: int | None, rank: int) -> JobLog | None:
        if self.trouble is not None:
            raise self.trouble
        newest = max((number for id, number, _ in self._logs if id == job), default=0)
        return self._logs.get((job, attempt or newest, rank))


def training_log(lines: int) -> bytes:
    return b"".join(b"step=%09d loss=1.8821 lr=2.9e-04 grad=0.41 tok/s=412k\n" % n for n in range(lines))


def with_logs(client: Any, logs: Logs) -> Any:
    """The client, whose logs are these."""
    client.log_range, client.log_search = logs.log_range, logs.log_search
    return client
