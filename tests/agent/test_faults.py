"""Which GPUs are quarantined for a fault, by readings made up here; the driver's own are in test_nvml.py."""

from __future__ import annotations

from typing import Any

import pytest

from agent.faults import FATAL_XIDS, PROBE_SECONDS, Fault, Faults
from agent.nvml import Device
from gpuq.node import GpuSample


def device(
    uuid: str = "a", *, failure: str = "", lost: bool = False, xids: tuple[int, ...] = (), **sample: Any
) -> Device:
    return Device(0, uuid, "H100", 80 << 30, GpuSample(0, **sample), failure, lost, xids)


WELL = device("b")
LOST = device(failure="NVML: GPU is lost", lost=True)


def see(
    faults: Faults, first: Device, now: float = 0.0, *, fresh: bool = False, gone: tuple[str, ...] = ()
) -> Fault | None:
    faults.observe([first, WELL], gone, now, fresh)
    return faults.of(first.uuid or "")


@pytest.mark.parametrize("xid", FATAL_XIDS)
def test_a_fatal_xid_ends_who_has_the_gpu(xid: int) -> None:
    fault = see(Faults(), device(xids=(xid,)))
    assert fault is not None
    assert (fault.text, fault.ends_job) == (f"Xid {xid}: {FATAL_XIDS[xid]}", True)


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 94])
def test_an_xid_that_is_the_applications_own_matter_is_no_fault(xid: int) -> None:
    assert see(Faults(), device(xids=(xid,))) is None


def test_memory_errors_from_before_quarantine_and_new_ones_end_the_job_too() -> None:
    faults = Faults()
    first = see(faults, device(ecc_uncorrected=2))
    assert first is not None
    assert (first.text, first.ends_job) == ("2 uncorrectable memory errors", False)
    assert see(faults, device(ecc_uncorrected=2), 5) == first
    second = see(faults, device(ecc_uncorrected=3), 10)
    assert second is not None
    assert (second.number, second.ends_job) == (first.number + 1, True)


def test_a_device_is_lost_only_beside_one_that_answers() -> None:
    faults = Faults()
    faults.observe([LOST, device("b", failure="NVML: GPU is lost", lost=True)], (), 0, fresh=False)
    assert (faults.of("a"), faults.of("b")) == (None, None)
    fault = see(faults, LOST)
    assert fault is not None
    assert fault.ends_job
    assert see(faults, LOST, 5) == fault
    gone = see(faults, WELL, 10, gone=("c",))
    assert gone is None
    assert faults.of("c") is not None


def test_a_probe_that_finds_the_gpu_clean_ends_the_quarantine_and_the_next_one_is_longer() -> None:
    faults = Faults()
    see(faults, device(xids=(79,)), 0)
    assert not faults.probe_due(PROBE_SECONDS - 1)
    assert see(faults, device(), PROBE_SECONDS) is not None  # in the old session it says nothing
    assert faults.probe_due(PROBE_SECONDS)
    assert see(faults, device(), PROBE_SECONDS, fresh=True) is None
    see(faults, device(xids=(79,)), 1_000)
    assert not faults.probe_due(1_000 + 2 * PROBE_SECONDS - 1)
    assert faults.probe_due(1_000 + 2 * PROBE_SECONDS)


@pytest.mark.parametrize(
    "ill",
    [LOST, device(ecc_uncorrected=1), device(remap_pending=True), device(remap_failed=True)],
    ids=["lost", "errors", "remap pending", "remap failed"],
)
def test_a_probe_that_finds_the_gpu_ill_is_tried_again_later(ill: Device) -> None:
    faults = Faults()
    see(faults, device(xids=(48,), ecc_uncorrected=1))
    still = see(faults, ill, PROBE_SECONDS, fresh=True)
    assert still is not None
    assert not faults.probe_due(2 * PROBE_SECONDS - 1)
    assert faults.probe_due(2 * PROBE_SECONDS)
    assert see(faults, device(ecc_uncorrected=0), 2 * PROBE_SECONDS, fresh=True) is None


def test_an_admin_pardons_the_fault_that_was_seen_and_no_later_one() -> None:
    faults = Faults()
    first = see(faults, device(remap_failed=True))
    assert first is not None
    second = see(faults, device(remap_failed=True, xids=(79,)))
    assert second is not None
    faults.pardon("a", first.number)
    assert faults.of("a") == second
    faults.pardon("a", second.number)
    assert faults.of("a") is None
    faults = Faults()
    first = see(faults, device(remap_failed=True))
    assert first is not None
    faults.pardon("a", first.number)
    assert see(faults, device(remap_failed=True), 5) is None  # what lasts was pardoned with it


def test_the_next_agent_of_this_boot_goes_on_where_this_one_ended() -> None:
    faults = Faults()
    fault = see(faults, device(xids=(79,), ecc_uncorrected=4))
    heir = Faults(faults.kept())
    assert see(heir, device(ecc_uncorrected=4), 5) == fault
    later = see(heir, device("c", xids=(79,)), 5)
    assert later is not None
    assert fault is not None
    assert later.number > fault.number
