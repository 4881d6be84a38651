"""A stage on which one pane of the dashboard plays alone, and what its GPUs and jobs look like there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from textual import events
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from gpuq.errors import GpuqError
from gpuq.units import format_time
from tests.tui import clusters
from tests.tui.clusters import GIB, NOW
from tui.job_row import JobRow
from tui.keymap import find
from tui.pane import Pane, context_of
from tui.store import Store
from tui.theme import themes

HOSTILE = "\x1b[31m[/red] 日本語 \u202e\x07 " + "n" * 200


class Clock:
    """Monotonic seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.seconds = 10_000.0

    def __call__(self) -> float:
        return self.seconds


def gpu(index: int, jobs: tuple[str, ...] = (), **given: Any) -> dict[str, Any]:
    """Idle without jobs, at work with them."""
    idle = {"memory_used_bytes": 0, "temperature_c": 31}
    busy = {"memory_used_bytes": 60 * GIB, "utilization_percent": 90, "temperature_c": 66, "power_w": 610.0}
    return clusters.gpu(index, **{"jobs": list(jobs), **(busy if jobs else idle), **given})


def node(name: str, gpus: list[dict[str, Any]] | None = None, **given: Any) -> dict[str, Any]:
    """Up, with eight idle GPUs."""
    return clusters.node(name) | {"gpus": [gpu(index) for index in range(8)] if gpus is None else gpus} | given


def job(id: str, state: str = "RUNNING", **given: Any) -> JobRow:
    """One GPU, submitted an hour ago; if it runs, for half an hour."""
    waits, ended = state == "QUEUED", state in ("SUCCEEDED", "FAILED", "CANCELED")
    row = clusters.job(0, id=id, name=f"train-{id}", state=state, attempt=0 if waits else 1, submitted_at=3600)
    if waits:
        row = row._replace(reason={"code": "resources", "text": "waits for 1 more GPU"})
    else:
        row = row._replace(started_at=format_time(NOW - 1800), finished_at=format_time(NOW - 60) if ended else None)
    if state == "FAILED":
        row = row._replace(cause={"code": "exit_code", "text": "exit code 1"}, exit_code=1)
    return row._replace(**given)


def event(id: int, kind: str = "job.running", **given: Any) -> dict[str, Any]:
    nobody = {"text": "", "job": None, "attempt": None, "node": None, "user": None}
    return {"id": str(id), "at": format_time(NOW - 1000 + id), "kind": kind, **nobody, **given}


def store_of(
    jobs: list[JobRow] | None = None,
    nodes: list[dict[str, Any]] | None = None,
    events: list[dict[str, Any]] | None = None,
    clock: Clock | None = None,
) -> Store:
    """A store that has loaded this, as alice, an admin, sees it."""
    store = Store(clock or Clock())
    store.load(clusters.snapshot(jobs or [], nodes, events=events))
    return store


class Stage(App[None]):
    """A dashboard around one pane: hands it its keys as the real one does, and writes down what it is asked for."""

    ENABLE_COMMAND_PALETTE = False
    ascii = False
    writable = True

    def __init__(self, pane: Pane, answers: Mapping[str, Any] | None = None, theme: str = "dark") -> None:
        super().__init__()
        for known in themes():
            self.register_theme(known)
        self.theme = theme
        self.pane = pane
        self.store = pane.store
        self.client = clusters.ServedClient(clusters.snapshot([]), answers)
        self.asked: list[tuple[str, ...]] = []
        self.said: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.pane

    def on_mount(self) -> None:
        next(iter(self.pane.query("ModelTable")), self.pane).focus()

    def on_key(self, event: events.Key) -> None:
        action = find(context_of(self.focused), event.key)
        around = [] if self.focused is None else self.focused.ancestors_with_self
        deeds = [getattr(widget, f"do_{action.id}", None) for widget in around] if action is not None else []
        if deed := next(filter(None, deeds), None):
            deed()

    def open_view(self, name: str, filter: str | None = None) -> None:
        self.asked.append(("view", name, filter or ""))

    def open_job(self, id: str) -> None:
        self.asked.append(("job", id))

    def open_node(self, name: str) -> None:
        self.asked.append(("node", name))

    def copy(self, text: str) -> None:
        self.asked.append(("copy", text))

    def say(self, text: str, bad: bool = False) -> None:
        self.said.append(text)

    def work(self, coroutine: Coroutine[Any, Any, object]) -> None:
        async def run() -> None:
            try:
                await coroutine
            except GpuqError as error:
                self.say(error.one_line(), bad=True)

        self.run_worker(run())

    def shows(self, text: str) -> bool:
        return any(text in shown for shown in self.lines())

    def lines(self) -> list[str]:
        """What is on the screen, without the blanks at the right."""
        strips = self.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


Play = Callable[[Pilot[None], "Stage"], Awaitable[None]]


def perform(
    pane: Pane, play: Play, size: tuple[int, int] = (80, 24), answers: Mapping[str, Any] | None = None
) -> Stage:
    """Puts the pane on a stage of this size, plays with it, and gives the stage."""
    stage = Stage(pane, answers)

    async def run() -> None:
        async with stage.run_test(size=size) as pilot:
            await pilot.pause()
            await play(pilot, stage)

    asyncio.run(run())
    return stage


async def until(condition: Callable[[], bool], pilot: Pilot[None]) -> None:
    """Waits for what follows by itself, at most five seconds."""
    for _ in range(250):
        if condition():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not come")
