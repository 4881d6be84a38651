"""The panes between title and footer: made when they are first wanted, shown where there is room."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import ContentSwitcher

from tui.pane import Pane
from tui.store import Store
from tui.table import ModelTable
from tui.trail import Slot, Spot, slots


class Part(NamedTuple):
    slot: Slot
    where: str  # 'module:class'; imported when it is first wanted, as the first frame must not wait for all


PARTS: Mapping[str, Part] = {
    "overview": Part("list", "tui.overview:Overview"),
    "jobs": Part("list", "tui.jobs:Jobs"),
    "nodes": Part("list", "tui.nodes:Nodes"),
    "gpus": Part("list", "tui.heatmap:HeatMap"),
    "queues": Part("list", "tui.queues:Queues"),
    "events": Part("list", "tui.events:Events"),
    "job": Part("detail", "tui.job_detail:JobDetail"),
    "node": Part("detail", "tui.node_detail:NodeDetail"),
    "log": Part("log", "tui.log:LogPane"),
    "submit": Part("form", "tui.submit_form:SubmitForm"),
}
VIEWS = tuple(name for name, part in PARTS.items() if part.slot == "list")


class Body(Vertical):
    """extra: what a pane is given besides the store, by name of the pane."""

    DEFAULT_CSS = """
    Body { width: 100%; height: 1fr; }
    Body #upper { height: 2fr; }
    Body ContentSwitcher { width: 1fr; height: 1fr; }
    Body #list-slot { width: 3fr; }
    Body #detail-slot { width: 2fr; border-left: solid $secondary; padding-left: 1; }
    Body #log-slot { border-top: solid $secondary; }
    Body.-alone #detail-slot, Body.-alone #log-slot { border: none; padding: 0; }
    """

    def __init__(self, store: Store, extra: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self._store, self._extra = store, extra
        self._panes: dict[str, Pane] = {}
        self._shown: dict[Slot, str] = {}  # in the order Tab goes through them
        self._making = False  # a pane is still being made that is to have the focus
        self._goal: Widget | None = None  # what is to have the focus, until Textual has come round to moving it
        self._leaving: Widget | None = None  # what has it until then; nothing has, once that is hidden

    @property
    def focus_due(self) -> bool:
        """Whether the focus is still to go where `focus_slot` has sent it: what is typed now is meant for there."""
        if self._making or self._goal is None:
            return self._making
        return self._goal.focusable and self.screen.focused in (None, self._leaving)

    @on(events.DescendantFocus)
    def _focus_came(self, event: events.DescendantFocus) -> None:
        if event.widget is not self._leaving:
            self._goal = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="upper"):
            yield ContentSwitcher(id="list-slot")
            yield ContentSwitcher(id="detail-slot")
        yield ContentSwitcher(id="log-slot")
        yield ContentSwitcher(id="form-slot")

    def pane(self, name: str) -> Pane:
        """The pane of a name in PARTS."""
        if name not in self._panes:
            module, _, attribute = PARTS[name].where.partition(":")
            make: type[Pane] = getattr(import_module(module), attribute)
            pane = self._panes[name] = make(self._store, id=name, **self._extra.get(name, {}))
            self.query_one(f"#{PARTS[name].slot}-slot", ContentSwitcher).mount(pane)
        return self._panes[name]

    @property
    def shown(self) -> list[Pane]:
        """The panes that are visible, in the order Tab goes through them."""
        return [self._panes[name] for name in self._shown.values()]

    def pane_in(self, slot: Slot) -> Pane:
        """The pane that is shown there; a list if none is."""
        return self._panes[self._shown.get(slot) or next(iter(self._shown.values()))]

    def make_room(self, spot: Spot, zoomed: bool) -> None:
        """Shows what belongs to a spot, as far as there is room, and draws what was hidden before."""
        before = list(self._shown.values())
        wanted = slots(spot, self.size.width, self.screen.size.height, zoomed)
        self._shown = {slot: self._part(slot, spot) for slot in wanted}
        for name in self._shown.values():
            self.pane(name)
        self.set_class(len(self._shown) == 1, "-alone")
        for slot in ("list", "detail", "log", "form"):
            switcher = self.query_one(f"#{slot}-slot", ContentSwitcher)
            switcher.display = slot in self._shown
            if slot in self._shown:
                switcher.current = self._shown[slot]
        self.query_one("#upper").display = bool({"list", "detail"} & set(self._shown))
        for name in self._shown.values():
            if name not in before and self._panes[name].is_mounted:  # one that is new draws itself
                self._panes[name].shown()

    def focus_slot(self, slot: Slot) -> None:
        """Puts the focus on the pane there, or on the list or the field within it."""
        self._making, self._goal = False, None
        if slot not in self._shown:
            return
        pane = self._panes[self._shown[slot]]
        wanted = next(iter(pane.query(ModelTable)), None) or pane.focal()
        if not (pane.is_mounted and pane.complete and wanted.is_mounted):
            self._making = True
            self.call_after_refresh(self.focus_slot, slot)
            return
        focused = self.screen.focused  # Textual's has_focus_within outlives the focus of what was hidden with it
        within = focused is not None and pane in focused.ancestors_with_self
        if not within or (focused is pane and wanted is not pane):  # else one is in a field of it, or on its list
            self._goal, self._leaving = wanted, focused
            wanted.focus()

    def next_slot(self, slot: Slot, step: int) -> Slot:
        """The visible slot so many after this one, round and round."""
        order = list(self._shown)
        return order[(order.index(slot) + step) % len(order)]

    def _part(self, slot: Slot, spot: Spot) -> str:
        if slot == "list":
            return spot.view
        if slot == "detail":
            about = spot.subject.kind if spot.subject is not None else "node" if spot.view == "nodes" else "job"
            return "node" if about == "node" else "job"
        return "log" if slot == "log" else "submit"
