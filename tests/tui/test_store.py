from __future__ import annotations

import random
from typing import Any

from tests.tui.clusters import NOW, changes, job, node, page, running, snapshot, waiting
from tui.store import KEPT_EVENTS, Store


def loaded(*args: Any, **kwargs: Any) -> Store:
    store = Store(lambda: 50.0)
    store.load(snapshot(*args, **kwargs))
    store.take_dirty()
    return store


def test_a_snapshot_replaces_everything() -> None:
    store = loaded([job(1), job(2)], [node("n1")])
    store.load(snapshot([job(3)], [node("n2")], life="life-2", at=7))
    assert list(store.jobs) == ["3"]
    assert list(store.nodes) == ["n2"]
    assert (store.life, store.at) == ("life-2", 7)
    assert store.take_dirty().all


def test_now_is_the_controllers_wall_clock_and_goes_on_with_ours() -> None:
    clock = [10.0]
    store = Store(lambda: clock[0])
    store.load(snapshot([]))
    clock[0] += 5
    assert abs(store.now() - (NOW + 5)) < 0.001


def test_changes_touch_rows_and_say_which() -> None:
    store = loaded([waiting(1), job(2)])
    dirty = store.apply(changes(101, [running(1)]))
    assert store.jobs["1"].state == "RUNNING"
    assert (dirty.jobs, dirty.order, store.at) == ({"1"}, False, 101)


def test_rows_that_come_and_go_are_an_order_to_be_made_anew() -> None:
    store = loaded([job(1)])
    assert store.apply(changes(101, [job(2)])).order
    assert store.apply(changes(102, gone=["1"])).order
    assert list(store.jobs) == ["2"]


def test_any_way_of_cutting_the_changes_leads_to_the_same_present() -> None:
    """Snapshot and changes, whatever they are, end where a snapshot of the end begins."""
    chance = random.Random(4)
    for _ in range(50):
        present = {str(n): job(n) for n in range(1, 30)}
        store = loaded(list(present.values()))
        for at in range(101, 120):
            touched, gone = [], []
            for id in chance.sample(sorted(present), min(3, len(present))):
                if chance.random() < 0.3:
                    del present[id]
                    gone.append(id)
                else:
                    present[id] = present[id]._replace(state=chance.choice(["RUNNING", "FAILED"]), attempt=at)
                    touched.append(present[id])
            present[str(at)] = job(at)
            store.apply(changes(at, [*touched, present[str(at)]], gone=gone))
        assert store.jobs == present
        assert store.tally.states["alice"].total() == len(present)


def test_a_page_of_older_jobs_never_undoes_what_came_since() -> None:
    store = loaded([job(9)], next="9")
    store.apply(changes(101, [running(5)], gone=["4"]))
    store.add_jobs(page([job(5), job(4), job(3)]))
    assert store.jobs["5"].state == "RUNNING"
    assert sorted(store.jobs) == ["3", "5", "9"]
    assert not store.partial


def test_samples_change_a_node_in_place_and_unknown_nodes_are_passed_over() -> None:
    store = loaded([], [node("n1", 2)])
    sample = ["n1", 50.0, 1, 2, "2026-11-21T00:00:00.000Z", [[97, 5, 60, 300.0], [None, None, None, None]]]
    dirty = store.apply(changes(101, samples=[sample, ["nowhere", *sample[1:]]]))
    assert dirty.nodes == {"n1"}
    assert [gpu["utilization_percent"] for gpu in store.nodes["n1"]["gpus"]] == [97, None]


def test_nodes_that_were_removed_go() -> None:
    store = loaded([], [node("n1"), node("n2")])
    assert store.apply(changes(101, nodes_gone=["n1"])).order
    assert list(store.nodes) == ["n2"]


def test_reasons_asked_anew_are_laid_over_the_rows() -> None:
    store = loaded([waiting(1), waiting(2)])
    reason = {"code": "behind", "text": "behind 1"}
    store.set_reasons([("2", reason), ("77", reason)])
    assert store.jobs["2"].reason == reason
    assert store.take_dirty().jobs == {"2"}


def test_a_controller_that_says_more_or_less_of_a_job_is_understood() -> None:
    row = job(1)
    fields = ["new_field", *row._fields[::-1][2:]]
    store = Store(lambda: 0.0)
    document = snapshot([])
    document["jobs"] = {"fields": fields, "rows": [["x", *row[::-1][2:]]], "next": None}
    store.load(document)
    assert (store.jobs["1"].name, store.jobs["1"].elements) == (row.name, None)


def test_events_are_kept_up_to_a_bound() -> None:
    store = loaded([])
    store.apply(changes(101, events=[{"id": str(n)} for n in range(KEPT_EVENTS + 5)]))
    assert len(store.events) == KEPT_EVENTS
    assert store.events[-1]["id"] == str(KEPT_EVENTS + 4)


def test_taking_what_is_dirty_leaves_nothing() -> None:
    store = loaded([job(1)])
    store.apply(changes(101, [running(1)]))
    assert store.pending == 1
    assert store.take_dirty().jobs == {"1"}
    assert not store.take_dirty()


def test_who_watches_is_told_of_all_jobs_even_while_nobody_looks() -> None:
    store, told = Store(lambda: 0.0), []
    store.watch(lambda changed, everything: told.append((set(changed), everything)))
    store.load(snapshot([job(3)], next="more"))
    store.add_jobs(page([job(2), job(1)]))
    store.apply(changes(101, [running(3), job(4)], gone=["1"]))
    store.set_reasons([("4", {"code": "held", "text": "held"})])
    assert told == [(set(), True), ({"1", "2"}, False), ({"1", "3", "4"}, False), ({"4"}, False)]
