"""The map of all GPUs."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.clusters import GIB
from tests.tui.stage import HOSTILE, Stage, gpu, job, node, perform, store_of, until
from tui.gpu_cells import Letters, Metric
from tui.heatmap import HeatMap, about, lay_out, legend
from tui.store import Dirty, Store
from tui.text import cell_width


def busy(names: list[str]) -> Store:
    """Each node has one job of alice or bob on its first GPU."""
    rows = [job(str(n), user=("alice", "bob")[n % 2]) for n in range(len(names))]
    nodes = [node(name, [gpu(0, (str(n),), utilization_percent=40), gpu(1)]) for n, name in enumerate(names)]
    return store_of(rows, nodes)


@pytest.mark.parametrize("width", [12, 40, 80, 160, 240])
def test_rows_fill_the_width_and_hold_every_node_once(width: int) -> None:
    layout = lay_out([node(f"n{n}") for n in range(100)], width)
    assert layout.columns == max(1, width // (1 + 3 + 1 + 8 + 1))
    assert [name for row in range(layout.rows) for name in layout.at(row)] == [f"n{n}" for n in range(100)]


def test_a_thousand_nodes_fit_a_large_screen() -> None:
    layout = lay_out([node(f"n{n:04}") for n in range(1000)], 240)
    assert layout.rows <= 68


def test_names_lose_a_common_domain_and_keep_the_end_that_differs() -> None:
    layout = lay_out([node("gpu1.lab.example"), node("gpu2.lab.example")], 80)
    assert [*layout.shown_names.values()] == ["gpu1", "gpu2"]
    layout = lay_out([node("rack.a"), node("rack.b"), node("a-very-long-name-17.c")], 80)
    assert [*layout.shown_names.values()] == ["…ng-name-17.c", "rack.a", "rack.b"] or layout.name_cells <= 14


def test_machines_without_gpus_are_not_on_it() -> None:
    assert lay_out([node("n1", []), node("n2")], 80).names == ["n2"]


@pytest.mark.parametrize(("width", "height", "most"), [(20, 24, 3), (40, 7, 1), (80, 24, 3), (200, 50, 3)])
def test_the_legend_takes_few_lines_and_stays_within_them(width: int, height: int, most: int) -> None:
    letters = Letters([f"user{n}" for n in range(60)], "alice")
    lines = legend(Metric.OWNER, (width, height), letters, 1000, 8000)
    assert 1 <= len(lines) <= most
    assert all(cell_width(text) <= width for text in lines)


def test_v_goes_through_the_metrics() -> None:
    pane = HeatMap(busy(["n1", "n2"]))
    seen: list[str] = []

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        for _ in range(5):
            seen.append(next(text for text in stage.lines() if text.startswith(">n1")))
            await pilot.press("v")
            await pilot.pause()

    perform(pane, play)
    assert seen == [">n1 4.  n2 4.", ">n1 6.  n2 6.", ">n1 63  n2 63", ">n1 @.  n2 B.", ">n1 4.  n2 4."]


def test_arrows_move_over_the_map_and_enter_opens_the_node() -> None:
    pane = HeatMap(busy([f"n{n:02}" for n in range(50)]))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        columns = 80 // 8
        await pilot.press("right", "down", "enter", "left", "k", "enter", "G", "enter", "right", "down", "g", "enter")
        assert stage.asked == [("node", f"n{n:02}") for n in (columns + 1, 0, 49, 0)]

    perform(pane, play)


def test_a_map_larger_than_the_screen_scrolls_with_the_cursor() -> None:
    pane = HeatMap(busy([f"n{n:03}" for n in range(300)]))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        assert not stage.shows("n299")
        await pilot.press("G")
        await until(lambda: stage.shows(">n299"), pilot)
        await pilot.press(*["pageup"] * 20)
        await until(lambda: stage.shows(">n000"), pilot)

    perform(pane, play, size=(40, 12))


def test_samples_change_their_cell_and_nodes_come_and_go() -> None:
    store = busy(["n1", "n2"])
    pane = HeatMap(store)

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        store.nodes["n2"]["gpus"][1]["memory_used_bytes"] = 9 * GIB
        store.node_versions["n2"] += 1
        pane.tick(Dirty(nodes={"n2"}))
        await until(lambda: stage.shows("n2 4f"), pilot)
        del store.nodes["n1"]
        store.nodes["n3"] = node("n3")
        pane.tick(Dirty(nodes={"n3"}, order=True))
        await until(lambda: stage.shows("n3 ........"), pilot)
        assert not stage.shows("n1")
        assert pane.subject() is not None

    perform(pane, play)


def test_a_filter_finds_nodes_by_user_and_job() -> None:
    pane = HeatMap(busy(["n1", "n2"]))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        assert stage.shows("4 GPUs on 2 nodes")
        pane.set_filter("bob")
        await until(lambda: stage.shows("2 GPUs on 1 node "), pilot)
        await until(lambda: stage.shows(">n2") and not stage.shows("n1 "), pilot)
        pane.set_filter("nobody")
        await until(lambda: stage.shows("matches 'nobody'"), pilot)
        await pilot.press("enter", "down", "G")

    assert perform(pane, play).asked == []


def test_the_line_about_a_node_is_safe_and_says_who_works_there() -> None:
    store = store_of([job("1", user="bob")], [node("n1", [gpu(0, ("1",))]), node(HOSTILE)])
    assert about(store, store.nodes["n1"], 80).startswith("n1 up  job 1 of bob  util 90%  mem 75%  66 °C  610 W")
    assert "\x1b" not in about(store, store.nodes[HOSTILE], 80)


def test_an_empty_cluster_and_a_tiny_screen_break_nothing() -> None:
    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.press("v", "v", "v", "down", "G", "enter", "pagedown")
        await pilot.resize_terminal(200, 50)
        await pilot.resize_terminal(10, 3)

    nodes: list[dict[str, Any]] = [node(HOSTILE), node("n2", [gpu(n) for n in range(16)])]
    for store in (store_of(), store_of(nodes=nodes)):
        perform(HeatMap(store), play, size=(40, 10))
