"""The list of machines: a cell for each GPU, and what they are doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textual import on

from tui.gpu_cells import MARKS_LEGEND, Standing, gather, mark
from tui.list_pane import ListPane
from tui.pane import Subject
from tui.store import Dirty, Store
from tui.table import Cell, Column, ModelTable
from tui.text import UNKNOWN, ago, seconds_of, size
from tui.words import natural, wanted

RESORT_SECONDS = 2.0  # order by what changes each second would make rows dance
_MOST_CELLS = 16  # GPUs of one node that have a cell; the digit row ends in an ellipsis

Node = Mapping[str, Any]


def columns(cells: int) -> tuple[Column, ...]:
    """cells: of the node with the most GPUs."""
    return (
        Column("node", "NODE", 11, grow=2),
        Column("state", "STATE", 9),
        Column("gpus", "GPUS", max(4, min(cells, _MOST_CELLS))),
        Column("free", "FREE", 4, right=True, least=46),
        Column("memory", "MEM", 4, right=True, least=56),
        Column("util", "UTIL", 4, right=True),
        Column("temp", "TEMP", 5, right=True, least=62),
        Column("jobs", "JOBS", 4, right=True, least=68),
        Column("note", "NOTE", 9, least=80, grow=3),
        Column("cpu", "CPU", 4, right=True, least=110),
        Column("ram", "RAM", 11, right=True, least=110),
        Column("type", "GPU TYPE", 22, least=130, grow=1),
        Column("seen", "HEARD", 7, right=True, least=130),
    )


def state_cell(node: Node) -> Cell:
    if node["state"] == "lost":
        return "LOST", "bad"
    if node["state"] != "up":
        return node["state"].upper(), "warn"
    if node["draining"]:
        return "draining", "warn"
    return ("cordoned", "warn") if node["cordoned"] else ("up", "good")


def note(node: Node) -> str:
    """What else is to be known, in words: simulated, why it is closed, why it has no GPUs, which GPUs are not well."""
    parts = ["simulated"] if node["simulated"] else []
    if node["cordoned"] or node["draining"]:
        parts += [node["cordon_text"]] if node["cordon_text"] else []
    counts = gather([node]).standings
    for stands in (Standing.QUARANTINED, Standing.FOREIGN, Standing.UNKNOWN):
        parts += [f"{counts[stands]} {stands.value}"] if counts[stands] else []
    if node["gpu_note"]:
        parts.append(node["gpu_note"])
    return ", ".join(parts)


def row(node: Node, wanted_columns: Sequence[Column], now: float) -> list[Cell]:
    """now: wall seconds at the controller."""
    together = gather([node])
    up = node["state"] == "up"

    def percent(value: float | None) -> Cell:
        return f"{value:.0f}%" if up and value is not None else (UNKNOWN if node["gpus"] or not up else "-", "dim")

    def gpus() -> Cell:
        marks = [mark(node, gpu) for gpu in node["gpus"]]
        worst = next((role for role in ("bad", "warn", "good") if any(m.role == role for m in marks)), "dim")
        return ("".join(m.character for m in marks), worst) if marks else ("none", "dim")

    def memory() -> Cell:
        used, total = together.memory_used_bytes, together.memory_total_bytes
        return percent(100 * used / total if used is not None and total else None)

    def temperature() -> Cell:
        hottest = together.hottest_c
        return f"{hottest} °C" if hottest is not None else (UNKNOWN if node["gpus"] else "-", "dim")

    def seen() -> Cell:
        heard = seconds_of(node["last_seen_at"])
        return (ago(None if heard is None else now - heard), "dim" if up else "warn")

    made: dict[str, Callable[[], Cell]] = {
        "node": lambda: node["name"],
        "state": lambda: state_cell(node),
        "gpus": gpus,
        "free": lambda: str(together.standings[Standing.FREE]),
        "memory": memory,
        "util": lambda: percent(together.utilization_percent),
        "temp": temperature,
        "jobs": lambda: str(len({job for gpu in node["gpus"] for job in gpu["jobs"]})),
        "note": lambda: (note(node), "dim" if up else "warn"),
        "cpu": lambda: UNKNOWN if node["cpu_percent"] is None or not up else f"{node['cpu_percent']:.0f}%",
        "ram": lambda: f"{size(node['memory_used_bytes'])}/{size(node['memory_total_bytes'])}",
        "type": lambda: (kinds(node), "dim"),
        "seen": seen,
    }
    return [made[column.key]() for column in wanted_columns]


def kinds(node: Node) -> str:
    """The names of its GPUs, each once."""
    return ", ".join(dict.fromkeys(gpu["name"] for gpu in node["gpus"]))


def texts(node: Node) -> list[str | None]:
    """What a filter looks in."""
    flags = ("cordoned", "draining", "simulated")
    said = [flag for flag in flags if node[flag]]
    health = {gpu["health"] for gpu in node["gpus"]} - {"ok"}
    jobs = {job for gpu in node["gpus"] for job in gpu["jobs"]}
    return [node["name"], node["state"], *said, note(node), kinds(node), *health, *jobs]


def _sort_keys(node: Node) -> Mapping[str, Callable[[], Any]]:
    """By column. What is not known comes last."""
    together = gather([node])

    def known(value: float | None) -> float:
        return -1.0 if value is None else -value

    return {
        "state": lambda: (("lost", "suspect", "up").index(node["state"]), not node["draining"], not node["cordoned"]),
        "free": lambda: -together.standings[Standing.FREE],
        "util": lambda: known(together.utilization_percent),
        "memory": lambda: known(together.memory_used_bytes),
        "temp": lambda: known(together.hottest_c),
        "jobs": lambda: -len({job for gpu in node["gpus"] for job in gpu["jobs"]}),
        "type": lambda: kinds(node),
    }


_SORT_KEYS = {"n": "node", "s": "state", "f": "free", "m": "memory", "u": "util", "t": "temp", "j": "jobs", "y": "type"}


class NodeRows:
    """The nodes that are listed, in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.order: list[str] = []
        self.total = 0
        self.filter = ""
        self.sorted_by, self.down = "node", False

    @property
    def restless(self) -> bool:
        """Whether the order follows what changes all the time."""
        return self.sorted_by != "node"

    def arrange(self) -> None:
        check = wanted(self.filter)
        self.total = len(self._store.nodes)
        nodes = [node for node in self._store.nodes.values() if check is None or check(texts(node))]
        nodes.sort(key=lambda node: natural(node["name"]))
        if self.sorted_by != "node":
            nodes.sort(key=lambda node: _sort_keys(node)[self.sorted_by]())
        self.order = [node["name"] for node in (reversed(nodes) if self.down else nodes)]

    def row(self, key: str, columns: Sequence[Column]) -> Sequence[Cell]:
        node = self._store.nodes.get(key)
        if node is None:
            return [key if column.key == "node" else ("", "dim") for column in columns]
        return row(node, columns, self._store.now())

    def record(self, key: str) -> Node:
        return self._store.nodes.get(key, {})


