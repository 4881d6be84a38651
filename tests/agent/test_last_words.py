"""Lines that frameworks really end with when a GPU's memory is full, and lines that only look like it."""

from __future__ import annotations

import pytest

from agent.last_words import TAIL_BYTES, gpu_oom, gpu_oom_in

FULL = [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB",
    "torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB",
    "RuntimeError: CUDA error: out of memory",
    "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869 bytes.",
    "E external/xla/xla/stream_executor/cuda/cuda_driver.cc:1222] failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[4096,4096] "
    "and type float on /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:Mul]",
    "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,589,934,592 bytes",
    "ggml_cuda: cudaMalloc failed: out of memory",
]
OTHER = [
    "MemoryError",
    "OOM when allocating tensor with shape[1] on /job:localhost/replica:0/task:0/device:CPU:0 by allocator cpu",
    "slurmstepd: error: Detected 1 oom_kill event",
    "RuntimeError: CUDA error: device-side assert triggered",
]


@pytest.mark.parametrize("line", FULL)
def test_a_full_gpu_is_recognised_and_its_line_told(line):
    text = f"epoch 1\n  File 'x.py'\n\x1b[31m{line}\x1b[0m\n\nsrun: torchrun says goodbye\n"
    assert gpu_oom(text) == line[:300]


@pytest.mark.parametrize("line", OTHER)
def test_other_failures_are_not_taken_for_it(line):
    assert gpu_oom(f"epoch 1\n{line}\n") == ""


def test_only_the_end_of_a_log_counts(tmp_path):
    log = tmp_path / "log"
    log.write_text(f"{FULL[0]}\n" + "all is well again\n" * (TAIL_BYTES // 18 + 1))
    assert gpu_oom_in(log) == ""
    with log.open("a") as file:
        file.write(FULL[2] + "\n")
    assert gpu_oom_in(log) == FULL[2]
    assert gpu_oom_in(tmp_path / "none") == ""
