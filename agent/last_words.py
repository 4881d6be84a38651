"""What the end of a job's log says of why it failed. Pure, but for reading it.

Frameworks catch the driver's error and raise their own, so that only their words tell a GPU whose memory is full from
any other failure.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

TAIL_BYTES = 64 << 10  # eight ranks of torchrun end with a traceback each, and then with its summary
_LONGEST_LINE = 300  # characters shown of it
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_GPU_OOM = re.compile(
    r"(?:CUDA|HIP) out of memory"  # torch
    r"|CUDA error: out of memory"
    r"|cuda(?:Malloc\w* failed: out of memory|ErrorMemoryAllocation)|CUDA_ERROR_OUT_OF_MEMORY"  # the driver's own name
    r"|RESOURCE_EXHAUSTED: Out of memory"  # jax
    r"|OOM when allocating tensor.*\b(?:GPU:\d|GPU_\d)"  # tensorflow, which says so of the host's memory too
    r"|cupy\.cuda\.memory\.OutOfMemoryError"
)


def gpu_oom_in(path: Path) -> str:
    """The last line at the end of this log that says a GPU had no memory left; '' if none does."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return gpu_oom(file.read(TAIL_BYTES).decode(errors="replace"))
    except OSError:
        return ""


def gpu_oom(text: str) -> str:
    """The same of a text."""
    for line in reversed(text.splitlines()):
        if _GPU_OOM.search(line):
            return "".join(c for c in _ESCAPES.sub("", line).strip() if c.isprintable())[:_LONGEST_LINE]
    return ""