class Nodes(ListPane):
    CONTEXT = "nodes"
    NOUN = "node"
    FIELDS = (
        "name", "state", "cordoned", "draining", "cordon_text", "simulated", "gpus", "gpu_note",
        "cpus", "cpu_percent", "memory_total_bytes", "memory_used_bytes", "disk_total_bytes", "disk_used_bytes",
        "agent_version", "last_seen_at",
    )  # fmt: skip

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        self._node_rows = NodeRows(store)
        super().__init__(store, self._node_rows, columns(8), _SORT_KEYS, id)
        self.table.sorted_by = "node", False
        self._arranged_at = float("-inf")
        self._cells = 8

    def arrange_rows(self) -> None:
        super().arrange_rows()
        self._arranged_at = self.store.clock()
        cells = max((len(node["gpus"]) for node in self.store.nodes.values()), default=8)
        if cells != self._cells:
            self._cells = cells
            self.table.set_columns(columns(cells))

    def tick(self, dirty: Dirty) -> None:
        due = self._node_rows.restless and self.store.clock() - self._arranged_at >= RESORT_SECONDS
        if dirty.all or dirty.order or due or (dirty.nodes and self.filter):
            self.arrange_rows()
        self.table.update()

    def nothing_yet(self) -> list[str]:
        return ["No node has joined yet.", "'gpuq up' on a machine or 'gpuq agent' brings one."]

    def subject(self) -> Subject | None:
        return None if self.table.key is None else Subject("node", self.table.key)

    def marked(self) -> list[str]:
        return self.table.marked()

    def hint(self) -> str:
        return "  ".join(("0-8 use", *MARKS_LEGEND))

    def open_row(self, key: str) -> None:
        self.dashboard.open_node(key)

    def do_reverse(self) -> None:
        self._sort(self._node_rows.sorted_by, not self._node_rows.down)

    @on(ModelTable.Sorted)
    def _sorted(self, message: ModelTable.Sorted) -> None:
        if message.column in _SORT_KEYS.values():
            again = message.column == self._node_rows.sorted_by
            self._sort(message.column, again and not self._node_rows.down)

    def _sort(self, column: str, down: bool) -> None:
        self._node_rows.sorted_by, self._node_rows.down = column, down
        self.table.sorted_by = column, down
        self.arrange_rows()
        self.table.redraw()
