"""Several hundred histories of a cluster in trouble; `python3 build.py soak --seeds N` plays more."""

from __future__ import annotations

import pytest

from gpuq.model import CauseCode
from gpuq.states import JobState
from tests.simulation.invariants import run

SEEDS = 300
PART = 20  # as long as other tests take: workers end at about the same time


@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_invariants_hold_in_every_history(first: int) -> None:
    for seed in range(first, first + PART):
        run(seed)


def test_a_fault_may_be_why_a_job_has_ended_until_that_end_is_taken() -> None:
    """In this history set-up lines fail half a millisecond before a GPU does, which is looked at before they are."""
    run(804)


def test_a_seed_replays_exactly() -> None:
    one, other = run(7), run(7)
    assert one.host.disk == other.host.disk
    assert one.clock.time == other.clock.time


def test_histories_reach_every_final_state_and_many_attempts() -> None:
    """A simulation in which nothing happens would hold every invariant."""
    states, causes, attempts, lives, streams = set(), set(), 0, 0, 0
    for seed in range(12):
        world = run(seed)
        states |= {job.state for job in world.host.disk.all_jobs.values()}
        causes |= {attempt.cause.code for attempt in world.host.disk.all_attempts.values() if attempt.cause}
        attempts = max(attempts, *(attempt.number for attempt in world.host.disk.all_attempts.values()))
        lives += world.host.life
        streams += world.streams.heard
    assert streams > 6
    assert causes >= {CauseCode.GPU_FAULT, CauseCode.GPU_MEMORY, CauseCode.PREEMPTED, CauseCode.NODE_LOST}
    assert states >= {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}
    assert attempts >= 3
    assert lives > 12
