"""The lines around every view: who and where one is, how the connection is, which keys work. Pure, and one widget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from tui.keymap import LINE, actions_in, allowed, label
from tui.store import Link, Store
from tui.text import ago, cell_width, clip, clock, pad
from tui.theme import palette

Span = str | tuple[str, str]  # text, or text and its role in theme.Palette
VIEWS = ("overview", "jobs", "nodes", "gpus", "queues", "events")
_TITLES = {"gpus": "GPUs"}


class Bar(Widget):
    """One line; painted only when it says something else."""

    DEFAULT_CSS = "Bar { height: 1; width: 100%; }"

    def __init__(self, *, base: Literal["", "header"] = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self._base = base
        self._left: Sequence[Span] = ()
        self._right: Sequence[Span] = ()

    def show(self, left: Sequence[Span], right: Sequence[Span] = ()) -> None:
        """right: at the right end, where there is room for it."""
        if (left, right) != (self._left, self._right):
            self._left, self._right = left, right
            self.refresh()

    def render_line(self, y: int) -> Strip:
        styles, width = palette(self.app.theme), self.size.width
        base = styles.role(self._base)
        left, right = _fitting(self._left, width), list(_fitting(self._right, width))
        gap = width - _cells(left) - _cells(right)
        while right and gap < 1:  # what stands first on the left matters most
            gap += cell_width(right.pop(0)[0])
        pieces = [*left, (" " * gap, ""), *right]
        return Strip([Segment(text, _over(base, role, styles.role(role))) for text, role in pieces])


def _over(base: Style, role: str, style: Style) -> Style:
    """The style of a role on the ground of the bar."""
    return base if not role else style + Style(bgcolor=base.bgcolor)


def _fitting(spans: Sequence[Span], width: int) -> list[tuple[str, str]]:
    fitting: list[tuple[str, str]] = []
    for span in spans:
        text, role = (span, "") if isinstance(span, str) else span
        text = clip(text, width)
        width -= cell_width(text)
        fitting.append((text, role))
    return fitting


def _cells(spans: Sequence[tuple[str, str]]) -> int:
    return sum(cell_width(text) for text, _ in spans)


def link_spans(link: Link, clock_now: float, wall: float | None) -> list[Span]:
    """How the connection is. wall: seconds at the controller; None where an outage is not to say of when things are."""
    if link.state == "connecting":
        return [("connecting", "key")]
    if link.state == "offline":
        since = clock_now - link.since
        again = "" if link.retry_at is None else f" retry in {ago(max(0.0, link.retry_at - clock_now))} "
        as_of = "" if wall is None else f" showing {clock(wall - since)}"
        return [(f" OFFLINE {ago(since)} ", "bad"), (again + as_of, "key")]
    latency = "" if link.latency_ms is None else f" {link.latency_ms:.0f} ms"
    return [(f"live{latency}", "good"), *([("  slow", "key")] if link.slow else [])]


def heading(store: Store, where: str, paused: int | None, gpus: int, width: int) -> tuple[list[Span], list[Span]]:
    """The first line, left and right. paused: changes that wait to be painted; gpus: of the whole cluster."""
    you = f"{store.you.user}" + ("" if store.you.role == "user" else f" ({store.you.role})") if store.loaded else ""
    narrow, offline = width < 60, store.link.state == "offline"
    names = ["" if narrow or (offline and width < 100) else where, "" if narrow and offline else you]  # an outage first
    left: list[Span] = [(" gpuq ", "title"), *(f" {name} " for name in names if name), " "]
    left += link_spans(store.link, store.clock(), None if narrow or not store.loaded else store.now())
    if paused is not None:
        left += ["  ", (f"PAUSED, {paused:,} changes wait", "key")]
    if not store.loaded:
        return left, []
    used = sum(queue.gpus_used for queue in store.tally.queues.values())
    right: list[Span] = [f"queued {store.counts.get('QUEUED', 0):,}  ", f"GPU {used:,}/{gpus:,}  "]
    return left, [*right, f"{clock(store.now())} "]


def link_values(store: Store, waiting: int) -> str:
    """All about the connection in one line. waiting: characters that the terminal has not taken yet."""
    link = store.link
    latency = "?" if link.latency_ms is None else f"{link.latency_ms:.1f} ms"
    kept = f"{len(store.jobs):,} jobs, {len(store.nodes):,} nodes, at change {store.at:,}"
    return f"{link.state}, answers in {latency}, {waiting:,} bytes wait for the terminal; {kept} {link.said}".rstrip()


def tabs(view: str, crumbs: str, width: int) -> tuple[list[Span], list[Span]]:
    """The second line: the views with the keys that lead to them, and where one is."""
    if width < 60:
        return [(f" {clip(crumbs, width - 2)}", "bold")], []
    spans: list[Span] = [" "]
    for key, name in enumerate(VIEWS, start=1):
        title = _TITLES.get(name, name.capitalize())
        spans += [(f"{key} ", "key"), (title, "bold") if name == view else (title, "dim"), "  "]
    deep = " > " in crumbs
    return spans, [(f"{crumbs} ", "dim")] if deep else []


def keys(context: str, role: str, writable: bool, width: int) -> list[Span]:
    """The line of keys: as many as there is room for, and always where to find the others."""
    offered = [action for action in actions_in(context) if action.short and allowed(action, role, writable)]
    offered.sort(key=lambda action: (action.id == "help", LINE.index(action.id) if action.id in LINE else -1))
    last = offered.pop() if offered and offered[-1].id == "help" else None
    spans: list[Span] = [" "]
    left = width - 1 - (0 if last is None else 8)
    for action in offered:
        shown = f"{label(action.keys[0])} "
        left -= len(shown) + len(action.short) + 2
        if left < 0:
            break
        spans += [(shown, "key"), f"{action.short}  "]
    if last is not None:
        spans += [(f"{label(last.keys[0])} ", "key"), last.short]
    return spans


def too_small(store: Store, width: int) -> str:
    """All there is room for on a terminal of less than 40x10."""
    if not store.loaded:
        return pad("gpuq: connecting", width)
    counts = store.counts
    ended = ("SUCCEEDED", "FAILED", "CANCELED", "QUEUED")
    active = sum(n for state, n in counts.items() if state not in ended)
    offline = "OFFLINE " if store.link.state == "offline" else ""
    return clip(f"{offline}{active:,} active {counts.get('QUEUED', 0):,} queued", width)
