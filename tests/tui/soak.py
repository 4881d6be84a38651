"""python -m tests.tui.soak --seconds S: the dashboard in a cluster of 1,000 changes a second; exits 1 if it errs.

Somebody presses all kinds of keys and pulls at the window meanwhile, and the controller goes away and comes back. In
the end what is on the screen must be the truth, nothing must have been raised, and memory be what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from textual.events import Key
from textual.pilot import Pilot
from textual.screen import ModalScreen

from gpuq.errors import Unreachable
from tests.tui.tide import Tide, TideClient
from tui.app import DashboardApp
from tui.columns import cells, gone
from tui.jobs import Jobs
from tui.keymap import actions_in
from tui.order import JobOrder
from tui.pane import context_of
from tui.store import Store
from tui.strips import Line, row_strip
from tui.table import ModelTable
from tui.theme import palette

SIZES = [(80, 24), (40, 10), (160, 45), (100, 30), (20, 5), (240, 70)]
# Those that end it, stop it, or write files; the palette and what completes a command line could end it too.
NEVER = {"quit", "back", "suspend", "export", "palette", "complete"}
TYPED = {"prompt", "submit", "choice"}  # contexts in which keys are text as well
LETTERS = ("a", "n", "1", "=", "!", "/", ">", "m", "space")
BETWEEN_KEYS_SECONDS = 0.05
RESIZE_SECONDS = 2.0
AWAY_EVERY_SECONDS, AWAY_SECONDS = 23.0, 2.0
RESTART_EVERY_SECONDS = 31.0
CATCH_UP_SECONDS = 20.0  # in the end; tries that fail come 15 s apart at most
REPORTS = 12
GROWTH_BYTES = 10 << 20  # from one third of ten minutes to the next it was 7 MB: caches of drawing fill


class Soak:
    """One dashboard, one tide, one restless person."""

    def __init__(self, seconds: float, rate: int, seed: int, jobs: int = 10_000) -> None:
        self.seconds, self.rate, self.random = seconds, rate, Random(seed)
        self.tide = Tide(Random(seed + 1), time.monotonic, jobs)
        self.client = TideClient(self.tide)
        self.keys = self.resizes = self.outages = self.restarts = 0
        self.resident: list[int] = []  # bytes, at equal distances in time
        self.raised: list[str] = []

    async def run(self) -> list[str]:
        """What was wrong, a line each."""

        async def connect() -> TideClient:
            return self.client

        asyncio.get_running_loop().set_exception_handler(lambda _, what: self.raised.append(str(what)))
        app = DashboardApp(connect, "soak")
        async with app.run_test(size=SIZES[0]) as pilot:
            doing = self._flow(), self._measure(), self._fail_now_and_then(), self._resize(pilot)
            flowing = [asyncio.create_task(each) for each in doing]
            try:
                await self._press_keys(app)
            finally:
                for task in flowing:
                    task.cancel()
            self.client.failure = None
            wrong = [f"it ended: {app.crash}"] if not app.is_running else await self._differences(app, pilot)
        wrong += [f"raised: {each}" for each in self.raised]
        for task in flowing:
            if not task.cancelled() and (error := task.exception()) is not None:
                wrong.append(f"the soak itself: {error!r}")
        return wrong

    # What happens to it

    async def _flow(self) -> None:
        began, seconds = time.monotonic(), 0
        while True:
            passed = time.monotonic() - began
            while self.tide.turns < passed * self.rate:
                self.tide.turn()
            if passed > seconds:
                self.tide.sample()
                seconds += 1
            await asyncio.sleep(0.01)

    async def _fail_now_and_then(self) -> None:
        """The controller is not reached for a while; at other times it lives anew."""
        began = time.monotonic()
        every, restart_every = min(AWAY_EVERY_SECONDS, self.seconds / 3), min(RESTART_EVERY_SECONDS, self.seconds / 2)
        while True:
            await asyncio.sleep(0.1)
            passed = time.monotonic() - began
            if passed > every * (self.outages + 1):
                self.outages += 1
                self.client.failure = Unreachable("the tide is out")
                await asyncio.sleep(min(AWAY_SECONDS, every / 3))
                self.client.failure = None
            if passed > restart_every * (self.restarts + 1):
                self.restarts += 1
                self.tide.restart()

    async def _resize(self, pilot: Pilot[None]) -> None:
        while True:
            await asyncio.sleep(min(RESIZE_SECONDS, self.seconds / 6))
            await pilot.resize_terminal(*self.random.choice(SIZES))
            self.resizes += 1

    async def _press_keys(self, app: DashboardApp) -> None:
        """Not by the pilot, which waits after each key until nothing happens any more, as it never is here."""
        began = time.monotonic()
        while app.is_running and time.monotonic() - began < self.seconds:
            key = self._key(app)
            app.post_message(Key(key, key if len(key) == 1 else " " if key == "space" else None))
            self.keys += 1
            await asyncio.sleep(BETWEEN_KEYS_SECONDS)

    def _key(self, app: DashboardApp) -> str:
        if isinstance(app.screen, ModalScreen) and not hasattr(app.screen, "CONTEXT"):
            return "escape"
        context = context_of(app.screen.focused or app.screen)
        known = [key for action in actions_in(context) if action.id not in NEVER for key in action.keys if key != "q"]
        return str(self.random.choice([*known, *(LETTERS if context in TYPED else ())]))

    # What it is afterwards

    async def _measure(self) -> None:
        began = time.monotonic()
        for number in range(1, REPORTS + 1):
            await asyncio.sleep(max(0.0, began + self.seconds * number / (REPORTS + 1) - time.monotonic()))
            gc.collect()
            self.resident.append(resident_bytes())
            print(
                f"{time.monotonic() - began:5.0f} s  {self.tide.turns:8,} changes  {self.keys:6,} keys  "
                f"{self.resizes:4,} resizes  {self.outages:3} outages  {self.restarts:3} restarts  "
                f"{self.resident[-1] / 2**20:6.1f} MB {sys.getallocatedblocks() / 1e3:6.0f} k blocks",
                flush=True,
            )

    def growth(self) -> list[str]:
        """Of the least that was held, from the second third to the last: what is held for a moment comes and goes."""
        third = len(self.resident) // 3
        if not third:
            return ["memory was not measured"]
        before, after = min(self.resident[third : 2 * third]), min(self.resident[2 * third :])
        print(f"memory: {before / 2**20:.1f} MB in the second third, {after / 2**20:.1f} MB in the last")
        return [f"memory grew by {(after - before) / 2**20:.1f} MB"] if after - before > GROWTH_BYTES else []

    async def _differences(self, app: DashboardApp, pilot: Pilot[None]) -> list[str]:
        """Between the truth and what the dashboard holds and shows; it has a while to catch up."""
        while isinstance(app.screen, ModalScreen):
            await pilot.press("escape")
        await pilot.resize_terminal(*SIZES[2])
        app.open_view("jobs", filter="")
        if app._ticker.paused:
            app.do_pause()
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while (wrong := list(self._compare(app))) and time.monotonic() < deadline:
            await pilot.pause(0.1)
        return wrong

    def _compare(self, app: DashboardApp) -> Iterator[str]:
        store, tide, truth = app.store, self.tide, Store(app.store.clock)
        truth.load(tide.snapshot(len(tide.jobs)))
        yield from differing("jobs", without_reasons(store), without_reasons(truth))
        yield from differing("nodes", store.nodes, truth.nodes)
        for what, known, true in [
            ("counts", store.counts, truth.counts),
            ("events", list(store.events)[-100:], list(truth.events)),
            ("tally", counted(store), counted(truth)),
        ]:
            if known != true:
                yield f"{what} are not the truth"
        jobs = app.query_one(Jobs)
        order = JobOrder(truth)
        order.choose(jobs._order.choice)
        order.arrange(store.clock(), store.now())
        ours, theirs = list(jobs._order.keys), list(order.keys)
        if ours != theirs:
            first = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), -1)
            yield (
                f"{len(ours):,} rows in the list, {len(theirs):,} in truth by {order.choice}; from {first:,} on: "
                f"{ours[first : first + 3]}, {theirs[first : first + 3]}"
            )
        for wanted, found in shown_beside(app, jobs.table, truth):
            if found not in wanted:
                yield f"on the screen '{found}', in truth '{wanted[0]}'"


def shown_beside(app: DashboardApp, table: ModelTable, truth: Store) -> Iterator[tuple[list[str], str]]:
    """For each row on the screen what may stand there, and what does. What it says of times may be a second old."""
    strips, width = app.screen._compositor.render_strips(), table.size.width
    for at, key in enumerate(table.visible_keys(), table.region.y + 1):
        wanted = []
        for age in (0.0, 1.0):
            row, now = truth.jobs.get(key), truth.now() - age
            said = gone(key, table.columns) if row is None else cells(row, table.columns, now)
            line = Line(key, said, key == table.key, key in table.marks)
            wanted.append(row_strip(table.columns, line, True, width, palette(app.theme)).text.rstrip())
        yield wanted, strips[at].crop(table.region.x, table.region.right).text.rstrip()


def without_reasons(store: Store) -> dict[str, object]:
    """A waiting job's reason may be old: it is asked anew when it comes into view."""
    return {id: row._replace(reason=None) for id, row in store.jobs.items()}


