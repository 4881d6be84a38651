"""The list of queues."""

from __future__ import annotations

from textual.pilot import Pilot

from gpuq.units import format_time
from tests.tui.clusters import NOW
from tests.tui.stage import Clock, Stage, gpu, job, node, perform, store_of, until
from tui.queues import COLUMNS, QueueRows, Queues, oldest_waiting
from tui.store import Dirty


def test_a_queue_shows_what_it_holds_wants_and_why_it_waits() -> None:
    jobs = [
        job("1", queue="prod", gpus=4),
        job("2", "QUEUED", queue="prod", gpus=8, submitted_at=format_time(NOW - 7200)),
        job("3", "QUEUED", queue="prod", gpus=1),
        job("4", "SUCCEEDED", queue="gone"),
    ]
    store = store_of(jobs, [node("n1", [gpu(index) for index in range(8)])])
    rows = QueueRows(store)
    rows.oldest = oldest_waiting(store)
    rows.arrange()
    assert rows.order == ["prod"]
    cells = [cell if isinstance(cell, str) else cell[0] for cell in rows.row("prod", COLUMNS)]
    assert cells == ["prod", "1", "2", "4", "[#####-----]", "9", "2h00", "2 resources"]


def test_the_queues_that_hold_most_come_first_and_a_filter_is_by_name() -> None:
    jobs = [job("1", queue="a"), job("2", queue="b", gpus=8), job("3", "QUEUED", queue="c")]
    rows = QueueRows(store_of(jobs))
    rows.arrange()
    assert rows.order == ["b", "a", "c"]
    rows.filter = "!b"
    rows.arrange()
    assert (rows.order, rows.total) == (["a", "c"], 3)


def test_enter_lists_the_jobs_of_a_queue_whatever_its_name() -> None:
    pane = Queues(store_of([job("1", queue="my queue's")]))

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        await pilot.press("enter")

    assert perform(pane, play).asked == [("view", "jobs", "queue='my queue'\"'\"'s'")]


def test_a_queue_that_runs_empty_goes_and_a_new_one_comes() -> None:
    clock = Clock()
    store = store_of([job("1", queue="old")], clock=clock)
    pane = Queues(store)

    async def play(pilot: Pilot[None], stage: Stage) -> None:
        store.tally.replace(store.jobs["1"], None)
        store.tally.replace(None, job("2", queue="new"))
        pane.tick(Dirty(jobs={"1", "2"}, order=True))
        await until(lambda: stage.shows("new"), pilot)
        assert not stage.shows("old")
        store.tally.replace(job("2", queue="new"), None)
        pane.tick(Dirty(jobs={"2"}, order=True))
        await until(lambda: stage.shows("No job waits or runs."), pilot)

    perform(pane, play)
