from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.pilot import Pilot

from tests.tui.desk import played
from tui.table import Cell, Column, ModelTable

COLUMNS = (Column("id", "ID", 6), Column("name", "NAME", 8, grow=1), Column("more", "MORE", 8, least=60))


class Numbers:
    """Rows n0, n1, ... that note which of them were asked for."""

    def __init__(self, count: int) -> None:
        self.order: list[str] = [f"n{number}" for number in range(count)]
        self.asked: set[str] = set()
        self.names: dict[str, str] = {}

    def row(self, key: str, columns: Sequence[Column]) -> list[Cell]:
        self.asked.add(key)
        texts = {"id": key, "name": self.names.get(key, "name"), "more": "more"}
        return [texts[column.key] for column in columns]


class Page(App[None]):
    def __init__(self, rows: Numbers) -> None:
        super().__init__()
        self.rows = rows
        self.table = ModelTable(rows, COLUMNS)

    def compose(self) -> ComposeResult:
        yield self.table

    async def until(self, pilot: Pilot[None], shown: Callable[[], bool]) -> None:
        """Waits for what is painted: two frames are never closer than 30 ms."""
        deadline = time.monotonic() + 10
        while not shown():
            assert time.monotonic() < deadline, self.lines()
            await pilot.pause()

    def lines(self) -> list[str]:
        return [self.table.render_line(y).text.rstrip() for y in range(self.table.size.height)]


@played
async def test_of_a_hundred_thousand_rows_only_those_in_view_are_asked_for() -> None:
    app = Page(Numbers(100_000))
    async with app.run_test(size=(50, 20)) as pilot:
        app.table.do_last()
        await pilot.pause()
        assert len(app.rows.asked) <= 2 * 19
        await app.until(pilot, lambda: "n99999" in app.lines()[-1])
        assert "100,000/100,000" in app.lines()[0]


@played
async def test_the_cursor_stays_with_its_row_when_the_order_changes() -> None:
    app = Page(Numbers(100))
    async with app.run_test(size=(50, 20)) as pilot:
        for _ in range(5):
            app.table.do_cursor_down()
        app.rows.order.reverse()
        app.table.update()
        assert (app.table.key, app.table.at) == ("n5", 94)
        await app.until(pilot, lambda: app.lines()[1 + 94 - 81].startswith("> n5 "))


@played
async def test_when_the_row_of_the_cursor_goes_the_next_one_is_under_it() -> None:
    app = Page(Numbers(3))
    async with app.run_test(size=(50, 20)):
        app.table.do_last()
        app.rows.order.remove("n2")
        app.table.update()
        assert app.table.key == "n1"
        app.rows.order.clear()
        app.table.update()
        assert app.table.key is None


@played
async def test_only_rows_that_look_different_are_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Page(Numbers(100))
    async with app.run_test(size=(50, 20)):
        painted: list[Region] = []
        monkeypatch.setattr(app.table, "refresh", lambda *regions: painted.extend(regions))
        app.rows.names["n3"] = "other"
        app.rows.names["n70"] = "out of view"
        app.table._paint()
        assert [region.y for region in painted] == [4]
        painted.clear()
        app.table._paint()
        assert painted == []


@played
async def test_marks_ranges_and_all() -> None:
    app = Page(Numbers(10))
    async with app.run_test(size=(50, 20)) as pilot:
        app.table.do_mark()
        for _ in range(3):
            app.table.do_cursor_down()
        app.table.do_mark_range()
        assert app.table.marked() == ["n0", "n1", "n2", "n3", "n4"]
        await app.until(pilot, lambda: app.lines()[1].startswith(" *n0"))
        app.table.do_mark_all()
        assert len(app.table.marked()) == 10
        app.table.do_mark_all()
        assert app.table.marked() == []


@played
async def test_what_is_marked_but_not_shown_is_not_acted_on() -> None:
    app = Page(Numbers(10))
    async with app.run_test(size=(50, 20)):
        app.table.do_mark_all()
        del app.rows.order[3:]
        assert app.table.marked() == ["n0", "n1", "n2"]


@played
async def test_columns_come_with_width_and_all_of_them_when_asked_for() -> None:
    app = Page(Numbers(3))
    async with app.run_test(size=(50, 20)) as pilot:
        assert [column.key for column in app.table.columns] == ["id", "name"]
        assert app.table.columns[1].width > 8
        app.table.do_wide()
        assert [column.key for column in app.table.columns] == ["id", "name", "more"]
        app.table.do_wide()
        await pilot.resize_terminal(70, 20)
        await pilot.pause()
        assert [column.key for column in app.table.columns] == ["id", "name", "more"]


@played
async def test_pages_and_ends_keep_the_cursor_in_view() -> None:
    app = Page(Numbers(100))
    async with app.run_test(size=(50, 11)):
        table = app.table
        places = []
        for move in (table.do_page_down, table.do_half_down, table.do_last, table.do_page_up, table.do_first):
            move()
            places.append(table.at)
            assert table.key in table.visible_keys()
        assert places == [10, 15, 99, 89, 0]


@played
async def test_a_click_chooses_and_the_wheel_scrolls() -> None:
    app = Page(Numbers(100))
    async with app.run_test(size=(50, 20)) as pilot:
        await pilot.click(app.table, offset=(5, 4))
        assert app.table.key == "n3"


@played
async def test_where_there_are_no_rows_it_says_why() -> None:
    app = Page(Numbers(0))
    async with app.run_test(size=(50, 20)):
        app.table.empty = ("nothing matches",)
        assert "nothing matches" in "\n".join(app.lines())
