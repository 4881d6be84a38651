"""Everything about one machine."""

from __future__ import annotations

from textual.pilot import Pilot

from gpuq.units import format_time
from tests.tui.clusters import GIB, NOW
from tests.tui.stage import HOSTILE, Stage, event, gpu, job, node, perform, store_of, until
from tui.line_pane import plain
from tui.node_detail import Node, NodeDetail, node_detail
from tui.store import Dirty, Store
from tui.text import cell_width


def shown(store: Store, of: Node, width: int = 100) -> list[str]:
    return [plain(line).rstrip() for line in node_detail(store, of, [], width)]


def test_each_gpu_has_a_row_with_its_state_in_words() -> None:
    gpus = [
        gpu(0, ("7",)),
        gpu(1),
        gpu(2, memory_used_bytes=12 * GIB),
        gpu(3, health="quarantined", health_text="the driver lost it"),
        gpu(4, health="unknown", utilization_percent=None, memory_used_bytes=None, temperature_c=None, power_w=None),
        gpu(5, temperature_c=93),
    ]
    lines = shown(store_of([job("7", name="train", user="bob")]), node("n1", gpus, simulated=True), 80)
    assert lines[0] == "n1  up  simulated"
    rows = {text.split()[0]: text for text in lines[4:10]}
    assert rows["0"].split() == ["0", "busy", "90%", "60G/80G", "66", "°C", "610", "W", "7", "bob"]
    assert ". free" in rows["1"]
    assert "f foreign" in rows["2"]
    assert rows["2"].endswith("somebody outside gpuq")
    assert "! quarantined" in rows["3"]
    assert rows["4"].split() == ["4", "?", "unknown", "?", "?/80G", "?", "?", "-"]
    assert "93 °C hot" in rows["5"]
    assert "GPU 3       quarantined: the driver lost it" in lines
    assert any(text.split() == ["7", "R", "train", "bob", "00:30:00", "0"] for text in lines)


def test_a_silent_node_says_since_when_and_that_its_figures_are_old() -> None:
    lost = node("n1", state="lost", last_seen_at=format_time(NOW - 840))
    assert shown(store_of(), lost)[1] == "not heard for 14 min: its jobs are LOST; the figures below are old"
    suspect = node("n1", state="suspect", last_seen_at=None)
    assert shown(store_of(), suspect)[1].startswith("not heard since the controller started: it gets no new work")


def test_a_closed_node_says_who_closed_it_and_why() -> None:
    lines = shown(store_of(), node("n1", cordoned=True, draining=True, cordon_text="bob: new fan"))
    assert "No new work draining: what runs comes to its end, bob: new fan" in lines


def test_unknown_inventory_is_a_question_mark() -> None:
    nothing = dict.fromkeys(("cpus", "cpu_percent", "memory_total_bytes", "memory_used_bytes", "disk_total_bytes"))
    lines = shown(store_of(), node("n1", [], agent_version=None, disk_used_bytes=None, **nothing))
    assert "CPUs        ?, ? busy" in lines
    assert "Memory      ? of ? [????????????????????]" in lines
    assert "Agent       ?" in lines
    assert "GPUS  none" in lines


def test_hostile_words_stay_in_their_lines() -> None:
    of = node(HOSTILE, [gpu(0, name=HOSTILE, health="quarantined", health_text=HOSTILE)], gpu_note=HOSTILE)
    for width in (38, 78, 158):
        lines = shown(store_of(), of, width)
        assert max(map(cell_width, lines)) <= max(width, 72)
        assert not any("\x1b" in text for text in lines)


def test_it_follows_its_node_and_opens_what_is_on_it() -> None:
    store = store_of([job("7")], [node("n1", [gpu(0, ("7",))]), node("n2")])
    pane = NodeDetail(store)
    events = {"items": [event(1, "node.up", node="n1"), event(2, job="9", node="n1")]}

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        assert stage.shows("no node is chosen")
        pane.open("n1")
        await until(lambda: stage.shows("job.running  job 9"), pilot)
        assert pane.crumbs() == "nodes > n1"
        await pilot.press("enter", "G", "enter")
        store.nodes["n1"]["gpus"][0]["utilization_percent"] = 33
        await pilot.press("g")
        pane.tick(Dirty(nodes={"n1"}))
        await until(lambda: stage.shows(" 33%"), pilot)
        pane.open("gone")
        await until(lambda: stage.shows("there is no node gone"), pilot)

    stage = perform(pane, play, answers={"/events": events})
    assert stage.asked == [("job", "7"), ("job", "9")]


def test_only_the_node_that_is_shown_in_the_end_is_asked_about() -> None:
    asked: list[str] = []
    pane = NodeDetail(store_of(nodes=[node("n1"), node("n2"), node("n3")]))

    def events(params: dict[str, str]) -> dict[str, list[object]]:
        asked.append(params["node"])
        return {"items": []}

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        for name in ("n1", "n2", "n3"):
            pane.open(name)
        await until(lambda: stage.shows("nothing on record"), pilot)

    perform(pane, play, answers={"/events": events})
    assert asked == ["n3"]
