"""The first view."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.clusters import GIB
from tests.tui.stage import HOSTILE, Clock, Stage, gpu, job, node, perform, store_of, until
from tui.attention import Watch
from tui.job_row import JobRow
from tui.line_pane import plain
from tui.overview import Overview, look, overview
from tui.store import Dirty, Store
from tui.text import cell_width


def shown(store: Store, width: int = 100) -> list[str]:
    return [plain(line).rstrip() for line in overview(store, look(store, Watch()), width)]


def section(lines: list[str], title: str) -> list[str]:
    """From its heading to the next empty line."""
    begin = next(at for at, text in enumerate(lines) if text.startswith(title))
    return list(takewhile(bool, lines[begin:]))


def test_an_empty_cluster_says_so() -> None:
    lines = shown(store_of())
    assert lines[0] == "GPU   none yet"
    assert "nodes 0 up" in lines
    assert "ATTENTION  nothing needs any" in lines
    assert "MY JOBS  none; s submits one" in lines


def test_totals_count_what_is_known_and_say_what_is_not() -> None:
    blind: dict[str, Any] = dict.fromkeys(("utilization_percent", "memory_used_bytes", "temperature_c", "power_w"))
    lines = shown(store_of(nodes=[node("n1", [gpu(0, ("1",), **blind), gpu(1, **blind)])]))
    assert lines[0] == "GPU   1 of 2 busy [#####-----]  memory ?  hottest ? °C  power ?"
    assert lines[1].split() == ["util", "?", "last", "1", "min"]
    nodes = [node("n1", [gpu(0, ("1",)), gpu(1, memory_used_bytes=9 * GIB)]), node("n2", state="lost")]
    lines = shown(store_of(nodes=nodes))
    assert "      1 foreign  8 lost" in lines
    assert "nodes 1 up  1 LOST" in lines


def test_the_last_hour_is_drawn() -> None:
    clock = Clock()
    store = store_of(nodes=[node("n1", [gpu(0, ("1",), utilization_percent=100)])], clock=clock)
    for _ in range(200):
        clock.seconds += 10
        store.history.note(store.nodes, store.now())
    util = shown(store)[1]
    assert util.startswith("util ")
    assert "█" * 70 in util
    assert util.endswith("100%  last 34 min")


def test_queues_show_what_they_hold_and_why_the_rest_waits() -> None:
    jobs = [
        job("1", queue="prod", gpus=8),
        job("2", "QUEUED", queue="prod"),
        job("3", "QUEUED", queue="prod", reason={"code": "held", "text": "held by bob"}),
        job("4", "SUCCEEDED", queue="old"),
    ]
    (head, row) = section(shown(store_of(jobs)), "QUEUE")
    assert head.split() == ["QUEUE", "ACTIVE", "QUEUED", "GPUS", "USED", "WAITS", "FOR"]
    assert row.split() == ["prod", "1", "2", "8", "1", "resources,", "1", "held"]


def test_my_jobs_are_those_at_work_then_those_that_wait_then_those_that_failed() -> None:
    jobs = [
        job("1", "FAILED", exit_code=3),
        job("2", "QUEUED"),
        job("3", name="mine", nodes=[{"node": "n1", "gpus": [0]}]),
        job("4", "SUCCEEDED"),
        job("5", user="bob"),
        job("6", "LOST", nodes=[{"node": "n2", "gpus": [0]}]),
        job("7", elements={"size": 9, "counts": {"RUNNING": 2, "QUEUED": 7}}),
    ]
    head, *rows = section(shown(store_of(jobs)), "MY JOBS")
    assert head == "MY JOBS  4 active  8 queued  1 failed in 24 h"
    assert [row.split()[:2] for row in rows[-2:]] == [["2", "Q"], ["1", "F"]]
    assert {row.split()[0] for row in rows[:-2]} == {"3", "6", "7"}
    text = "\n".join(rows)
    assert "waits for 1 more GPU" in text
    assert "ago: exit 3" in text
    assert "silent: n2" in text
    assert "2 running, 7 queued" in text


def test_a_long_list_of_my_jobs_ends_with_how_many_there_are() -> None:
    lines = shown(store_of([job(str(id), "QUEUED") for id in range(100)]))
    assert lines[-1] == "and 70 more: 2, then m, shows all"


@pytest.mark.parametrize("width", [39, 59, 79, 159, 239])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    nodes = [node(HOSTILE, state="lost"), node("n2", [gpu(0, health="quarantined", health_text=HOSTILE)])]
    jobs: list[JobRow] = [
        job("1", name=HOSTILE, queue=HOSTILE),
        job("2", "QUEUED", name=HOSTILE, reason={"code": "too_large", "text": HOSTILE}),
    ]
    lines = shown(store_of(jobs, nodes), width)
    assert max(map(cell_width, lines)) <= width
    assert not any("\x1b" in text or "\u202e" in text for text in lines)


def test_enter_opens_what_is_under_the_cursor() -> None:
    nodes: list[dict[str, Any]] = [node("n1", state="lost")]
    pane = Overview(store_of([job("7", queue="prod")], nodes))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.press("g", "enter", "j", "enter", "j", "enter", "c")

    asked = perform(pane, play).asked
    assert asked == [("view", "jobs", "queue=prod"), ("node", "n1"), ("job", "7"), ("copy", "7")]


def test_news_shows_within_seconds_and_not_a_walk_a_tick() -> None:
    clock = Clock()
    store = store_of([job("7")], [node("n1")], clock=clock)
    pane = Overview(store)

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        store.nodes["n1"]["state"] = "lost"
        pane.tick(Dirty(nodes={"n1"}))
        await pilot.pause()
        assert not stage.shows("not heard")
        clock.seconds += 2
        pane.tick(Dirty())
        await until(lambda: stage.shows("LOST not heard"), pilot)

    perform(pane, play)
