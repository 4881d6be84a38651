"""The main states of the dashboard at three sizes, as the text on the screen, beside those in snapshots/.

Text and not pictures: an SVG changes with every release of Textual, and nobody can read in a diff what has changed in
it. To renew them, and then read the diff:

    RENEW_SNAPSHOTS=1 python3 build.py test tests/tui/test_snapshots.py
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.tui.clusters import GIB, ServedClient, busy, ended, running, snapshot, waiting
from tests.tui.desk import Desk, desk, played
from tests.tui.stage import Clock, event, gpu, node
from tests.tui.test_job_detail import attempt, fetched
from tui.dialogs import ConfirmDialog
from tui.job_row import JobRow
from tui.store import Link

FOLDER = Path(__file__).with_name("snapshots")
RENEW = "RENEW_SNAPSHOTS" in os.environ
SIZES = [(40, 10), (80, 24), (160, 45)]
STILL_LOOKS = 50  # a screen that has not moved for so many is as it stays; on a busy machine a second is nothing

LOG = b"".join(b"epoch %d  loss %.4f\n" % (n, 4 / (n + 1)) for n in range(200)) + b"\x1b[32msaved\x1b[0m a\tb \xff\n"
LOG += b"".join(b"\r%3d%%|%s" % (part, b"#" * (part // 5)) for part in range(0, 101, 5)) + b"\n"
NOTED = [
    event(1, "node.up", node="n1"),
    event(2, "job.submitted", job="7", user="alice", text="llama"),
    event(3, "job.running", job="7", attempt=1, node="n1"),
    event(4, "gpu.quarantined", node="n2", text="GPU 1: Xid 79, it has fallen off the bus"),
    event(5, "node.lost", node="n4"),
    event(6, "job.failed", job="5", attempt=2, node="n1", text="exit code 137"),
]


def broken() -> dict[str, Any]:
    """A small cluster on a bad day: every standing a GPU can have, jobs in trouble."""
    figures = ("utilization_percent", "memory_used_bytes", "temperature_c", "power_w")
    unreadable: dict[str, Any] = dict.fromkeys(figures)
    sick = [
        gpu(0),
        gpu(1, health="quarantined", health_text="Xid 79"),
        gpu(2, memory_used_bytes=60 * GIB),
        gpu(3, temperature_c=91),
    ]
    blind = [gpu(n, health="unknown", **unreadable) for n in range(4)]
    rows = [
        running(7, "n1", (0, 1, 2, 3), name="llama", started_at=7440, time_limit_seconds=14_400),
        waiting(8, "waits for 3 more h100 GPUs", name="pretrain", gpus=16, user="bob"),
        waiting(9, "needs 16 GPUs on one node, the largest has 8", "never_fits", name="too-big", gpus=16),
        waiting(10, "held by alice", "held", name="later"),
        ended(5, "FAILED", name="sweep", exit_code=137, cause={"code": "exit_code", "text": "exit code 137"}),
        ended(4, name="tok"),
        running(6, "n4", (0, 1), name="eval", user="bob")._replace(state="LOST"),
    ]
    nodes = [
        node("n1", [gpu(n, ("7",)) for n in range(4)] + [gpu(n) for n in range(4, 8)]),
        node("n2", sick, cordoned=True, cordon_text="xid errors"),
        node("n3", blind, gpu_note="the driver does not answer"),
        node("n4", [gpu(0, ("6",)), gpu(1, ("6",))], state="lost"),
        node("n5", [gpu(0), gpu(1)], state="suspect"),
        node("n6", simulated=True, draining=True),
    ]
    return snapshot(rows, nodes, events=NOTED)


def answers(document: dict[str, Any]) -> Mapping[str, Any]:
    """What is fetched about single jobs."""
    rows = [JobRow(*row) for row in document["jobs"]["rows"]]
    why = [
        {"node": "n1", "fits": False, "text": "4 of 8 GPUs free"},
        {"node": "n2", "fits": False, "text": "cordoned: xid errors"},
    ]
    return {
        **{
            f"/jobs/{row.id}": fetched(row, attempts=[attempt(1)] * row.attempt, log_bytes=len(LOG)).job for row in rows
        },
        **{f"/jobs/{row.id}/why": {"reason": row.reason, "nodes": why} for row in rows},
        "/events": {"items": NOTED[1:3], "next": None},
        "log 7": LOG,
    }


class Look(NamedTuple):
    """A state: what the cluster is like, and how one gets there."""

    document: dict[str, Any]
    arrive: Callable[[Desk], Awaitable[object]]
    ascii: bool = False


def view(name: str) -> Callable[[Desk], Awaitable[object]]:
    async def arrive(found: Desk) -> None:
        found.app.open_view(name)
        await found.until(lambda: found.app._body.pane(name).is_mounted)

    return arrive


async def job(found: Desk) -> None:
    found.app.open_job("8")
    await found.shows("4 of 8 GPUs free")


async def log(found: Desk) -> None:
    found.app.open_log("7")
    await found.shows("100%|")


async def form(found: Desk) -> None:
    found.app.open_submit("-G 2 -t 4h -D /home/alice python train.py --lr 3e-4")
    await found.shows("starts now")


async def dialog(found: Desk) -> None:
    await found.shows("7  llama" if found.app.size.width > 100 else "llama")  # in the detail beside, where there is one
    await found.keys("asterisk", "x")
    await found.until(lambda: isinstance(found.app.screen, ConfirmDialog))
    await found.shows("n  No")


async def offline(found: Desk) -> None:
    now = found.app.store.clock()
    found.app.store.link = Link("offline", None, now - 42, now + 7, False, "no route to the controller")
    found.app._tick()


LOOKS = {
    "overview-busy": Look(busy(60, 12), view("overview")),
    "overview-broken": Look(broken(), view("overview")),
    "overview-ascii": Look(broken(), view("overview"), ascii=True),
    "jobs": Look(broken(), view("jobs")),
    "jobs-busy": Look(busy(60, 12), view("jobs")),
    "nodes": Look(broken(), view("nodes")),
    "gpus": Look(broken(), view("gpus")),
    "queues": Look(busy(60, 12), view("queues")),
    "events": Look(broken(), view("events")),
    "job": Look(broken(), job),
    "log": Look(broken(), log),
    "submit": Look(broken(), form),
    "cancel": Look(broken(), dialog),
    "offline": Look(broken(), offline),
}


@pytest.fixture(autouse=True)
def far_from_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown in the time zone of who looks."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", LOOKS)
def test_it_looks_as_it_did(name: str, size: tuple[int, int]) -> None:
    file = FOLDER / f"{name}-{size[0]}x{size[1]}.txt"
    wanted = file.read_text() if file.exists() and not RENEW else None
    shown = []

    @played
    async def look() -> None:
        clock, state = Clock(), LOOKS[name]
        client = ServedClient(state.document, answers(state.document))
        client.post_answer = lambda *_: {"starts_now": True, "nodes": [{"node": "n1", "gpus": [4, 5]}], "reason": None}
        async with desk(client, size=size, clock=clock, ascii=state.ascii) as found:
            await found.until(lambda: found.app.store.link.latency_ms)
            await state.arrive(found)
            clock.seconds += 1  # with the next second the lines around the panes say what is in them by now
            found.app._tick()
            shown.append(await settled(found, wanted))

    look()
    if RENEW:
        FOLDER.mkdir(exist_ok=True)
        file.write_text(shown[0])
        return
    assert wanted is not None, f"there is no {file.name} yet; this module says how to make it"
    assert shown[0].splitlines() == wanted.splitlines()


def test_every_snapshot_is_of_a_state_there_is() -> None:
    known = {f"{name}-{width}x{height}.txt" for name in LOOKS for width, height in SIZES}
    assert {file.name for file in FOLDER.iterdir()} == known


async def settled(found: Desk, wanted: str | None) -> str:
    """The screen as it stays: it is what is wanted, or stands still."""
    before, looks = text(found), 0
    while before != wanted and looks < STILL_LOOKS:
        await asyncio.sleep(0.02)
        now = text(found)
        looks = looks + 1 if now == before else 0
        before = now
    return before


def text(found: Desk) -> str:
    """What the terminal gets, without colours and blanks at the right."""
    screen = found.app.screen
    lines = []
    for strip in screen._compositor.render_strips():
        for each in found.app.get_line_filters():
            strip = strip.apply_filter(each, screen.background_colors[1])
        lines.append(strip.text.rstrip())
    return "\n".join(lines) + "\n"
