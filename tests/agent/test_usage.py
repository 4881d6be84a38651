from __future__ import annotations

from agent.tenants import Tenancy
from agent.usage import GAP_SECONDS, Meters
from gpuq.gpu_use import CURVE_POINTS, GpuProcess, GpuReceipt
from gpuq.model import AttemptUid, JobId
from gpuq.node import GpuSample

A, B = AttemptUid("a"), AttemptUid("b")
ON_TWO = {A: Tenancy(JobId("1"), (0, 1), 100.0)}


def gpu(index: int, busy: int | None, memory: int = 0, **more: object) -> GpuSample:
    return GpuSample(index, memory, busy, 50, 300.0, **more)  # type: ignore[arg-type]


def test_a_receipt_is_the_mean_over_time_and_gpus_with_peaks_and_idle_time() -> None:
    meters = Meters()
    meters.observe(105, ON_TWO, [gpu(0, 0, 5), gpu(1, 4, 7)])
    meters.observe(110, ON_TWO, [gpu(0, 100, 70), gpu(1, 50, 9)])
    meters.observe(120, ON_TWO, [gpu(0, 100, 20), gpu(1, 98, 8)])
    mean = (5 * 2 + 5 * 75 + 10 * 99) / 20
    assert meters.receipt(A) == GpuReceipt(20.0, 5.0, mean, 70, 600.0 * 20, 5.0, (2, 75, 99, 99), (0, 0, 0, 0))


def test_curves_are_as_long_for_a_week_as_for_an_hour_and_true_to_the_mean() -> None:
    meters = Meters()
    readings = 7 * 24 * 3600 // 5
    for n in range(1, readings + 1):
        busy = 100 if n <= readings // 2 else 0
        meters.observe(100.0 + 5 * n, ON_TWO, [gpu(0, busy, (1 << 30) if n == readings else 0), gpu(1, busy)])
    receipt = meters.receipt(A)
    assert receipt is not None
    points = len(receipt.busy_percent)
    assert CURVE_POINTS / 2 < points == len(receipt.memory_mib) <= CURVE_POINTS
    assert receipt.point_seconds * (points - 1) < receipt.observed_seconds <= receipt.point_seconds * points
    half = receipt.observed_seconds / 2 / receipt.point_seconds
    assert set(receipt.busy_percent[: int(half)]) == {100}
    assert set(receipt.busy_percent[int(half) + 1 :]) == {0}
    assert receipt.memory_mib[-1] == 1024
    assert set(receipt.memory_mib[:-1]) == {0}


def test_a_point_of_a_curve_is_the_mean_of_the_readings_in_it() -> None:
    meters = Meters()
    for at, busy in ((101, 100), (102, 50), (105, 0), (107, 30)):
        meters.observe(at, ON_TWO, [gpu(0, busy), gpu(1, busy)])
    receipt = meters.receipt(A)
    assert receipt is not None
    assert receipt.busy_percent == (30, 30)  # 100 for a second, 50 for one, 0 for three; then 30


def test_nobody_looking_is_neither_idle_nor_busy() -> None:
    meters = Meters()
    meters.observe(105, ON_TWO, [gpu(0, 80), gpu(1, 80)])
    meters.observe(400, ON_TWO, [gpu(0, None), gpu(1, None)])
    meters.observe(800, ON_TWO, [gpu(0, 80), gpu(1, 80)])
    receipt = meters.receipt(A)
    assert receipt is not None
    assert (receipt.observed_seconds, receipt.idle_seconds) == (5 + GAP_SECONDS, 0)


def test_an_attempt_without_gpus_and_one_nobody_saw_have_no_receipt() -> None:
    meters = Meters()
    meters.observe(105, {B: Tenancy(JobId("2"), (), 100.0)}, [gpu(0, 80)])
    assert (meters.receipt(A), meters.receipt(B)) == (None, None)


def test_what_is_read_after_its_end_is_not_its_own_and_is_forgotten_with_it() -> None:
    meters = Meters()
    meters.observe(105, ON_TWO, [gpu(0, 80, 1), gpu(1, 80, 1)])
    before = meters.receipt(A)
    meters.observe(106, ON_TWO, [gpu(0, 0, 99), gpu(1, 0, 99)], ended={A})
    assert before is not None
    assert meters.receipt(A) == before
    meters.observe(110, {}, [])
    assert meters.receipt(A) is None


def test_memory_is_that_of_the_jobs_own_processes_where_they_can_be_told() -> None:
    meters = Meters()
    own, other = GpuProcess(5, 30, job="1"), GpuProcess(6, 50, user="bob")
    meters.observe(105, ON_TWO, [gpu(0, 80, 90, processes=(own, other)), gpu(1, 80, 20)])
    receipt = meters.receipt(A)
    assert receipt is not None
    assert receipt.memory_peak_bytes == 30


def test_the_next_agent_goes_on_adding() -> None:
    meters = Meters()
    meters.observe(110, ON_TWO, [gpu(0, 80), gpu(1, 80)])
    heir = Meters(meters.usage())
    heir.observe(125, {A: Tenancy(JobId("1"), (0, 1), 120.0)}, [gpu(0, 20), gpu(1, 20)])
    receipt = heir.receipt(A)
    assert receipt is not None
    assert (receipt.observed_seconds, receipt.utilization_percent) == (15.0, 60.0)
