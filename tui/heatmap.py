"""The map of all GPUs: one character each, in groups by node, as many as the screen holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.strip import Strip

from gpuq.units import plural
from tui.gpu_cells import MARKS_LEGEND, Letters, Mark, Metric, gather, mark, owner_of, watts
from tui.guard import guard_of
from tui.pane import Pane, Subject
from tui.spark import sparkline
from tui.store import Dirty, Store
from tui.text import UNKNOWN, cell_width, clip, pad, safe
from tui.theme import palette
from tui.words import natural, wanted

_NAME_CELLS = 14  # of a longer name the end is shown: that is where names differ
_LEGEND_LINES = 3
_METRICS = tuple(Metric)
_CLOSED = {"lost": "bad", "suspect": "warn"}

Node = Mapping[str, Any]
Span = tuple[str, str]


class Layout(NamedTuple):
    """How nodes are laid out: row by row, `columns` beside each other."""

    names: Sequence[str]
    shown_names: Mapping[str, str]
    name_cells: int
    gpu_cells: int
    columns: int

    @property
    def rows(self) -> int:
        return -(-len(self.names) // self.columns)

    @property
    def cell(self) -> int:
        return 1 + self.name_cells + 1 + self.gpu_cells + 1

    def at(self, row: int) -> Sequence[str]:
        """The nodes of a row."""
        return self.names[row * self.columns : (row + 1) * self.columns]


def lay_out(nodes: Iterable[Node], width: int) -> Layout:
    """The nodes that have GPUs, in natural order, in rows of `width` cells."""
    having = [node for node in nodes if node["gpus"]]
    names = sorted((node["name"] for node in having), key=natural)
    shown = _short(names)
    name_cells = min(_NAME_CELLS, max(map(len, shown.values()), default=1))
    gpu_cells = max((len(node["gpus"]) for node in having), default=1)
    gpu_cells = max(1, min(gpu_cells, width - name_cells - 3))
    return Layout(names, shown, name_cells, gpu_cells, max(1, width // (name_cells + gpu_cells + 3)))


def _short(names: Sequence[str]) -> dict[str, str]:
    """Names without the domain they all have, safe, and cut at the front."""
    heads = {name: name.partition(".")[0] for name in names}
    if len(set(heads.values())) < len(names):
        heads = {name: name for name in names}
    safe_heads = {name: safe(head) for name, head in heads.items()}
    return {n: h if len(h) <= _NAME_CELLS else "…" + h[1 - _NAME_CELLS :] for n, h in safe_heads.items()}


def node_spans(node: Node, marks: Sequence[Mark], layout: Layout) -> Iterator[Span]:
    """A node's place in a row, without the cursor's column before it."""
    name = layout.shown_names.get(node["name"], "")
    closed = node["cordoned"] or node["draining"]
    role = _CLOSED.get(node["state"], "dim" if closed else "")
    yield pad(name, layout.name_cells) + " ", role
    cells = marks[: layout.gpu_cells]
    for role, group in groupby(cells, key=lambda m: m.role):
        yield "".join(m.character for m in group), role
    yield " " * (layout.gpu_cells - len(cells) + 1), ""


def legend(metric: Metric, size: tuple[int, int], letters: Letters | None, nodes: int, gpus: int) -> list[str]:
    """What the characters mean, in the lines above the map: as few as it takes. size: of the pane, in cells."""
    words = [f"{gpus:,} {plural(gpus, 'GPU')} on {nodes:,} {plural(nodes, 'node')} by {metric.value}:", metric.legend]
    if letters is not None:
        others = sorted((letter, user) for user, letter in letters.of.items() if letter != "@")
        words += ["@ you", *(f"{letter} {safe(user)}" for letter, user in others)]
    width, most = size[0] - 1, min(_LEGEND_LINES, max(1, size[1] // 6))
    lines = [""]
    for word in [*words, *MARKS_LEGEND]:
        if lines[-1] and cell_width(lines[-1]) + 2 + cell_width(word) > width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + word
    if len(lines) > most:
        lines = [*lines[: most - 1], "  ".join(lines[most - 1 :])]
    return [f" {clip(text, width)}" for text in lines]


def about(store: Store, node: Node, width: int) -> str:
    """The node under the cursor, in one line."""
    together = gather([node])
    state = "cordoned" if node["cordoned"] and node["state"] == "up" else node["state"]
    used, total = together.memory_used_bytes, together.memory_total_bytes
    memory = UNKNOWN if used is None or not total else f"{100 * used / total:.0f}%"
    util = together.utilization_percent
    jobs = list(dict.fromkeys(job for gpu in node["gpus"] for job in gpu["jobs"]))
    users = dict.fromkeys(owner_of(store, job) or UNKNOWN for job in jobs)
    held = f"  job {','.join(jobs[:3])}{'+' if len(jobs) > 3 else ''} of {','.join(users)}" if jobs else ""
    pretend = "  simulated" if node["simulated"] else ""
    text = (
        f"{safe(node['name'])} {state}{pretend}{safe(held)}  util {UNKNOWN if util is None else f'{util:.0f}%'}"
        f"  mem {memory}  {UNKNOWN if together.hottest_c is None else together.hottest_c} °C  {watts(together.power_w)}"
    )
    cells = min(60, width - len(text) - 12)
    if cells >= 10:
        places = [(node["name"], gpu["index"]) for gpu in node["gpus"]]
        seconds = store.history.span(store.now())
        text += f"  {seconds / 60:.0f} min {sparkline(store.history.gpus(places, cells, store.now(), seconds))}"
    return text


class HeatMap(Pane):
    CONTEXT = "gpus"
    DEFAULT_CSS = "HeatMap { height: 1fr; }"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self.filter = ""
        self.metric = Metric.UTILIZATION
        self._layout = lay_out((), 80)
        self._letters: Letters | None = None
        self._legend: list[str] = []
        self._marks: dict[str, tuple[int, list[Mark]]] = {}  # by node, as of a version of it
        self._rows: list[list[Span]] = []  # what is on the screen, below _head
        self._head: list[str] = []
        self._cursor: str | None = None
        self._top = 0

    # What it shows

    def shown(self) -> None:
        self._arrange()
        self._head, self._rows = self._legend, self._wanted()
        self.refresh()

    def tick(self, dirty: Dirty) -> None:
        if dirty.all or dirty.order or (self.filter and dirty.nodes):
            self._arrange()
        elif self.metric is Metric.OWNER and dirty.nodes:
            self._find_owners()
        guard_of(self.app).paint(self, self._paint)

    def set_filter(self, text: str) -> str:
        self.filter = text
        self._arrange()
        self._paint()
        return ""

    def _arrange(self) -> None:
        check = wanted(self.filter)
        nodes = self.store.nodes.values()
        self._layout = lay_out((n for n in nodes if check is None or check(_texts(self.store, n))), self.size.width)
        if self._cursor not in self._layout.names:
            self._cursor = next(iter(self._layout.names), None)
        self._find_owners()
        self._keep_in_view()

    def _find_owners(self) -> None:
        """Gives everybody who has a job a letter, while letters are shown, and says in the legend what is what."""
        before = self._letters.of if self._letters else None
        self._letters = None
        if self.metric is Metric.OWNER:
            jobs = {job for node in self.store.nodes.values() for gpu in node["gpus"] for job in gpu["jobs"]}
            users = {user for user in (owner_of(self.store, job) for job in jobs) if user is not None}
            self._letters = Letters(users, self.store.you.user)
        if (self._letters.of if self._letters else None) != before:
            self._marks.clear()
        names = self._layout.names
        gpus = sum(len(self.store.nodes[name]["gpus"]) for name in names if name in self.store.nodes)
        self._legend = legend(self.metric, self.size, self._letters, len(names), gpus)

    def _wanted(self) -> list[list[Span]]:
        rows = range(self._top, min(self._top + self._page, self._layout.rows))
        return [list(self._row(row)) for row in rows]

    def _row(self, row: int) -> Iterator[Span]:
        for name in self._layout.at(row):
            node = self.store.nodes.get(name)
            if node is None:
                yield " " * self._layout.cell, ""
                continue
            spans = node_spans(node, self._marks_of(name, node), self._layout)
            if name != self._cursor:
                yield " ", ""
                yield from spans
            else:  # a sign beside it, and its ground: seen without colour too
                yield ">", "cursor"
                *inner, (gap, _) = spans
                yield "".join(text for text, _ in inner), "cursor"
                yield gap, ""

    def _marks_of(self, name: str, node: Node) -> list[Mark]:
        version = self.store.node_versions.get(name, 0)
        known = self._marks.get(name)
        if known is None or known[0] != version:
            letters = self._letters
            marks = [
                mark(node, gpu, self.metric, letters.owner(self.store, gpu) if letters and gpu["jobs"] else None)
                for gpu in node["gpus"]
            ]
            known = self._marks[name] = version, marks
        return known[1]

    # Drawing

    @property
    def _page(self) -> int:
        return max(1, self.size.height - len(self._legend))

    def _paint(self) -> None:
        before, self._rows = self._rows, self._wanted()
        head, self._head = self._head, self._legend
        if head != self._head or len(before) != len(self._rows) or not before:
            self.refresh()
            return
        dirty = [Region(0, len(head) + y, self.size.width, 1) for y, row in enumerate(self._rows) if row != before[y]]
        if dirty:
            self.refresh(*dirty)

    def render_line(self, y: int) -> Strip:
        styles = palette(self.app.theme)
        head = len(self._head)
        if y < head:
            return Strip([Segment(self._head[y], styles.dim)])
        if y - head < len(self._rows):
            return Strip([Segment(text, styles.role(role)) for text, role in self._rows[y - head]])
        if not self._layout.names and y == head + 1:
            return Strip([Segment(f"  {self._nothing()}", styles.dim)])
        return Strip([])

    def _nothing(self) -> str:
        if self.filter:
            return f"no node with GPUs matches '{safe(self.filter)}'; Esc clears the filter"
        return "no node with GPUs has joined yet" if self.store.loaded else "waiting for the controller"

    # Moving and acting

    def do_metric(self) -> None:
        self.metric = _METRICS[(_METRICS.index(self.metric) + 1) % len(_METRICS)]
        self._marks.clear()
        self._find_owners()
        self._keep_in_view()  # the legend may take another line
        self._paint()

    def do_cursor_down(self) -> None:
        self._move(self._layout.columns)

    def do_cursor_up(self) -> None:
        self._move(-self._layout.columns)

    def do_right(self) -> None:
        self._move(1)

    def do_left(self) -> None:
        self._move(-1)

    def do_page_down(self) -> None:
        self._move(self._page * self._layout.columns)

    def do_page_up(self) -> None:
        self._move(-self._page * self._layout.columns)

    def do_half_down(self) -> None:
        self._move(self._page // 2 * self._layout.columns)

    def do_half_up(self) -> None:
        self._move(-(self._page // 2) * self._layout.columns)

    def do_first(self) -> None:
        self._move(-len(self._layout.names))

    def do_last(self) -> None:
        self._move(len(self._layout.names))

    def _move(self, by: int) -> None:
        names = self._layout.names
        if not names:
            return
        at = names.index(self._cursor) if self._cursor in names else 0
        self._cursor = names[max(0, min(at + by, len(names) - 1))]
        self._keep_in_view()
        guard_of(self.app).paint(self, self._paint)

    def _keep_in_view(self) -> None:
        names = self._layout.names
        row = names.index(self._cursor) // self._layout.columns if self._cursor in names else 0
        self._top = max(row - self._page + 1, min(self._top, row))
        self._top = max(0, min(self._top, self._layout.rows - self._page))

    def do_open(self) -> None:
        if self._cursor is not None:
            self.dashboard.open_node(self._cursor)

    def subject(self) -> Subject | None:
        return None if self._cursor is None else Subject("node", self._cursor)

    def crumbs(self) -> str:
        return f"gpus > {self.metric.value}"

    def hint(self) -> str:
        node = self.store.nodes.get(self._cursor or "")
        return "" if node is None else about(self.store, node, self.size.width)

    def on_resize(self) -> None:
        self.shown()

    def on_click(self, event: events.Click) -> None:
        row, column = self._top + event.y - len(self._legend), event.x // self._layout.cell
        if event.y < len(self._legend) or column >= self._layout.columns:
            return
        if clicked := self._layout.at(row)[column : column + 1]:
            self._cursor = clicked[0]
            guard_of(self.app).paint(self, self._paint)
            if event.chain == 2:
                self.do_open()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._move(self._layout.columns)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._move(-self._layout.columns)


def _texts(store: Store, node: Node) -> list[str | None]:
    """What a filter looks in."""
    jobs = [job for gpu in node["gpus"] for job in gpu["jobs"]]
    users = [owner_of(store, job) for job in jobs]
    return [node["name"], node["state"], "simulated" if node["simulated"] else "", *jobs, *users]
