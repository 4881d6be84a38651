"""Where one is in the dashboard, how one came there, and which panes there is room for. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tui.pane import Subject

Slot = Literal["list", "detail", "log", "form"]

SMALLEST = (40, 10)  # below this, one line of status and no more
TWO_PANES_WIDTH = 100  # a list and what is under its cursor, side by side
THREE_PANES = (140, 36)  # and its log below
_FOLLOWED = ("jobs", "nodes")  # views whose rows have a detail


class Spot(NamedTuple):
    """A view, and which part of the screen one works in. subject: what detail or log are about; None: the cursor's."""

    view: str
    slot: Slot = "list"
    subject: Subject | None = None


class Trail:
    """Where one has been, as a browser keeps it."""

    def __init__(self, first: Spot) -> None:
        self._spots = [first]
        self._at = 0

    @property
    def present(self) -> Spot:
        return self._spots[self._at]

    def go(self, spot: Spot) -> None:
        if spot != self.present:
            self._spots[self._at + 1 :] = [spot]
            self._at += 1

    def back(self) -> bool:
        return self._to(self._at - 1)

    def forward(self) -> bool:
        return self._to(self._at + 1)

    def last_view(self) -> bool:
        """To where one was in another view before this one."""
        here = self.present.view
        others = [spot for spot in self._spots[: self._at] if spot.view != here]
        if others:
            self.go(others[-1])
        return bool(others)

    def up(self) -> bool:
        """Out of a detail, a log or a form, to where it was opened from; False in a list."""
        if self.present.slot == "list":
            return False
        if self._at and self._spots[self._at - 1].view == self.present.view:
            return self.back()
        self.go(Spot(self.present.view))
        return True

    def _to(self, at: int) -> bool:
        if not 0 <= at < len(self._spots):
            return False
        self._at = at
        return True


def follows(view: str) -> bool:
    """Whether a detail beside the list shows what is under its cursor."""
    return view in _FOLLOWED


def slots(spot: Spot, width: int, height: int, zoomed: bool) -> tuple[Slot, ...]:
    """The panes that are shown, in the order Tab goes through them."""
    if zoomed or spot.slot == "form" or width < TWO_PANES_WIDTH:
        return (spot.slot,)
    three = width >= THREE_PANES[0] and height >= THREE_PANES[1]
    if spot.slot == "log" and not three:
        return ("log",)
    shown: list[Slot] = ["list"]
    if follows(spot.view) or spot.slot == "detail":
        shown.append("detail")
    if three and (spot.view == "jobs" or spot.slot == "log"):
        shown.append("log")
    return tuple(shown)