def counted(store: Store) -> tuple[Any, ...]:
    tally = store.tally
    states = {user: +counter for user, counter in tally.states.items()}
    queues = {name: (of.active, of.queued, of.gpus_used, of.gpus_wanted) for name, of in tally.queues.items()}
    return states, queues, tally.stuck, tally.restarting, {key: ids for key, ids in tally.failed.items() if ids}


def differing(what: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    ids = [id for id in {**ours, **theirs} if ours.get(id) != theirs.get(id)]
    if ids:
        yield f"{len(ids):,} {what} differ, '{ids[0]}' among them: {ours.get(ids[0])} and in truth {theirs.get(ids[0])}"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long")
    parser.add_argument("--rate", type=int, default=1_000, help="changes a second")
    parser.add_argument("--seed", type=int, default=0, help="of what happens and which keys are pressed")
    asked = parser.parse_args()
    soak = Soak(asked.seconds, asked.rate, asked.seed)
    with tempfile.TemporaryDirectory(prefix="gpuq-soak-") as folder:
        os.chdir(folder)  # whatever the dashboard should save
        began = time.process_time()
        wrong = asyncio.run(soak.run()) + soak.growth()
        os.chdir("/")
    print(f"processor: {100 * (time.process_time() - began) / asked.seconds:.0f} % of a core, this test's own included")
    for line in wrong:
        print(f"wrong: {line}")
    print(f"{soak.tide.turns:,} changes, {soak.keys:,} keys, {soak.resizes:,} resizes: {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
