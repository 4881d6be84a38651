"""The list of machines."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot

from tests.tui.clusters import GIB, NOW
from tests.tui.stage import HOSTILE, Clock, Stage, gpu, node, perform, store_of, until
from tui.nodes import Node, NodeRows, Nodes, columns, row
from tui.store import Dirty


def cells(of: Node) -> dict[str, str]:
    wanted = columns(8)
    shown = row(of, wanted, NOW)
    return {c.key: cell if isinstance(cell, str) else cell[0] for c, cell in zip(wanted, shown, strict=True)}


def test_a_row_says_what_its_gpus_do() -> None:
    gpus = [gpu(0, ("1",), utilization_percent=100), gpu(1, ("1",), utilization_percent=50), gpu(2), gpu(3)]
    shown = cells(node("n1", gpus, simulated=True))
    assert (shown["node"], shown["state"], shown["gpus"], shown["free"]) == ("n1", "up", "84..", "2")
    assert (shown["util"], shown["memory"], shown["temp"], shown["jobs"]) == ("38%", "38%", "66 °C", "1")
    assert shown["note"] == "simulated"


def test_what_is_not_known_is_a_question_mark() -> None:
    blind: dict[str, Any] = dict.fromkeys(("utilization_percent", "memory_used_bytes", "temperature_c"))
    shown = cells(node("n1", [gpu(0, ("1",), **blind)], cpu_percent=None, memory_used_bytes=None, last_seen_at=None))
    assert [shown[key] for key in ("gpus", "util", "memory", "temp", "cpu", "seen")] == ["?"] * 6
    assert shown["ram"].startswith("?/")
    silent = cells(node("n1", [gpu(0, ("1",))], state="lost"))
    assert [silent[key] for key in ("state", "gpus", "util", "memory", "temp", "cpu")] == ["LOST", "x", *"????"]


def test_a_machine_without_gpus_has_none_and_not_zero_percent() -> None:
    shown = cells(node("n1", [], gpu_note="no driver"))
    assert [shown[key] for key in ("gpus", "util", "memory", "temp")] == ["none", "-", "-", "-"]
    assert shown["note"] == "no driver"


def test_states_are_words() -> None:
    assert cells(node("n1", cordoned=True))["state"] == "cordoned"
    assert cells(node("n1", cordoned=True, draining=True, cordon_text="bob: fan"))["note"] == "bob: fan"
    assert cells(node("n1", cordoned=True, draining=True))["state"] == "draining"
    assert cells(node("n1", cordoned=True, state="suspect"))["state"] == "SUSPECT"
    sick = [gpu(0, health="quarantined"), gpu(1, health="unknown"), gpu(2, memory_used_bytes=3 * GIB)]
    assert cells(node("n1", sick))["note"] == "1 quarantined, 1 foreign, 1 unknown"


def test_names_are_in_natural_order_and_filters_look_everywhere() -> None:
    rows = NodeRows(store_of(nodes=[node("n10"), node("n2", state="lost"), node("n1", [gpu(0, ("77",))])]))
    rows.arrange()
    assert rows.order == ["n1", "n2", "n10"]
    for text, found in (("lost", ["n2"]), ("h100 !lost", ["n1", "n10"]), ("77", ["n1"]), ("nothing", [])):
        rows.filter = text
        rows.arrange()
        assert rows.order == found
        assert rows.total == 3


def test_columns_sort_with_the_unknown_last() -> None:
    nodes = [
        node("a", [gpu(0, utilization_percent=None)]),
        node("b", [gpu(0, ("1",), utilization_percent=20)]),
        node("c", [gpu(0, ("2",), utilization_percent=80)], state="lost"),
        node("d", [gpu(0, ("3",), utilization_percent=90)]),
    ]
    rows = NodeRows(store_of(nodes=nodes))
    rows.sorted_by = "util"
    rows.arrange()
    assert rows.order == ["d", "b", "a", "c"]
    rows.sorted_by, rows.down = "state", True
    rows.arrange()
    assert rows.order[-1] == "c"


def test_keys_filter_sort_open_and_copy() -> None:
    pane = Nodes(store_of(nodes=[node("n1", []), node("n2"), node(HOSTILE)]))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        assert stage.shows("3 nodes")
        await pilot.press("o", "f")
        assert pane.table.sorted_by == ("free", False)
        assert pane.rows.order[-1] == "n1"
        await pilot.press("O", "g", "enter", "c")
        assert pane.set_filter("n2") == ""
        await until(lambda: stage.shows("1 of 3 nodes  /n2"), pilot)
        pane.set_filter("nowhere")
        await until(lambda: stage.shows("None of 3 nodes matches."), pilot)

    assert perform(pane, play).asked == [("node", "n1"), ("copy", "n1")]


def test_new_samples_show_and_a_node_with_more_gpus_gets_room() -> None:
    clock = Clock()
    store = store_of(nodes=[node("n1", [gpu(0)])], clock=clock)
    pane = Nodes(store)

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        store.nodes["n1"]["gpus"][0].update(jobs=["1"], utilization_percent=100)
        pane.tick(Dirty(nodes={"n1"}))
        await until(lambda: stage.shows(" 100%"), pilot)
        store.nodes["n2"] = node("n2", [gpu(index) for index in range(16)])
        pane.tick(Dirty(nodes={"n2"}, order=True))
        await until(lambda: stage.shows("." * 16), pilot)

    perform(pane, play, size=(120, 20))
