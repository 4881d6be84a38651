"""Everything about one machine: its GPUs one by one, the jobs on them, what it has, and what happened to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuq.units import plural
from tui.events import time_of
from tui.fields import Row, field, table
from tui.gpu_cells import HOT_CELSIUS, MARKS, Standing, gather, owner_of, standing, watts
from tui.line_pane import BLANK, Line, LinePane, heading, line
from tui.nodes import state_cell
from tui.pane import Subject
from tui.spark import bar, sparkline
from tui.store import Dirty, Store
from tui.text import UNKNOWN, ago, clip, duration, letter_of, safe, seconds_of, size
from tui.theme import state_role

ASK_SECONDS = 5.0  # between two questions for the node's events while it is shown
SETTLE_SECONDS = 0.15  # the cursor may be on its way past this node
EVENTS = 50
_WIDE = 96

Node = Mapping[str, Any]


def node_detail(store: Store, node: Node, events: Sequence[Mapping[str, Any]] | None, width: int) -> list[Line]:
    """events: the node's latest, oldest first; None while they are not here yet."""
    return [
        *_head(store, node, width),
        BLANK,
        *_gpus(store, node, width),
        BLANK,
        *_jobs(store, node, width),
        BLANK,
        *_inventory(store, node, width),
        BLANK,
        *history(events, Subject("node", node["name"])),
    ]


def _head(store: Store, node: Node, width: int) -> Iterator[Line]:
    cell = state_cell(node)
    text, role = (cell, "") if isinstance(cell, str) else cell
    name = clip(safe(node["name"]), max(8, width - 24))  # its state must not be pushed off the screen
    spans = [(f"{name}  ", "bold"), (text, role)]
    if node["simulated"]:
        spans.append(("  simulated", "warn"))
    yield line(*spans)
    seen = seconds_of(node["last_seen_at"])
    if node["state"] != "up":
        heard = "not heard since the controller started" if seen is None else f"not heard for {ago(store.now() - seen)}"
        then = "its jobs are LOST" if node["state"] == "lost" else "it gets no new work"
        yield line((f"{heard}: {then}; the figures below are old", "bad" if node["state"] == "lost" else "warn"))
    if node["cordoned"] or node["draining"]:
        what = "draining: what runs comes to its end" if node["draining"] else "cordoned: what runs goes on"
        yield from field("No new work", ", ".join(filter(None, (what, node["cordon_text"]))), width, "warn")
    if node["gpu_note"]:
        yield from field("GPU note", node["gpu_note"], width, "warn")


def _gpus(store: Store, node: Node, width: int) -> Iterator[Line]:
    gpus = node["gpus"]
    together = gather([node])
    power = f"  {watts(together.power_w)}" if together.power_w is not None else ""
    yield heading("GPUS", f"{together.standings[Standing.FREE]} of {len(gpus)} free{power}" if gpus else "none")
    if not gpus:
        return
    wide = width >= _WIDE
    past = f"LAST {store.history.span(store.now()) / 60:.0f} MIN"
    titles = ["GPU", "STATE", "UTIL", *(["", past] if wide else []), "MEMORY", "TEMP", "POWER", "JOB"]
    rows = [Row(_gpu_cells(store, node, gpu, wide), _holder(gpu)) for gpu in gpus]
    yield from table(titles, rows, width, right=("GPU", "UTIL", "MEMORY", "TEMP", "POWER"))
    said: dict[str, list[int]] = {}
    for gpu in gpus:
        if gpu["health"] != "ok" and gpu["health_text"]:
            said.setdefault(f"{gpu['health']}: {gpu['health_text']}", []).append(gpu["index"])
    for text, indices in said.items():
        yield from field(f"GPU {','.join(map(str, indices))}", text, width, "bad")


def _gpu_cells(store: Store, node: Node, gpu: Mapping[str, Any], wide: bool) -> list[str | tuple[str, str]]:
    stands = standing(node, gpu)
    util, celsius = gpu["utilization_percent"], gpu["temperature_c"]
    role = {Standing.BUSY: "good", Standing.FREE: "", Standing.CLOSED: "dim"}.get(stands, "warn")
    word = gpu["health"] if stands is Standing.QUARANTINED else stands.value  # a newer agent may know other ailments
    cells: list[str | tuple[str, str]] = [str(gpu["index"]), (f"{MARKS.get(stands, ' ')} {word}", role)]
    cells.append(UNKNOWN if util is None else f"{util}%")
    if wide:
        now = store.now()
        line_of = sparkline(store.history.gpus([(node["name"], gpu["index"])], 30, now, store.history.span(now)))
        cells += [bar(None if util is None else util / 100, 12), (line_of, "good")]
    cells.append(f"{size(gpu['memory_used_bytes'])}/{size(gpu['memory_total_bytes'])}")
    hot = celsius is not None and celsius >= HOT_CELSIUS
    cells.append((f"{celsius} °C{' hot' if hot else ''}", "warn" if hot else "") if celsius is not None else UNKNOWN)
    cells.append(watts(gpu["power_w"]))
    owners = ", ".join(f"{job} {owner_of(store, job) or ''}".rstrip() for job in gpu["jobs"])
    cells.append(owners or ("somebody outside gpuq" if stands is Standing.FOREIGN else "-"))
    return cells


