"""Jobs on several nodes, and jobs that share GPUs, on real agents with pretend GPUs: three of them on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, until
from tests.e2e.conftest import MakeCluster

# As torchrun's static rendezvous: the first rank listens, the others try until they reach it, all leave together.
RENDEZVOUS = """
import os, socket, time
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
rank, nodes = int(os.environ["NODE_RANK"]), int(os.environ["PET_NNODES"])
if rank == 0:
    with socket.create_server(("", address[1])) as server:
        peers = [server.accept()[0] for _ in range(nodes - 1)]
        names = sorted(peer.recv(100).decode() for peer in peers)
        print("met", *names, "world", os.environ["WORLD_SIZE"], "gpus", os.environ["CUDA_VISIBLE_DEVICES"])
        [peer.sendall(b"go") for peer in peers]
else:
    deadline = time.monotonic() + 20
    while True:
        try:
            server = socket.create_connection(address, timeout=20)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with server:
        server.sendall(os.environ["GPUQ_NODENAME"].encode())
        print("told", server.recv(2).decode(), "slurm", os.environ["SLURM_NODEID"], os.environ["SLURM_JOB_NODELIST"])
"""


@pytest.fixture(scope="module")
def three(make_cluster: MakeCluster) -> Iterator[Cluster]:
    """A cluster of three nodes: the one that `up` makes, and two more agents beside it."""
    cluster = make_cluster(gpus="2xH100-80GB")
    cluster.up("--listen", "127.0.0.1:0")
    url = cluster.json("status")["controller"]["url"]
    token = cluster.ok("token", "create", "--role", "join").split()[-1]
    own = ["--root-jobs"] if os.geteuid() == 0 else []  # as `up` says by itself
    with ExitStack() as stack:
        for name, labels in (("b", ("--label", "rack=7")), ("c", ("--label", "rack=8", "--label", "nvlink"))):
            home = cluster.root / name
            agent = cluster.start(
                *("agent", "--controller", url, "--name", name, "--home", home),
                *("--simulate-gpus", "2xA100-40GB", *labels, *own),
                GPUQ_TOKEN=token,
            )
            stack.callback(cluster.end, agent)
            stack.callback(agent.terminate)
        until(lambda: sum(node["state"] == "up" for node in cluster.json("nodes")["items"]) == 3, "three nodes")
        yield cluster
        for job in cluster.json("queue")["items"]:
            cluster.ok("cancel", job["id"])
            cluster.ended(job["id"])


def test_a_torchrun_style_program_runs_on_two_nodes_unchanged(three: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(RENDEZVOUS)
    id = three.submit("-N", "3", "--gpus-per-node", "2", sys.executable, str(program))
    job = three.ended(id)
    assert (job["state"], job["exit_code"]) == ("SUCCEEDED", 0), three.log(id)
    nodes = [place["node"] for place in job["nodes"]]
    assert len(set(nodes)) == 3
    others = " ".join(sorted(nodes[1:]))
    assert three.log(id).decode() == f"met {others} world 6 gpus 0,1\n"
    for rank in (1, 2):
        assert three.log(id, "--rank", str(rank)).decode() == f"told go slurm {rank} {','.join(nodes)}\n"
    shown = three.ok("show", id)
    assert "RANK" in shown
    assert shown.count("exit code 0") >= 3


def test_a_gang_waits_as_a_whole_for_what_one_of_its_nodes_lacks(three: Cluster) -> None:
    first = three.sh("sleep 60", "-G", "1", "-w", "b")
    three.becomes(first, "RUNNING")
    gang = three.sh("true", "-N", "3", "--gpus-per-node", "2")
    assert "2 GPUs" in three.job(gang)["reason"]["text"]
    assert not three.job(gang)["nodes"]
    three.ok("cancel", first)
    assert three.ended(gang)["state"] == "SUCCEEDED"


def test_one_ranks_failure_ends_the_others_and_is_the_jobs(three: Cluster) -> None:
    id = three.sh("[ $NODE_RANK = 1 ] && exit 7; sleep 300", "-N", "2", "-w", "b,c")
    job = three.ended(id)
    assert (job["state"], job["exit_code"], job["cause"]["code"]) == ("FAILED", 7, "exit_code")
    ranks = job["attempts"][-1]["ranks"]
    assert [rank["stopped"] for rank in ranks] == ["sibling", None], job
    assert ranks[1]["exit_code"] == 7


def test_no_rank_starts_before_all_are_set_up(three: Cluster) -> None:
    setup = "[ $GPUQ_NODE_RANK = 0 ] || { sleep 0.5; exit 3; }"
    id = three.submit("-N", "2", "--setup", setup, "sh", "-c", "echo started")
    job = three.ended(id)
    assert (job["state"], job["cause"]["code"]) == ("FAILED", "setup_failed")
    assert b"started" not in three.log(id) + three.log(id, "--rank", "1")


def test_jobs_share_a_gpu_as_far_as_its_memory_goes_and_whole_jobs_stay_off_it(three: Cluster) -> None:
    ids = [three.sh("sleep 60", "-G", "1", "--shared", "--gpu-mem", "15G", "-w", "b") for _ in range(5)]
    for id in ids[:4]:
        three.becomes(id, "RUNNING")
    places = [three.job(id)["nodes"][0]["gpus"] for id in ids[:4]]
    assert sorted(places) == [[0], [0], [1], [1]]
    assert three.job(ids[4])["reason"]["code"] == "resources"
    whole = three.sh("true", "-G", "1", "-w", "b")
    assert three.job(whole)["state"] == "QUEUED"
    three.ok("cancel", *ids)
    assert three.ended(whole)["state"] == "SUCCEEDED"


def test_constraints_choose_nodes_by_gpu_and_label(three: Cluster) -> None:
    for constraint, node in (("nvlink", "c"), ("a100&rack!=8", "b"), ("rack=7|rack=9", "b")):
        id = three.sh("true", "-C", constraint)
        assert three.ended(id)["nodes"][0]["node"] == node, constraint
    id = three.sh("true", "-C", "rack=12")
    assert "rack=12" in three.job(id)["reason"]["text"]
    assert three.gpuq("submit", "-C", "rack=", "true").line.startswith("gpuq: 'rack=' is not a constraint on nodes")


def test_an_exclusive_job_has_its_node_for_itself(three: Cluster) -> None:
    alone = three.sh("sleep 60", "--exclusive", "-w", "c")
    three.becomes(alone, "RUNNING")
    other = three.sh("true", "-w", "c")
    assert "for itself" in three.job(other)["reason"]["text"]
    three.ok("cancel", alone)
    assert three.ended(other)["state"] == "SUCCEEDED"
