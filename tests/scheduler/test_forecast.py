"""When queued jobs are expected to start, who holds what they wait for, and what would fit instead."""

from __future__ import annotations

from typing import Any

import pytest

from gpuq.changes import PutSettings
from gpuq.document import read
from gpuq.model import JobId, NodeName
from gpuq.scheduler import Explainer, Start, by_node, instead
from gpuq.states import JobState
from tests.service.builders import ADA, Desk, a_node

HOUR = 3_600


def a_desk(*gpus: int) -> Desk:
    return Desk(*(a_node(f"n{i}", gpus=count) for i, count in enumerate(gpus)))


def runs(desk: Desk, **fields: Any) -> JobId:
    id = desk.submit(**fields)
    desk.run(id)
    return id


def start(desk: Desk, id: str) -> Start | None:
    return Explainer(desk.cluster, desk.now, desk.policy).start(desk.job(id))


def reason(desk: Desk, id: str) -> str:
    said = desk.reason(id)
    assert said is not None
    return f"{said.code.value}: {said.text}"


def test_a_job_starts_when_the_time_limit_of_what_holds_its_room_is_over() -> None:
    desk = a_desk(4)
    runs(desk, gpus=4, time_limit_seconds=HOUR)
    first, second = (desk.submit(gpus=4, time_limit_seconds=2 * HOUR) for _ in range(2))
    assert start(desk, first) == Start(desk.wall + HOUR, bounded=True)
    assert start(desk, second) == Start(desk.wall + 3 * HOUR, bounded=True)


def test_without_limits_predictions_take_part_and_without_them_nothing_is_said() -> None:
    desk = a_desk(4)
    runs(desk, gpus=4)
    id = desk.submit(gpus=1)
    expected = start(desk, id)
    assert expected is not None
    assert not expected.bounded
    desk.cluster.apply([PutSettings(read({"cluster": {"predict_run_times": False}})[0])])
    assert start(desk, id) is None


def test_what_the_plan_leaves_waiting_beside_free_gpus_is_not_told_to_start_now() -> None:
    desk = a_desk(8)
    for gpus in (1, 1, 1, 1, 2):
        runs(desk, gpus=gpus)
    whole, one = desk.submit(gpus=8), desk.submit(gpus=1)
    desk.plan()
    assert desk.state(one) is JobState.QUEUED
    assert reason(desk, one).startswith("reserved: fits, but room is kept")
    for id in (whole, one):
        expected = start(desk, id)
        assert expected is not None
        assert expected.at > desk.wall
        assert not expected.bounded


def test_nothing_is_said_of_what_waits_for_something_other_than_room() -> None:
    desk = a_desk(4)
    desk.cluster.apply([PutSettings(read({"quotas": {ADA.user: {"jobs": 0}}})[0])])
    over, held, never = desk.submit(), desk.submit(hold=True), desk.submit(gpus=16)
    assert [start(desk, id) for id in (over, held, never)] == [None] * 3


def test_a_gang_starts_when_the_last_of_its_nodes_is_free() -> None:
    desk = a_desk(4, 4)
    runs(desk, gpus=4, time_limit_seconds=HOUR)
    runs(desk, gpus=4, time_limit_seconds=2 * HOUR)
    id = desk.submit(nodes=2, gpus_per_node=4)
    assert start(desk, id) == Start(desk.wall + 2 * HOUR, bounded=True)


def test_what_fits_but_could_delay_the_first_says_for_whom_room_is_kept() -> None:
    desk = a_desk(4)
    runs(desk, gpus=3, time_limit_seconds=HOUR)
    first = desk.submit(gpus=4, time_limit_seconds=HOUR)
    long = desk.submit(gpus=1, time_limit_seconds=3 * HOUR)
    desk.plan()
    assert desk.states_of(first, long) == ["QUEUED", "QUEUED"]
    assert reason(desk, long) == f"reserved: fits, but room is kept for {first}, in 1h at the latest"
    assert start(desk, first) == Start(desk.wall + HOUR, bounded=True)
    assert start(desk, long) == Start(desk.wall + 2 * HOUR, bounded=True)
    short = desk.submit(gpus=1, time_limit_seconds=600)
    assert start(desk, short) == Start(desk.wall, bounded=True)
    desk.plan()
    assert desk.states_of(short) == ["ALLOCATED"]


def test_each_node_names_who_holds_it_and_until_when() -> None:
    desk = a_desk(4, 0)
    holder = runs(desk, gpus=3, time_limit_seconds=HOUR)
    job = desk.job(desk.submit(gpus=4))
    first, second = by_node(desk.cluster, job, desk.now, desk.policy)
    assert first.short == "has 1 of 4 GPUs free"
    assert [(h.job, h.gpus, h.until and h.until.until) for h in first.holders] == [(holder, 3, desk.wall + HOUR)]
    assert (second.short, second.holders) == ("has 0 of 4 GPUs free", ()), "nobody's end would help there"


@pytest.mark.parametrize(
    ("asked", "would"),
    [
        ({"gpus": 4}, ["with 3 GPUs"]),
        ({"nodes": 2, "gpus_per_node": 3}, ["with 1 GPU on each node", "on 1 node"]),
        ({"gpus": 3, "gpu_type": "b200"}, ["on GPUs other than b200"]),
        ({"gpus": 2, "constraint": "rack=7"}, ["without -C"]),
        ({"gpus": 1, "exclusive": True}, ["without --exclusive"]),
    ],
)
def test_what_would_fit_instead_is_less_of_one_thing_that_was_asked_for(
    asked: dict[str, Any], would: list[str]
) -> None:
    desk = a_desk(4, 4)
    runs(desk, gpus=1, only_nodes=(NodeName("n0"),))
    runs(desk, gpus=3, only_nodes=(NodeName("n1"),))
    job = desk.job(desk.submit(**asked))
    assert instead(desk.cluster, job, desk.now, desk.policy) == would
