"""What is put before somebody's eyes, and in which order."""

from __future__ import annotations

from typing import Any

from gpuq.units import format_time
from tests.tui.clusters import GIB, NOW
from tests.tui.stage import Clock, gpu, job, node, store_of
from tui.attention import BROKEN, NOTE, WARNING, Watch
from tui.store import Store


def said(store: Store, watch: Watch | None = None) -> list[str]:
    return [f"{found.level}{found.id}: {found.text}" for found in (watch or Watch()).find(store)]


def test_a_healthy_cluster_needs_nothing() -> None:
    assert said(store_of([job("1"), job("2", "QUEUED")], [node("n1", [gpu(0, ("1",))])])) == []


def test_silent_nodes_come_first_the_lost_before_the_suspect() -> None:
    lost = node("n1", [gpu(0, ("1",)), gpu(1, ("1", "2"))], state="lost", last_seen_at=format_time(NOW - 840))
    suspect = node("n2", state="suspect", last_seen_at=None)
    assert said(store_of(nodes=[suspect, lost])) == [
        "!!n1: LOST not heard for 14 min; 2 jobs on its GPUs",
        "! n2: SUSPECT not heard since the controller started",
    ]


def test_sick_gpus_are_named_together_with_their_reason() -> None:
    gone: dict[str, Any] = {"health": "quarantined", "health_text": "the driver lost it"}
    gpus = [gpu(0), gpu(1, **gone), gpu(2, **gone), gpu(3, health="unknown"), gpu(4, temperature_c=91)]
    assert said(store_of(nodes=[node("n1", gpus)])) == [
        "!!n1: gpus 1,2 quarantined: the driver lost it",
        "! n1: gpu 3 unknown",
        "! n1: gpu 4 hot: 91 °C",
    ]


def test_memory_of_nobody_is_foreign_once_it_has_stayed() -> None:
    clock, watch = Clock(), Watch()
    store = store_of(nodes=[node("n1", [gpu(0, memory_used_bytes=12 * GIB)])], clock=clock)
    assert said(store, watch) == []
    clock.seconds += 20
    assert said(store, watch) == ["! n1: gpu 0 in use by somebody outside gpuq (12G): foreign"]
    store.nodes["n1"]["gpus"][0]["memory_used_bytes"] = 0
    assert said(store, watch) == []
    store.nodes["n1"]["gpus"][0]["memory_used_bytes"] = 12 * GIB
    assert said(store, watch) == []  # it counts from anew


def test_foreign_use_is_told_in_its_agents_words_and_at_once_where_a_job_has_the_gpu() -> None:
    clock, watch = Clock(), Watch()
    used: dict[str, Any] = {
        "health": "foreign",
        "health_text": "in use by bob, pid 42 (python)",
        "memory_used_bytes": 12 * GIB,
    }
    store = store_of(nodes=[node("n1", [gpu(0, **used), gpu(1, **used, jobs=("1",))])], clock=clock)
    on_a_jobs = "! n1: gpu 1 foreign: in use by bob, pid 42 (python)"
    assert said(store, watch) == [on_a_jobs]
    clock.seconds += 20
    assert sorted(said(store, watch)) == ["! n1: gpu 0 in use by bob, pid 42 (python) (12G): foreign", on_a_jobs]


def test_jobs_that_never_fit_or_go_on_failing_are_told() -> None:
    stuck = job("1", "QUEUED", name="big", reason={"code": "too_large", "text": "needs 64 GPUs"})
    again = job("2", name="loop", attempt=4)
    flaky = [job(str(id), "FAILED", name="flaky", exit_code=137) for id in (3, 4, 5)]
    twice = [job(str(id), "FAILED", name="twice") for id in (6, 7)]
    sweep = job("8", name="sweep", elements={"size": 9, "counts": {"FAILED": 5, "RUNNING": 4}})
    found = said(store_of([stuck, again, *flaky, *twice, sweep]))
    assert found[:2] == [
        "! 1: big: no node can ever run it: needs 64 GPUs",
        "! 2: loop: started 4 times, still RUNNING",
    ]
    assert "flaky of alice: 3 failures lately, last with exit code 137" in found[2]
    assert found[3] == "! 8: sweep of alice: 5 failures lately"
    assert len(found) == 4


def test_closed_and_simulated_nodes_are_notes() -> None:
    closed = node("n1", cordoned=True, draining=True, cordon_text="bob: new fan")
    assert said(store_of(nodes=[closed])) == ["i n1: draining, takes no new work: bob: new fan"]
    several = [node(f"n{n}", cordoned=True) for n in range(5)]
    assert said(store_of(nodes=several)) == ["i : 5 nodes cordoned, they take no new work: n0, n1, n2, ..."]
    pretend = node("n1", simulated=True)
    assert said(store_of(nodes=[pretend])) == ["i : the GPUs of this cluster are simulated: jobs run, no GPU does"]
    mixed = said(store_of(nodes=[pretend, node("n2")]))
    assert mixed == ["i : simulated, no GPU works there: 1 of 2 nodes: n1"]


def test_one_kind_does_not_push_the_others_out() -> None:
    dark = [node(f"n{n:02}", state="lost") for n in range(40)]
    found = Watch().find(store_of([job("1", attempt=9)], dark))
    assert [f.text for f in found if "more of this kind" in f.text] == ["and 32 more of this kind"]
    assert found[-1].id == "1"
    assert len(found) == 10


def test_levels_are_in_order() -> None:
    nodes: list[dict[str, Any]] = [
        node("n1", simulated=True),
        node("n2", [gpu(0, temperature_c=99)]),
        node("n3", state="lost"),
    ]
    assert [found.level for found in Watch().find(store_of(nodes=nodes))] == [BROKEN, WARNING, NOTE]
