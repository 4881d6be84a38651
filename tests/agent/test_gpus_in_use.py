"""A real agent with real jobs, on a machine whose GPUs are those of the stand-in for NVIDIA's library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuq.model import AttemptUid, RankPhase, StopKind
from gpuq.node import Gpu, GpuHealth, GpuSample, NodeSample
from gpuq.protocol import GpuPardon
from tests.agent.fake_nvml.machine import build_library, gpu, write_state
from tests.agent.stage import ROOT, Stage, play, staged

GIB = 1 << 30
WAITS = ("/bin/sh", "-c", "echo $$ >pid; mv pid ready; exec sleep 600")
UUIDS = tuple(f"GPU-0000000{i}" for i in range(3))


class GpuStage(Stage):
    def __init__(self, folder: Path, library: Path) -> None:
        super().__init__(folder)
        self.library, self.folder = library, folder
        self.has(gpu(0), gpu(1), gpu(2))

    def has(self, *gpus: dict[str, object], also: str = "") -> None:
        write_state(self.folder / "nvml.state", gpus, also=also)

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.agent.gpu_agent_process", str(self.state), self.controller.path]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library),
            "FAKE_NVML": str(self.folder / "nvml.state"),
        }
        agent = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.agents.append(agent)
        return agent

    def gpus(self) -> tuple[Gpu, ...]:
        inventories = [r.inventory for r in self.controller.requests if r.inventory is not None]
        return inventories[-1].gpus if inventories else ()

    def health(self) -> list[GpuHealth]:
        return [g.health for g in self.gpus()]

    def sample(self, index: int) -> GpuSample:
        samples: list[NodeSample] = [r.sample for r in self.controller.requests if r.sample is not None]
        return samples[-1].gpus[index]

    def holds(self, uid: str, index: int, *command: str) -> Path:
        """Orders a job on that GPU; gives the file in which it says its pid."""
        folder = self.folder / uid
        folder.mkdir()
        line = f"cd {folder}; " + WAITS[2]
        self.order(uid, *(command or ("/bin/sh", "-c", line)), gpus=(index,), gpu_uuids=(UUIDS[index],))
        return folder / "ready"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stage(library: Path) -> Iterator[GpuStage]:
    with staged(lambda folder: GpuStage(folder, library)) as stage:
        yield stage


OK, FOREIGN, QUARANTINED = GpuHealth.OK, GpuHealth.FOREIGN, GpuHealth.QUARANTINED


def test_processes_are_told_with_their_job_and_strangers_close_a_gpu_until_it_is_calm(stage: GpuStage) -> None:
    stranger = subprocess.Popen(["/bin/sleep", "600"])

    async def scene() -> None:
        stage.start()
        ready = stage.holds("u1", 0)
        await stage.until(ready.exists)
        pid = int(ready.read_text())
        stage.has(gpu(0, pids=f"{pid}:{40 * GIB}", used=40 * GIB), gpu(1, pids=stranger.pid), gpu(2))
        await stage.until(lambda: stage.health() == [OK, FOREIGN, OK])
        await stage.until(lambda: stage.sample(0).processes)
        (process,) = stage.sample(0).processes
        assert (process.pid, process.job, process.memory_used_bytes) == (pid, "1042", 40 * GIB)
        assert (process.command, stage.gpus()[0].foreign) == ("sleep", None)
        use = stage.gpus()[1].foreign
        assert use is not None
        assert (use.pid, use.command, use.job) == (stranger.pid, "sleep", None)
        assert stage.gpus()[1].health_text == f"in use by {use.user}, pid {stranger.pid} (sleep)"
        stage.has(gpu(0, pids=f"{pid},{stranger.pid}"), gpu(1), gpu(2, pids=pid))
        await stage.until(lambda: stage.health() == [FOREIGN, OK, FOREIGN])  # the second is calm again
        strayed = stage.gpus()[2].foreign
        assert strayed is not None
        assert (strayed.pid, strayed.job) == (pid, "1042")
        assert stage.phase("u1") is RankPhase.RUNNING  # it was reported, not ended

    try:
        play(stage, scene)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_fault_ends_who_has_the_gpu_and_an_admins_word_brings_it_back(stage: GpuStage) -> None:
    async def scene() -> None:
        agent = stage.start()
        ready, other = stage.holds("u1", 1), stage.holds("u2", 0)
        await stage.until(lambda: ready.exists() and other.exists())
        fault = "xid 1|GPU-00000001|79"
        stage.has(gpu(0), gpu(1), gpu(2), also=fault)
        await stage.until(lambda: AttemptUid("u1") in stage.controller.ends)
        end = stage.controller.ends["u1"]
        assert end.stopped is StopKind.GPU_FAULT
        assert end.gpu_fault == "GPU 1 of a1: Xid 79: the GPU has fallen off the bus"
        assert stage.health() == [OK, QUARANTINED, OK]
        assert stage.phase("u2") is RankPhase.RUNNING
        stage.holds("u3", 1)
        await stage.until(lambda: AttemptUid("u3") in stage.controller.ends)  # it was on its way, and is not begun
        assert "GPU 1 is quarantined: Xid 79" in stage.controller.ends["u3"].text
        await stage.end(agent, signal.SIGKILL)
        stage.start()
        requests = len(stage.controller.requests)
        await stage.until(lambda: any(r.inventory for r in stage.controller.requests[requests:]))
        assert stage.health() == [OK, QUARANTINED, OK]  # the next agent knows
        stage.controller.pardon = (GpuPardon(UUIDS[1], stage.gpus()[1].fault),)
        stage.controller.changed()
        await stage.until(lambda: stage.health() == [OK, OK, OK])

    play(stage, scene)


def test_a_job_that_fails_because_its_gpu_did_is_not_blamed_for_it(stage: GpuStage) -> None:
    async def scene() -> None:
        stage.start()
        await stage.until(lambda: stage.health() == [OK, OK, OK])
        state, draft = stage.folder / "nvml.state", stage.folder / "next.state"
        write_state(draft, [gpu(0), gpu(1), gpu(2, ecc_u=1)])
        line = f"mv {draft} {state}; exit 3"  # both at the same moment, as it would be
        stage.holds("u1", 2, "/bin/sh", "-c", line)
        stage.holds("u2", 0, "/bin/sh", "-c", "exit 4")
        await stage.until(lambda: {"u1", "u2"} <= stage.controller.ends.keys())
        end = stage.controller.ends["u1"]
        assert end.gpu_fault == "GPU 2 of a1: 1 uncorrectable memory error"
        # On a busy machine it may come to its own end after it was told to stop.
        assert end.exit_code == 3 or (end.exit_code, end.stopped) == (None, StopKind.GPU_FAULT)
        assert (stage.controller.ends["u2"].exit_code, stage.controller.ends["u2"].gpu_fault) == (4, "")

    play(stage, scene)


def test_a_lost_gpu_moves_nobody_elses_and_jobs_are_told_theirs_by_uuid_from_then_on(stage: GpuStage) -> None:
    async def scene() -> None:
        stage.start()
        stage.order("u1", "/bin/sh", "-c", "echo $CUDA_VISIBLE_DEVICES", gpus=(1,), gpu_uuids=(UUIDS[1],))
        await stage.until(lambda: AttemptUid("u1") in stage.controller.ends)
        stage.has(gpu(0, fail=15), gpu(1), gpu(2))
        await stage.until(lambda: stage.health() == [QUARANTINED, OK, OK])
        stage.order("u2", "/bin/sh", "-c", "echo $CUDA_VISIBLE_DEVICES", gpus=(1, 2), gpu_uuids=UUIDS[1:])
        await stage.until(lambda: AttemptUid("u2") in stage.controller.ends)
        await stage.until(lambda: {"u1", "u2"} <= stage.controller.logs.keys())
        assert stage.controller.logs["u1"] == b"1\n"
        assert stage.controller.logs["u2"] == b"GPU-00000001,GPU-00000002\n"

    play(stage, scene)