def _holder(gpu: Mapping[str, Any]) -> Subject | None:
    return Subject("job", gpu["jobs"][0]) if gpu["jobs"] else None


def _jobs(store: Store, node: Node, width: int) -> Iterator[Line]:
    held: dict[str, list[int]] = {}
    for gpu in node["gpus"]:
        for job in gpu["jobs"]:
            held.setdefault(job, []).append(gpu["index"])
    yield heading("JOBS ON ITS GPUS", "" if held else "none")
    if not held:
        return
    rows = []
    for job, indices in held.items():
        row = store.jobs.get(job) or store.jobs.get(job.partition("_")[0])
        gpus = ",".join(map(str, indices))
        if row is None:
            rows.append(Row([job, UNKNOWN, "", "", "", gpus], Subject("job", job)))
            continue
        started = seconds_of(row.started_at)
        ran = duration(None if started is None else store.now() - started)
        letter = letter_of(row)
        rows.append(Row([job, (letter, state_role(letter)), row.name, row.user, ran, gpus], Subject("job", job)))
    yield from table(["JOB", "S", "NAME", "USER", "RUN TIME", "GPUS"], rows, width)


def _inventory(store: Store, node: Node, width: int) -> Iterator[Line]:
    yield heading("MACHINE")
    kinds: dict[str, int] = {}
    for gpu in node["gpus"]:
        kind = f"{gpu['name']} {size(gpu['memory_total_bytes'])}"
        kinds[kind] = kinds.get(kind, 0) + 1
    if kinds:
        pretend = " (simulated)" if node["simulated"] else ""
        yield from field("GPUs", ", ".join(f"{n} x {kind}" for kind, n in kinds.items()) + pretend, width)
    cpus, busy = node["cpus"], node["cpu_percent"]
    count = UNKNOWN if cpus is None else f"{cpus} {plural(cpus, 'CPU')}"
    yield from field("CPUs", f"{count}, {UNKNOWN if busy is None else f'{busy:.0f}%'} busy", width)
    memory, disk = ("memory_used_bytes", "memory_total_bytes"), ("disk_used_bytes", "disk_total_bytes")
    for label, (used, total) in (("Memory", memory), ("Disk", disk)):
        share = node[used] / node[total] if node[used] is not None and node[total] else None
        yield from field(label, f"{size(node[used])} of {size(node[total])} {bar(share, 22)}", width)
    seen = seconds_of(node["last_seen_at"])
    yield from field("Heard", f"{ago(None if seen is None else store.now() - seen)} ago", width)
    yield from field("Agent", node["agent_version"] or UNKNOWN, width)


def history(events: Sequence[Mapping[str, Any]] | None, about: Subject) -> Iterator[Line]:
    """Events, the newest first. about: whose detail it is, and whom no line needs to name."""
    yield heading("HISTORY", "asking the controller" if events is None else "" if events else "nothing on record")
    for event in reversed(events or ()):
        others = [Subject("job", event["job"])] if event["job"] is not None else []
        others += [Subject("node", event["node"])] if event["node"] is not None else []
        others = [other for other in others if other != about]
        whom = "".join(f"{other.kind} {other.id}  " for other in others)
        yield line(
            (f"{str(event['at'])[:10]} {time_of(event)}  ", "dim"),
            f"{safe(event['kind'])}  ",
            (safe(whom), "dim"),
            safe(event["text"]),
            subject=next(iter(others), None),
        )


class NodeDetail(LinePane):
    CONTEXT = "node"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self._node = ""
        self._events: list[Mapping[str, Any]] | None = None
        self._asked_at = float("-inf")

    def open(self, name: str) -> None:
        """It is about this node from now on."""
        if name != self._node:
            self._node, self._events = name, None
            self.begin()
            self._ask(SETTLE_SECONDS)
        self.shown()

    def tick(self, dirty: Dirty) -> None:
        news = dirty.all or dirty.events
        if self._node and news and self.store.clock() - self._asked_at >= ASK_SECONDS:
            self._ask(0.0)
        super().tick(dirty)

    def _ask(self, after: float) -> None:
        self._asked_at = self.store.clock()
        self.dashboard.work(self._fetch(self._node, after))

    async def _fetch(self, name: str, after: float) -> None:
        await asyncio.sleep(after)
        if name != self._node:
            return
        page = await self.dashboard.client.get("/events", {"node": name, "limit": EVENTS})
        if name == self._node:  # the answer may be to a question nobody has any more
            self._events = page["items"]
            self.redraw()

    def lines(self, width: int) -> list[Line]:
        node = self.store.nodes.get(self._node)
        if node is None:
            said = f"there is no node {safe(self._node)}" if self._node else "no node is chosen"
            return [line((said, "dim"))]
        return node_detail(self.store, node, self._events, width)

    def subject(self) -> Subject | None:
        return Subject("node", self._node) if self._node else None

    def record(self) -> Any:
        return self.store.nodes.get(self._node)

    def crumbs(self) -> str:
        return f"nodes > {safe(self._node)}"

    def hint(self) -> str:
        under = self.under_cursor()
        return "" if under is None else f"Enter opens {under.kind} {safe(under.id)}"
