"""A real GPU: what a CUDA process of a job has there is seen, is known to be the job's, and is given back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuq.model import AttemptUid
from gpuq.node import GpuHealth, NodeSample
from tests.agent.stage import ROOT, Stage, play, staged

GIB = 1 << 30
# Takes a GiB through CUDA's own library, says so, and keeps it until a file comes.
TAKES_A_GIB = """
import ctypes, os, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
def done(status):
    if status:
        sys.exit(f"CUDA says {status}")
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
done(cuda.cuInit(0))
done(cuda.cuDeviceGet(ctypes.byref(device), 0))
done(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device))
done(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(1 << 30)))
open(sys.argv[1] + ".part", "w").write(str(os.getpid()))
os.rename(sys.argv[1] + ".part", sys.argv[1])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
"""


class RealStage(Stage):
    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.agent.gpu_agent_process", str(self.state), self.controller.path]
        agent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.agents.append(agent)
        return agent


@pytest.fixture
def free_gpu() -> Iterator[RealStage]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        pytest.skip("no nvidia-smi: this machine has no NVIDIA GPU")
    if subprocess.run([tool, "-L"], capture_output=True, check=False).returncode:
        pytest.skip("nvidia-smi fails: the GPU cannot be used")
    with staged(RealStage) as stage:
        yield stage


@pytest.mark.gpu
def test_a_cuda_process_is_seen_is_its_jobs_and_gives_its_memory_back(free_gpu: RealStage, tmp_path: Path) -> None:
    stage, ready, go = free_gpu, tmp_path / "ready", tmp_path / "go"

    def samples() -> list[NodeSample]:
        return [request.sample for request in stage.controller.requests if request.sample is not None]

    async def scene() -> None:
        stage.start()
        await stage.until(lambda: any(r.inventory and r.inventory.gpus for r in stage.controller.requests))
        inventory = next(r.inventory for r in stage.controller.requests if r.inventory and r.inventory.gpus)
        index, uuid = next((g.index, g.uuid) for g in inventory.gpus if g.health is GpuHealth.OK)
        before = samples()[-1].gpus[index].memory_used_bytes
        assert before is not None
        job = (sys.executable, "-c", TAKES_A_GIB, str(ready), str(go))
        stage.order("u1", *job, gpus=(index,), gpu_uuids=(uuid,))
        await stage.until(lambda: ready.exists() or AttemptUid("u1") in stage.controller.ends)
        assert ready.exists(), stage.controller.logs
        await stage.until(lambda: (samples()[-1].gpus[index].memory_used_bytes or 0) >= before + GIB)
        if not samples()[-1].gpus[index].processes:
            pytest.skip("the driver names no processes here: another pid namespace than the host's")
        mine = [p for p in samples()[-1].gpus[index].processes if p.pid == int(ready.read_text())]
        assert [p.job for p in mine] == ["1042"]
        assert all((p.memory_used_bytes or GIB) >= GIB for p in mine)
        go.touch()
        await stage.until(lambda: AttemptUid("u1") in stage.controller.ends)
        receipt = stage.controller.ends["u1"].gpu_receipt
        assert receipt is not None
        assert (receipt.memory_peak_bytes or 0) >= GIB
        await stage.until(lambda: (samples()[-1].gpus[index].memory_used_bytes or 0) <= before + (GIB >> 2))
        assert not [p for p in samples()[-1].gpus[index].processes if p.job == "1042"]

    play(stage, scene)
