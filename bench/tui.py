"""The dashboard on a pseudo-terminal: 100,000 jobs on 1,000 nodes of 8 GPUs, from key to last byte.

The controller is the built file's own. The nodes are played: each is enrolled and reports once in a while through the
API, as an agent would, since 1,000 agents do not fit on one machine.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.cluster import GPUQ, Cluster, cluster, cpu_seconds, status_kib
from bench.figures import Figure
from bench.pty import Response, Terminal
from bench.submit import fill, job
from gpuq.codec import encode
from gpuq.model import AttemptUid, NodeName, RankPhase
from gpuq.node import Gpu, GpuSample, Inventory, NodeSample
from gpuq.protocol import PROTOCOL, RankReport, SyncRequest

JOBS = 100_000
NODES = 1_000
GPUS = 8
CLOCK_SECONDS = 20.0  # how long the steady state is watched
CHANGED = 1_000
BURSTS = 4  # held, released, held, released: one is too short for the kernel's clock of 10 ms
SLOW_LINK = 20_000  # bytes a second
REPORT_SECONDS = 5.0  # as real agents do
_PLAYERS = 4  # threads that speak for the nodes
_SIZE = (80, 24)
_ROWS = 12  # moves that stay within a page of that size
_PAGE_DOWN = "\x1b[6~"
_ESCAPE = "\x1b"
_VIEWS = (("3", "TEMP"), ("2", "WHY"), ("4", "n0001"), ("2", "WHY"), ("6", "WHAT"), ("2", "WHY"))
_SORTS = (("g", "GPU^"), ("n", "NAME^"), ("t", "TIME^"), ("i", "ID^"), ("s", "S^"))


def measure() -> list[Figure]:
    with cluster(1) as c:
        real = c.client.post("/jobs", job(command=["sleep", "3600"]))["id"]  # has the one GPU that would run something
        fill(c, JOBS, _any_job)
        try:
            with _played_nodes(c):
                return figures(c)
        finally:
            c.client.post("/jobs/cancel", {"ids": [real]})  # or it would outlive the daemons
            c.wait_until(lambda: c.client.get(f"/jobs/{real}")["state"] == "CANCELED", "the end of one job")
            c.kill()


def figures(c: Cluster) -> list[Figure]:
    """All figures, from dashboards on a cluster that has its jobs and nodes."""
    command = [*GPUQ, "tui", "--view", "jobs"]
    environ = {**c.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
    starts = [_start(command, environ) for _ in range(6)][1:]  # the first fills caches
    with _loaded(command, environ, *_SIZE) as terminal:
        rows = [terminal.press("j", f" {at + 1:,}/") for at in range(1, _ROWS + 1)]
        terminal.press("\x04")  # half a page down, so that each further move scrolls
        terminal.press("\x04")
        scrolled = [terminal.press("j") for _ in range(_ROWS)]
        pages = [terminal.press(_PAGE_DOWN) for _ in range(20)]
        terminal.press("g")
        letters = _filtered(terminal)
        sorts = [_sorted(terminal, *sort) for sort in _SORTS]
        views = [terminal.press(*view) for view in _VIEWS * 2][len(_VIEWS) :]  # made when they are first wanted
        burst = _burst(c, terminal)
        cpu, rate = _steady(terminal)
        memory = status_kib(terminal.process.pid) / 1024
    with _loaded(command, environ, 160, 45) as terminal:
        after = terminal.hold(_PAGE_DOWN, 30, 4.0, SLOW_LINK)
    return [
        Figure("gpuq tui, start to first full frame, median", statistics.median(starts), "ms", 700),
        Figure("row move within the page", _median(rows), "ms", 16),
        Figure("row move within the page", statistics.median(r.size for r in rows), "bytes", 600),
        Figure("row move that scrolls the page", _median(scrolled), "ms", 16),
        Figure("row move that scrolls the page", statistics.median(r.size for r in scrolled), "bytes"),
        Figure("page move", _median(pages), "ms", 33),
        Figure("filter keystroke in 100,000 jobs, median", _median(letters), "ms", 50),
        Figure("filter keystroke in 100,000 jobs, slowest", max(r.ms for r in letters), "ms"),
        Figure("sort of 100,000 jobs, median of the columns", _median(sorts), "ms", 100),
        Figure("sort of 100,000 jobs, slowest column", max(r.ms for r in sorts), "ms"),
        Figure("switch of view", _median(views), "ms", 80),
        Figure(f"{CHANGED:,} job changes, processor time of the dashboard", burst, "ms", 30),
        Figure("steady state at 80x24, 200 node reports a second", cpu, "%", 3),
        Figure("steady state at 80x24, written", rate / 1e3, "KB/s", 2),
        Figure("20 KB/s link, a key held 4 s: settled after", after, "s", 1.5),
        Figure("memory of the dashboard", memory, "MB", 150),
    ]


def _any_job() -> dict[str, object]:
    """One of many: names and sizes differ, or there would be nothing to sort."""
    return job(name=f"run-{random.randrange(1_000_000):06}", gpus=random.choice((1, 1, 1, 2, 4, 8)))


def _median(responses: list[Response]) -> float:
    return statistics.median(response.ms for response in responses)


def _start(command: list[str], environ: dict[str, str]) -> float:
    """ms from the start of the process until the first jobs are on the screen, and nothing more comes."""
    terminal = Terminal(command, environ, *_SIZE)
    try:
        return terminal.answer(terminal.started, " 1/", 60).ms
    finally:
        terminal.close()


@contextmanager
def _loaded(command: list[str], environ: dict[str, str], columns: int, rows: int) -> Iterator[Terminal]:
    """A dashboard that has all jobs."""
    terminal = Terminal(command, environ, columns, rows)
    try:
        terminal.answer(terminal.started, f"/{JOBS + 1:,} ", 120)
        terminal.settle()
        yield terminal
    finally:
        terminal.close()


def _filtered(terminal: Terminal) -> list[Response]:
    """Digits of ids, which 100,000, 41,000, 5,000 and 400 jobs and some nodes have."""
    responses = []
    terminal.press("/")
    for typed in ("9", "90", "904"):
        responses.append(terminal.press(typed[-1], f"/{typed}"))
    terminal.press(_ESCAPE)
    terminal.settle(1.5)
    return responses


def _sorted(terminal: Terminal, letter: str, title: str) -> Response:
    terminal.press("o")
    return terminal.press(letter, title)


def _burst(c: Cluster, terminal: Terminal) -> float:
    """Processor time it takes the dashboard to take in so many changed jobs, in ms."""
    ids = [str(id) for id in range(JOBS - CHANGED + 1, JOBS + 1)]
    idle = _spent(terminal, BURSTS * 2.0)
    spent = 0.0
    for burst in range(BURSTS):
        c.client.post(f"/jobs/{'release' if burst % 2 else 'hold'}", {"ids": ids})
        spent += _spent(terminal, 2.0)
    return (spent - idle) / BURSTS * 1e3


def _spent(terminal: Terminal, seconds: float) -> float:
    """Processor time that the program takes while its output is read for so long, in seconds."""
    before = cpu_seconds(terminal.process.pid)
    terminal.drain(seconds)
    return cpu_seconds(terminal.process.pid) - before


def _steady(terminal: Terminal) -> tuple[float, float]:
    """Share of a core in percent, and bytes a second."""
    terminal.press("g")
    terminal.drain(2.0)
    before = cpu_seconds(terminal.process.pid)
    size = terminal.drain(CLOCK_SECONDS)
    return (cpu_seconds(terminal.process.pid) - before) / CLOCK_SECONDS * 100, size / CLOCK_SECONDS


class _Node:
    """A node without a machine: it starts what it is told to, and nothing ever ends."""

    def __init__(self, c: Cluster, name: str) -> None:
        self._name = NodeName(name)
        self._client = c.connect(c.client.post("/nodes", {"name": name})["token"])
        self._sequence = 0
        self._reports: dict[AttemptUid, RankReport] = {}
        cards = tuple(Gpu(i, f"GPU-{name}-{i}", "NVIDIA H100 80GB HBM3", 80 << 30) for i in range(GPUS))
        self._inventory = Inventory(name, cards, 96, 1 << 40, True, "bench")

    def report(self) -> None:
        self._sequence += 1
        readings = (GpuSample(i, random.randrange(80 << 30), random.randrange(100), 60, 400.0) for i in range(GPUS))
        request = SyncRequest(
            PROTOCOL,
            self._name,
            "boot-1",
            1,
            self._sequence,
            holds=tuple(self._reports),
            reports=tuple(self._reports.values()),
            inventory=self._inventory if self._sequence == 1 else None,
            inventory_hash="h",
            sample=NodeSample(tuple(readings), cpu_percent=50.0),
        )
        for order in self._client.post("/agent/sync", encode(request)).get("run", ()):
            uid = AttemptUid(order["uid"])
            self._reports[uid] = RankReport(uid, order["rank"], RankPhase.RUNNING, started_at=time.time())

    def close(self) -> None:
        self._client.close()


@contextmanager
def _played_nodes(c: Cluster) -> Iterator[None]:
    """NODES nodes that have taken all the jobs they can, and report every REPORT_SECONDS."""
    nodes = [_Node(c, f"n{number:04}") for number in range(1, NODES + 1)]
    over = threading.Event()

    def play(part: list[_Node]) -> None:
        while not over.is_set():
            began = time.monotonic()
            for node in part:
                node.report()
                over.wait(max(0.0, REPORT_SECONDS / len(part) - 0.004))
            over.wait(max(0.0, REPORT_SECONDS - (time.monotonic() - began)))

    for node in nodes:
        node.report()
    for node in nodes:  # what they were given meanwhile is taken now, and runs
        node.report()
    players = [threading.Thread(target=play, args=(nodes[at::_PLAYERS],)) for at in range(_PLAYERS)]
    for player in players:
        player.start()
    try:
        yield
    finally:
        over.set()
        for player in players:
            player.join()
        for node in nodes:
            node.close()
