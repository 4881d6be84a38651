"""The cluster's journal."""

from __future__ import annotations

from textual.pilot import Pilot

from tests.tui.stage import HOSTILE, Stage, event, perform, store_of
from tui.events import Events, about
from tui.pane import Subject
from tui.store import Dirty

EVENTS = [
    event(1, "node.up", node="n1"),
    event(2, "job.submitted", job="7", user="alice", text="train"),
    event(3, "job.failed", job="7", attempt=2, node="n1", text="exit code 3"),
    event(4, "token.created", user="root"),
]


def test_an_event_is_about_its_job_before_its_node() -> None:
    assert [about(e) for e in EVENTS] == [Subject("node", "n1"), Subject("job", "7"), Subject("job", "7"), None]


def test_the_newest_is_on_top_and_enter_opens_what_it_is_about() -> None:
    pane = Events(store_of(events=EVENTS))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        lines = stage.lines()
        assert "token.created" in lines[2]
        assert "7.2" in lines[3]
        await pilot.press("enter", "j", "enter", "G", "enter")

    stage = perform(pane, play)
    assert stage.asked == [("job", "7"), ("node", "n1")]
    assert stage.said == ["this event is about no job and no node"]


def test_words_filter() -> None:
    pane = Events(store_of(events=EVENTS))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        pane.set_filter("job. !failed")
        assert pane.rows.order == ["2"]
        pane.set_filter("n1")
        assert pane.rows.order == ["3", "1"]
        pane.set_filter("")
        assert len(pane.rows.order) == 4

    perform(pane, play)


def test_who_looks_at_the_newest_goes_on_doing_so_and_who_reads_below_is_left_alone() -> None:
    store = store_of(events=EVENTS)
    pane = Events(store)

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        store.events.append(event(5, "job.running", job="8"))
        pane.tick(Dirty(events=1))
        assert pane.table.key == "5"
        await pilot.press("j", "j")
        assert pane.table.key == "3"
        store.events.append(event(6, "job.running", job="9"))
        pane.tick(Dirty(events=1))
        assert pane.table.key == "3"

    perform(pane, play)


def test_hostile_text_steers_nothing() -> None:
    pane = Events(store_of(events=[event(1, HOSTILE, text=HOSTILE, user=HOSTILE, node=HOSTILE)]))
    lines: list[str] = []

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        lines.extend([*stage.lines(), pane.hint()])

    perform(pane, play)
    assert any("\\x1b[31m" in text for text in lines)
    assert not any("\x1b" in text or "\u202e" in text for text in lines)


def test_marked_events_are_no_ids_of_jobs_to_act_on() -> None:
    pane = Events(store_of(events=EVENTS))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.press("space", "space")
        assert pane.table.marked() == ["4", "3"]
        assert pane.marked() == []
        assert stage.shows("2 marked")

    perform(pane, play)
