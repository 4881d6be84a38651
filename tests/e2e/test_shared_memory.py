"""A shared job that takes more of a GPU than it asked for is ended, alone. The GPU is the stand-in library's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.fake_nvml.machine import build_library, gpu, write_state
from tests.e2e.cluster import Cluster, until
from tests.e2e.conftest import MakeCluster

GIB = 1 << 30
WORKS = "echo $$ >{name}.pid; until [ -e end ]; do sleep 0.1; done; echo {name} ends well"


@pytest.fixture
def cluster(make_cluster: MakeCluster, tmp_path: Path) -> Cluster:
    """One machine with one real GPU, as far as its driver tells."""
    library = build_library(tmp_path)
    nvml = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(library / "nvml.state")}
    made: Cluster = make_cluster(variables=nvml)
    write_state(library / "nvml.state", [gpu(0)])

    def is_up() -> bool:
        done = made.gpuq("up", "--detach")
        assert done.status == 0 or "already offers this machine's GPUs" in done.err, done
        return done.status == 0

    until(is_up, "other tests, or somebody, to let go of this machine's GPUs", seconds=100)
    return made


def test_who_takes_more_than_its_share_is_ended_alone_and_its_neighbour_ends_well(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('[cluster]\nshared_gpu_memory_grace = "4s"\n')
    cluster.ok("config", "apply", "--yes", settings)
    share = ("-G", "1", "--shared", "--gpu-mem", "20G")
    greedy, modest = (cluster.sh(WORKS.format(name=name), *share) for name in ("greedy", "modest"))
    pids = [until(lambda f=file: _pid(f)) for file in (cluster.folder / "greedy.pid", cluster.folder / "modest.pid")]  # type: ignore[misc]
    used = zip(pids, (33 * GIB, 20 * GIB), strict=True)
    write_state(tmp_path / "nvml.state", [gpu(0, pids=",".join(f"{pid}:{bytes}" for pid, bytes in used))])

    (over,) = until(lambda: cluster.job(greedy)["overuse"])
    assert (over["gpu"], over["used_bytes"], over["share_bytes"]) == (0, 33 * GIB, 20 * GIB)
    shown = next(line for line in cluster.ok("show", greedy).splitlines() if line.startswith("GPU memory"))
    assert "uses 33G of GPU 0 of " in shown
    assert shown.endswith(": stopped after 00:00:04 of that")
    (event,) = [event for event in cluster.json("events")["items"] if event["kind"] == "gpu.overused"]
    assert event["job"] == greedy
    assert event["text"].endswith(", 13G more than it asked for: stopped after 4s of that")

    ended = cluster.ended(greedy)
    assert (ended["state"], ended["signal"], ended["cause"]["code"]) == ("FAILED", 15, "gpu_memory")
    assert ended["cause"]["text"].startswith("used 33G of GPU 0 of ")
    assert ended["cause"]["text"].endswith("s, 13G more than it asked for: raise --gpu-mem")
    assert (cluster.job(modest)["state"], cluster.job(modest)["overuse"]) == ("RUNNING", [])
    (cluster.folder / "end").touch()
    assert cluster.ended(modest)["state"] == "SUCCEEDED"
    assert cluster.log(modest) == b"modest ends well\n"


def _pid(file: Path) -> int:
    """0 until the job has written it."""
    return int(file.read_text() or 0) if file.exists() else 0
