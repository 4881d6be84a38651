"""A pane of lines: its cursor, its scrolling, and what it paints."""

from __future__ import annotations

from textual.geometry import Region
from textual.pilot import Pilot

from tests.tui.stage import Stage, perform, store_of
from tui.line_pane import Line, LinePane, line
from tui.pane import Subject
from tui.store import Dirty, Store


class Listing(LinePane):
    """Lines from a list; those that begin with a star are jobs."""

    CONTEXT = "job"

    def __init__(self, store: Store, texts: list[str]) -> None:
        super().__init__(store)
        self.texts = texts
        self.painted: list[int] = []

    def lines(self, width: int) -> list[Line]:
        return [line(t, subject=Subject("job", t[1:]) if t.startswith("*") else None) for t in self.texts]

    def refresh(self, *regions: Region, **options: bool) -> Listing:
        self.painted += [region.y for region in regions]
        super().refresh(*regions, **options)
        return self


def under(pane: LinePane) -> str | None:
    subject = pane.under_cursor()
    return None if subject is None else subject.id


def test_the_cursor_goes_from_subject_to_subject_and_enter_opens() -> None:
    pane = Listing(store_of(), ["head", "*1", "text", "*2", "tail"])

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        assert under(pane) == "1"
        await pilot.press("j", "enter", "down", "down", "k", "enter")

    assert perform(pane, play).asked == [("job", "2"), ("job", "1")]


def test_long_text_between_subjects_is_read_line_by_line() -> None:
    pane = Listing(store_of(), ["*1", *(f"text {n}" for n in range(30)), "*2"])

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        for _ in range(5):
            await pilot.press("j")
        assert pilot.app.lines()[0] == " text 4"  # type: ignore[attr-defined]
        assert under(pane) is None  # its line is out of sight: Enter must not open what nobody sees
        await pilot.press("enter", "G")
        assert under(pane) == "2"
        await pilot.press("g")
        assert under(pane) == "1"

    assert perform(pane, play, size=(40, 10)).asked == []


def test_pages_take_the_cursor_along() -> None:
    pane = Listing(store_of(), [f"*{n}" for n in range(100)])

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.press("pagedown")
        assert under(pane) == "9"
        await pilot.press("ctrl+d", "ctrl+u", "pageup")
        assert under(pane) == "0"
        await pilot.press("G", "pagedown")
        assert under(pane) == "99"

    perform(pane, play, size=(40, 10))


def test_the_cursor_stays_with_its_subject_when_lines_come_and_go() -> None:
    pane = Listing(store_of(), ["*1", "*2", "*3"])

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.press("j")
        pane.texts = ["new", "*9", "*1", "*2", "*3"]
        pane.tick(Dirty())
        assert under(pane) == "2"
        pane.texts = ["*1", "*3"]
        pane.tick(Dirty())
        assert under(pane) in ("1", "3")
        pane.texts = []
        pane.tick(Dirty())
        assert under(pane) is None
        await pilot.press("j", "k", "G", "g", "pagedown", "enter")

    perform(pane, play)


def test_only_lines_that_differ_are_painted() -> None:
    pane = Listing(store_of(), ["*1", "two", "three", "*4"])

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        pane.painted.clear()
        pane.tick(Dirty())
        assert pane.painted == []
        pane.texts = ["*1", "two", "THREE", "*4"]
        pane.tick(Dirty())
        assert pane.painted == [2]
        pane.painted.clear()
        await pilot.press("j")
        assert pane.painted == [0, 3]

    perform(pane, play)


def test_the_cursor_is_a_sign_and_not_a_colour_alone() -> None:
    pane = Listing(store_of(), ["head", "*1"])
    lines: list[str] = []

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        lines.extend(pilot.app.lines())  # type: ignore[attr-defined]

    perform(pane, play)
    assert lines[:2] == [" head", ">*1"]


def test_a_click_moves_the_cursor_and_a_second_opens() -> None:
    pane = Listing(store_of(), ["*1", "text", "*3"])

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.click(pane, offset=(2, 2))
        assert under(pane) == "3"
        await pilot.click(pane, offset=(2, 1))
        await pilot.click(pane, offset=(2, 2))

    assert perform(pane, play).asked == [("job", "3")]
