"""What was acknowledged is there once, whatever happens to the controller."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.cluster import FINAL, Cluster, until
from tests.e2e.conftest import MakeCluster

JOBS = 50


@pytest.fixture
def fresh(make_cluster: MakeCluster) -> Cluster:
    made = make_cluster()
    made.up()
    return made


def all_jobs(cluster: Cluster) -> list[dict[str, object]]:
    return [*cluster.json("queue")["items"], *cluster.json("history", "--limit", "1000")["items"]]


def all_end_once(cluster: Cluster, names: list[str]) -> None:
    until(lambda: not cluster.call("GET", "/jobs").json()["items"], "all jobs to end")
    jobs = all_jobs(cluster)
    assert sorted(str(job["name"]) for job in jobs) == sorted(names)
    assert {(job["state"], job["attempt"]) for job in jobs} == {("SUCCEEDED", 1)}


def test_fifty_acknowledged_jobs_survive_the_controllers_death_at_once(fresh: Cluster) -> None:
    ids = []
    for n in range(JOBS):
        answer = fresh.call("POST", "/jobs", {"command": ["true"], "gpus": 1, "cwd": "/", "name": f"j{n}"})
        assert answer.status == 201
        ids.append(answer.json()["id"])
    os.kill(fresh.pid("controller"), signal.SIGKILL)
    fresh.up()
    assert len(set(ids)) == JOBS
    all_end_once(fresh, [f"j{n}" for n in range(JOBS)])
    assert {fresh.job(id)["name"] for id in ids} == {f"j{n}" for n in range(JOBS)}


def test_commands_caught_by_the_controllers_death_neither_lose_nor_double_their_job(fresh: Cluster) -> None:
    """Commands that have reached it repeat their request to its successor; one that never did says so."""
    counter = fresh.folder / "count"
    started = [
        fresh.start("submit", "--parsable", "-J", f"p{n}", "sh", "-c", f"echo p{n} >> {counter}") for n in range(JOBS)
    ]
    until(lambda: sum(process.poll() is not None for process in started) > JOBS // 3, "some to be acknowledged")
    fresh.kill("controller")
    fresh.up()
    ended = [fresh.end(process) for process in started]
    assert {done.status for done in ended} <= {0, 5}, ended
    acknowledged = [f"p{n}" for n, done in enumerate(ended) if done.status == 0]
    assert len({done.text for done in ended if done.status == 0}) == len(acknowledged)
    all_end_once(fresh, acknowledged)
    assert sorted(counter.read_text().split()) == sorted(acknowledged)


def test_a_repeated_request_makes_no_second_job(fresh: Cluster) -> None:
    body = {"command": ["true"], "cwd": "/"}
    ask = lambda **more: fresh.call("POST", "/jobs", {**body, **more}, gpuq_request_id="same-request-1")  # noqa: E731
    first, again = ask(), ask()
    fresh.ended(first.json()["id"])
    fresh.kill("controller")
    fresh.up()
    later = ask()
    assert [answer.status for answer in (first, again, later)] == [201, 201, 201]
    assert first.json() == again.json() == later.json()
    assert len(all_jobs(fresh)) == 1
    without = fresh.call("POST", "/jobs", body, gpuq_request_id="")
    assert (without.status, len(all_jobs(fresh))) == (400, 1)


def test_jobs_run_once_through_repeated_deaths_of_both_daemons(fresh: Cluster) -> None:
    ran = fresh.folder / "ran"
    array = fresh.submit("-G", "1", "-a", "0-59", "sh", "-c", f"echo $GPUQ_ARRAY_TASK_ID >> {ran}; sleep 0.1")
    for part in (5, 20, 40):
        until(lambda part=part: ran.exists() and len(ran.read_text().split()) >= part, f"{part} elements")  # type: ignore[misc]
        fresh.kill("controller", "agent")
        fresh.up()
    job = fresh.becomes(array, *FINAL)
    assert job["array"]["counts"] == {"SUCCEEDED": 60}
    assert sorted(map(int, ran.read_text().split())) == list(range(60))
