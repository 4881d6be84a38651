"""Who has more memory of a GPU than its share, from readings alone."""

from __future__ import annotations

import pytest

from agent.shares import GAP_SECONDS, Shares
from agent.tenants import Tenancy
from gpuq.gpu_use import GpuProcess
from gpuq.model import AttemptUid, JobId
from gpuq.node import GpuSample
from gpuq.protocol import Overuse

GIB = 1 << 30
A, B = AttemptUid("a"), AttemptUid("b")
HELD = {A: Tenancy(JobId("1"), (0, 1), 0.0, 20 * GIB), B: Tenancy(JobId("2"), (0,), 0.0, 30 * GIB)}


def gpu(index: int, *processes: tuple[str | None, int | None]) -> GpuSample:
    told = tuple(GpuProcess(pid, memory, job=job) for pid, (job, memory) in enumerate(processes, 100))
    return GpuSample(index, 70 * GIB, 90, processes=told)


def test_only_who_is_beyond_its_share_is_told_however_full_the_gpu_is() -> None:
    shares = Shares()
    full = gpu(0, ("1", 20 * GIB), ("2", 30 * GIB), (None, 20 * GIB))
    assert shares.observe(5, HELD, [full]) == ()
    assert shares.observe(10, HELD, [gpu(0, ("1", 20 * GIB), ("2", 30 * GIB + 1))]) == (Overuse(B, 0, 30 * GIB + 1, 0),)


def test_what_all_processes_of_a_job_have_on_one_gpu_counts_together_and_gpus_apart() -> None:
    shares = Shares()
    apart = [gpu(0, ("1", 19 * GIB)), gpu(1, ("1", 19 * GIB))]
    assert shares.observe(5, HELD, apart) == ()
    together = [gpu(0, ("1", 11 * GIB), ("1", 10 * GIB)), gpu(1)]
    assert shares.observe(10, HELD, together) == (Overuse(A, 0, 21 * GIB, 0),)


def test_of_several_gpus_the_one_longest_beyond_is_told_then_the_fullest() -> None:
    shares = Shares()
    shares.observe(5, HELD, [gpu(0), gpu(1, ("1", 21 * GIB))])
    both = [gpu(0, ("1", 40 * GIB)), gpu(1, ("1", 21 * GIB))]
    assert shares.observe(10, HELD, both) == (Overuse(A, 1, 21 * GIB, 5),)
    assert Shares().observe(10, HELD, both) == (Overuse(A, 0, 40 * GIB, 0),)


def test_time_counts_from_the_first_reading_and_starts_anew_after_one_that_was_well() -> None:
    shares, over = Shares(), [gpu(0, ("1", 21 * GIB))]
    assert [shares.observe(at, HELD, over)[0].seconds for at in (5.0, 10.0, 40.0)] == [0, 5, 35]
    assert shares.observe(45, HELD, [gpu(0, ("1", 20 * GIB))]) == ()
    assert shares.observe(50, HELD, over)[0].seconds == 0


@pytest.mark.parametrize("reading", [[], [GpuSample(0)], [gpu(0, ("1", None))]])
def test_memory_that_is_not_known_is_never_too_much(reading: list[GpuSample]) -> None:
    shares, over = Shares(), [gpu(0, ("1", 21 * GIB))]
    shares.observe(5, HELD, over)
    assert shares.observe(10, HELD, reading) == ()
    assert shares.observe(15, HELD, over)[0].seconds == 0


def test_what_is_known_of_some_processes_is_enough_if_it_is_too_much() -> None:
    assert Shares().observe(5, HELD, [gpu(0, ("1", None), ("1", 21 * GIB))]) == (Overuse(A, 0, 21 * GIB, 0),)


def test_what_was_between_two_readings_far_apart_nobody_saw() -> None:
    shares, over = Shares(), [gpu(0, ("1", 21 * GIB))]
    shares.observe(5, HELD, over)
    assert shares.observe(6 + GAP_SECONDS, HELD, over)[0].seconds == 0


def test_whole_gpus_and_gpus_of_others_are_nobodys_overuse() -> None:
    whole = {A: Tenancy(JobId("1"), (0,), 0.0)}
    assert Shares().observe(5, whole, [gpu(0, ("1", 80 * GIB))]) == ()
    assert Shares().observe(5, HELD, [gpu(1, ("2", 80 * GIB))]) == ()  # it strayed there: that is told elsewhere
