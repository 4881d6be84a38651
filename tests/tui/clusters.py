"""Clusters of any size for the dashboard's tests, as the controller's documents; and a client that serves them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpuq.errors import GpuqError, NotFound
from gpuq.units import format_time
from tui.job_row import JobRow

NOW = 1_795_000_000.0  # wall seconds at the controller
GIB = 1 << 30


class Piece(NamedTuple):
    offset: int
    size: int
    ended: bool
    attempt: int
    rank: int
    ranks: int
    data: bytes


class Matches(NamedTuple):
    matches: list[tuple[int, str]]
    next: int | None
    size: int
    searched_to: int = 0


def job(number: int, **given: Any) -> JobRow:
    """A job that waits, unless given otherwise; times are given in seconds before NOW."""
    times = {key: None if (ago := given.pop(key, None)) is None else format_time(NOW - ago) for key in _TIMES}
    values: dict[str, Any] = {
        "id": str(number),
        "name": f"job-{number}",
        "user": "alice",
        "queue": "default",
        "state": "QUEUED",
        "priority": 0,
        "gpus": 1,
        **times,
        "submitted_at": times["submitted_at"] or format_time(NOW - 600),
        "nodes": [],
        "reason": None,
        "cause": None,
        "exit_code": None,
        "signal": None,
        "attempt": 0,
        "elements": None,
        "time_limit_seconds": None,
    }
    values.update(given)
    return JobRow(**values)


_TIMES = ("submitted_at", "started_at", "finished_at")


def running(number: int, node: str = "n0001", gpus: tuple[int, ...] = (0,), **given: Any) -> JobRow:
    place = {"node": node, "gpus": list(gpus)}
    given = {"started_at": 3600, "gpus": len(gpus), **given}
    return job(number, state="RUNNING", nodes=[place], attempt=1, **given)


def ended(number: int, state: str = "SUCCEEDED", **given: Any) -> JobRow:
    return job(number, state=state, attempt=1, **{"started_at": 900, "finished_at": 300, "exit_code": 0, **given})


def waiting(number: int, text: str = "waits for 3 more h100", code: str = "resources", **given: Any) -> JobRow:
    return job(number, reason={"code": code, "text": text}, **given)


def node(name: str, gpus: int = 8, **given: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "up",
        "cordoned": False,
        "draining": False,
        "cordon_text": "",
        "simulated": False,
        "gpus": [gpu(index) for index in range(gpus)],
        "gpu_note": "",
        "cpus": 64,
        "cpu_percent": 12.0,
        "memory_total_bytes": 512 * GIB,
        "memory_used_bytes": 100 * GIB,
        "disk_total_bytes": 1000 * GIB,
        "disk_used_bytes": 200 * GIB,
        "agent_version": "0.1.0",
        "last_seen_at": format_time(NOW - 2),
        **given,
    }


def gpu(index: int, **given: Any) -> dict[str, Any]:
    return {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": GIB // 2,
        "utilization_percent": 0,
        "temperature_c": 40,
        "power_w": 70.0,
        "health": "ok",
        "health_text": "",
        "jobs": [],
        **given,
    }


def snapshot(
    jobs: list[JobRow],
    nodes: list[dict[str, Any]] | None = None,
    *,
    role: str = "admin",
    next: str | None = None,
    life: str = "life-1",
    at: int = 100,
    events: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in jobs:
        counts[row.state] = counts.get(row.state, 0) + 1
    return {
        "life": life,
        "at": at,
        "now": format_time(NOW),
        "cluster": {"id": "c1", "version": "0.1.0"},
        "you": {"user": "alice", "role": role},
        "counts": counts,
        "jobs": page(jobs, next),
        "nodes": nodes or [],
        "events": events or [],
    }


def page(jobs: list[JobRow], next: str | None = None) -> dict[str, Any]:
    return {"fields": list(JobRow._fields), "rows": [list(row) for row in jobs], "next": next}


def changes(at: int, jobs: list[JobRow] | None = None, **given: Any) -> dict[str, Any]:
    return {
        "life": "life-1",
        "at": at,
        "now": format_time(NOW),
        "reset": False,
        "more": False,
        "counts": {},
        "jobs": page(jobs or []),
        "gone": [],
        "nodes": [],
        "nodes_gone": [],
        "samples": [],
        "events": [],
        **given,
    }


class ServedClient:
    """Serves one snapshot, then whatever `tell` is given; answers `get` from a table; notes what is posted."""

    def __init__(self, first: dict[str, Any], answers: Mapping[str, Any] | None = None) -> None:
        self.first = first
        self.answers: dict[str, Any] = {"/version": {"version": "0.1.0"}, **(answers or {})}
        self.pages: dict[str, dict[str, Any]] = {}
        self.posted: list[tuple[str, str, Any]] = []
        self.post_answer: Callable[[str, Any], Any] = lambda path, body: {"items": []}
        self.failure: GpuqError | None = None
        self.snapshots = 0
        self.latency_seconds: float | None = 0.0042
        self._news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def tell(self, news: dict[str, Any]) -> None:
        self._news.put_nowait(news)

    async def snapshot(self, limit: int) -> dict[str, Any]:
        self._fail()
        self.snapshots += 1
        return self.first

    async def snapshot_jobs(self, after: str, limit: int) -> dict[str, Any]:
        self._fail()
        return self.pages[after]

    async def changes(self, life: str, after: int, wait: float) -> dict[str, Any]:
        self._fail()
        return await self._news.get()

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        self._fail()
        if path not in self.answers:
            raise NotFound(f"nothing at {path}")
        answer = self.answers[path]
        return answer(params) if callable(answer) else answer

    async def post(
        self,
        path: str,
        body: object,
        request_id: str,
        method: str = "POST",
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        self._fail()
        self.posted.append((method, path, body))
        return self.post_answer(path, body)

    async def log_range(self, job: str, offset: int, limit: int, attempt: int | None = None, rank: int = 0) -> Piece:
        data = self.answers.get(f"log {job}", b"")
        start = max(0, len(data) + offset) if offset < 0 else offset
        return Piece(start, len(data), True, 1, rank, 1, data[start : start + limit])

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
    ) -> Matches:
        return Matches([], None, len(self.answers.get(f"log {job}", b"")))

    async def close(self) -> None:
        return

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def busy(jobs: int = 1000, nodes: int = 50) -> dict[str, Any]:
    """A cluster at work: most GPUs taken, more waiting, some ended, some arrays, one node down."""
    users = ("alice", "bob", "carol", "dave")
    names = ("llama-ft-lr3e4", "llama-eval", "sweep-vit", "tok", "pretrain-7b", "distill")
    machines, rows = [], []
    number = jobs
    for at in range(nodes):
        name = f"n{at + 1:04}"
        if at == 32:
            machines.append(node(name, state="lost", last_seen_at=format_time(NOW - 840)))
            continue
        machine = node(name)
        for start in (0, 4):
            if number > jobs // 10 and (at + start) % 7:
                rows.append(
                    running(
                        number,
                        name,
                        (start, start + 1, start + 2, start + 3),
                        name=names[number % 6],
                        user=users[number % 4],
                        queue=("prod", "batch", "dev")[number % 3],
                        started_at=(number * 37) % 90_000,
                        submitted_at=(number * 37) % 90_000 + 60,
                        time_limit_seconds=86_400 if number % 2 else None,
                    )
                )
                for index in range(start, start + 4):
                    machine["gpus"][index].update(
                        utilization_percent=(number * 13 + index) % 101,
                        memory_used_bytes=(60 + number % 20) * GIB,
                        temperature_c=50 + number % 40,
                        power_w=400.0 + number % 300,
                        jobs=[str(number)],
                    )
                number -= 1
        machines.append(machine)
    while number > 0:
        common: dict[str, Any] = {
            "name": names[number % 6],
            "user": users[number % 4],
            "queue": ("prod", "batch", "dev")[number % 3],
        }
        kind = number % 11
        if kind == 0:
            rows.append(
                ended(number, "FAILED", exit_code=137, cause={"code": "exit_code", "text": "exit code 137"}, **common)
            )
        elif kind == 1:
            rows.append(ended(number, **common))
        elif kind == 2:
            rows.append(waiting(number, "held by alice", "held", **common))
        elif kind == 3 and number % 3 == 0:
            counts = {"RUNNING": 41, "QUEUED": 469, "SUCCEEDED": 2}
            rows.append(
                job(
                    number,
                    state="RUNNING",
                    elements={"size": 512, "counts": counts},
                    started_at=5000,
                    **common,
                )
            )
        else:
            rows.append(waiting(number, submitted_at=number % 50_000 + 30, **{**common, "gpus": 1 << number % 5}))
        number -= 1
    return snapshot(rows, machines)


def hostile() -> dict[str, Any]:
    """Names made to break a screen."""
    names = (
        "[/bold]",
        "[0]",
        "[link=file:///]x[/link]",
        "\x1b[2J\x1b[31mred",
        "a\nb\tc\r",
        "\u202egnp.exe",
        "日本語の長い名前日本語の長い名前日本語",
        "e\u0301" * 30,
        "Z\u0337\u0334\u0321\u031b\u0353" * 20,
        "👩\u200d👩\u200d👧 family",
        "x" * 10_000,
        "",
        " ",
        "$(rm -rf /)",
    )
    rows = [running(100 + at, name=name, user=name[:20] or "u") for at, name in enumerate(names)]
    rows += [waiting(200 + at, name, name=name) for at, name in enumerate(names)]
    return snapshot(rows, [node("n0001"), node("\x1b[31mbad", gpu_note="[/]"), node("日本", 4)])
