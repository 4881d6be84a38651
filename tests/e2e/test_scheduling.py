"""What only shows when jobs really run: one is stopped for another, a node is emptied, the past is replayed."""

from __future__ import annotations

import csv
import io

import pytest

from tests.e2e.cluster import Cluster, until
from tests.e2e.conftest import MakeCluster

QUEUES = "[queues.main]\ndefault = true\n[queues.spare]\npriority = -10\npreemptible = true\n"
# Writes a checkpoint when it is told to end, as training does, and begins where it was.
TRAIN = 'test -e saved && exec echo went on; trap "echo saved | tee saved; exit 0" TERM; echo began; sleep 60 & wait'


@pytest.fixture(scope="module")
def cluster(make_cluster: MakeCluster) -> Cluster:
    made = make_cluster(gpus="2xH100-80GB")
    made.up()
    (made.root / "queues.toml").write_text(QUEUES)
    made.ok("config", "apply", "--yes", made.root / "queues.toml")
    return made


def test_a_job_that_yields_is_stopped_goes_on_later_and_all_of_it_is_told(cluster: Cluster) -> None:
    victim = cluster.submit("-p", "spare", "-G", "2", "sh", "-c", TRAIN)
    until(lambda: "began" in cluster.ok("logs", victim))
    job = cluster.submit("-G", "2", "sh", "-c", "ls saved")
    assert cluster.ended(job)["state"] == "SUCCEEDED", "it began when the other had gone"
    assert cluster.ended(victim)["state"] == "SUCCEEDED"
    shown = cluster.json("show", victim)
    first, second = shown["attempts"]
    assert first["cause"] == {"code": "preempted", "text": f"preempted for job {job} of queue main"}
    assert (second["cause"], shown["retries_used"], shown["losses_used"]) == (None, 0, 1)
    assert cluster.ok("logs", victim, "--attempt", "1").splitlines() == ["began", "saved"]
    assert cluster.ok("logs", victim) == "went on\n"
    kinds = [event["kind"] for event in cluster.json("events", "-j", victim)["items"]]
    assert kinds.count("job.preempted") == 1


def test_a_drain_with_requeue_empties_the_node_and_its_job_runs_again(cluster: Cluster) -> None:
    job = cluster.submit("-G", "1", "sh", "-c", "rm -f saved; " + TRAIN)
    until(lambda: "began" in cluster.ok("logs", job))
    (node,) = cluster.json("nodes")["items"]
    assert node["jobs"] == [job]
    cluster.ok("drain", node["name"], "--requeue")
    until(lambda: cluster.json("show", job)["state"] == "QUEUED")
    (node,) = cluster.json("nodes")["items"]
    assert (node["draining"], node["jobs"]) == (True, [])
    assert cluster.json("show", job)["attempts"][0]["cause"]["code"] == "drained"
    cluster.ok("uncordon", node["name"])
    until(lambda: cluster.json("show", job)["attempt"] == 2)
    cluster.ok("cancel", job)
    cluster.ended(job)


def test_the_clusters_past_is_a_trace_that_simulate_replays(cluster: Cluster) -> None:
    array = cluster.submit("-a", "0-3", "-G", "1", "sh", "-c", "exit $((GPUQ_ARRAY_TASK_ID / 3))")
    cluster.ended(array)
    cluster.ended(cluster.submit("true"))
    held = cluster.submit("-H", "-G", "1", "true")
    cluster.ok("cancel", held)
    text = cluster.ok("history", "--csv")
    rows = {row["job_id"]: row for row in csv.DictReader(io.StringIO(text))}
    ran = {
        job["id"] for job in cluster.json("queue", "--all", "--expand")["items"] if job["gpus"] and job["started_at"]
    }
    assert set(rows) == ran
    assert {f"{array}_{i}" for i in range(4)} < set(rows)
    assert held not in rows
    assert rows[f"{array}_0"]["gpus"] == "1"
    assert rows["2"]["vc"] == "main"
    assert min(float(row["submit_time_s"]) for row in rows.values()) == 0
    (cluster.folder / "past.csv").write_text(text)
    replay = ("simulate", "queue", "--trace", "past.csv", "--gpus-per-node", "2", "--nodes")
    one, many = cluster.json(*replay, "1"), cluster.json(*replay, "8")
    assert one["jobs"] == many["jobs"] == len(rows)
    assert many["wait_max_s"] == 0
    assert cluster.ok("history", "--csv", "-u", "nobody").count("\n") == 1
    assert "neither --json nor --limit" in cluster.gpuq("history", "--csv", "--limit", "3").err
