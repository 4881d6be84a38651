"""As agent_process.py, on GPUs of the stand-in for NVIDIA's library, with shorter waits: for test_gpus_in_use.py."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

import agent.daemon
import agent.foreign
from agent.claim import GpuClaim, claim_real_gpus
from tests.agent import agent_process

LOOK_SECONDS, CALM_SECONDS = 0.1, 1.0


def main(state_dir: str, socket: str) -> int:
    def claim(name: str) -> AbstractContextManager[GpuClaim]:
        return claim_real_gpus(name, Path(state_dir))  # not this machine's own: it may have an agent

    vars(agent.daemon).update(claim_real_gpus=claim, POLL_SECONDS=LOOK_SECONDS)
    agent.foreign.CALM_SECONDS = CALM_SECONDS
    return agent_process.main(state_dir, socket, None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
