"""Real readings through pynvml and ctypes, from a library of our own that stands in for the driver's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.driver import Driver
from agent.faults import PROBE_SECONDS
from agent.gpus import RealGpus
from agent.nvml import REPROBE_SECONDS, DriverFailing
from agent.selection import ALL
from gpuq.node import Gpu, GpuHealth
from tests.agent.fake_nvml.machine import Machine, build_library, gpu

GIB = 1 << 30
IMPATIENT_SECONDS = 0.5  # where the driver is to hang
SILENT = f"the NVIDIA driver did not answer within {IMPATIENT_SECONDS:g} s"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Iterator[Machine]:
    with Machine(library, tmp_path) as machine:
        yield machine


@pytest.fixture
def impatient(library: Path, tmp_path: Path) -> Iterator[Machine]:
    with Machine(library, tmp_path, deadline=IMPATIENT_SECONDS) as machine:
        yield machine


def health(reading: dict[str, Any]) -> list[str]:
    return [g["health"] for g in reading["gpus"]]


def texts(reading: dict[str, Any]) -> list[str]:
    return [g["health_text"] for g in reading["gpus"]]


def read_until_known(machine: Machine) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        reading = machine.read()
        if (reading["gpus"] and "unknown" not in health(reading)) or time.monotonic() > deadline:
            return reading
        time.sleep(0.02)


def test_a_number_that_cannot_be_is_not_known_and_costs_nobody_a_gpu(machine: Machine) -> None:
    none = (1 << 64) - 1
    machine.has([gpu(0), gpu(1, total=none, used=none, reserved=0, ecc_u=none, pids=f"7:{GIB},7:{none}"), gpu(2)])
    reading = machine.read()
    sample = reading["samples"][1]
    assert health(reading) == ["ok"] * 3
    assert (reading["gpus"][1]["memory_total_bytes"], sample["memory_used_bytes"], sample["ecc_uncorrected"]) == (
        None,
        None,
        None,
    )
    assert [(p["pid"], p["memory_used_bytes"]) for p in sample["processes"]] == [(7, GIB), (7, None)]


def test_an_answer_that_cannot_be_is_a_driver_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child"
    child.write_text("""#!/bin/sh\nread asked\necho '{"reading": {"devices": 7}}' >&0\nread asked\n""")
    child.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(child))
    driver = Driver()
    try:
        with pytest.raises(DriverFailing, match="says what cannot be"):
            driver.read(0.0, 10.0)
    finally:
        driver.close()


def test_inventory_and_sample_come_as_the_driver_tells_them(machine: Machine) -> None:
    reading = machine.read()
    assert reading["driver_version"] == "550.54.15"
    assert (reading["note"], reading["renumbered"]) == ("", False)
    assert [g["index"] for g in reading["gpus"]] == [0, 1, 2]
    assert reading["gpus"][1] == {
        "index": 1,
        "uuid": "GPU-00000001",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 80 * GIB,
        "health": "ok",
        "health_text": "",
        "foreign": None,
        "fault": 0,
        "pardoned": 0,
        "distances": "",
    }
    assert reading["samples"][1] == {
        "index": 1,
        "memory_used_bytes": GIB,  # without what the driver keeps for itself
        "utilization_percent": 41,
        "temperature_c": 51,
        "power_w": 300.5,
        "clock_mhz": 1_755,
        "memory_clock_mhz": 2_619,
        "throttled": [],
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "rows_remapped": 0,
        "remap_pending": False,
        "remap_failed": False,
        "xid": None,
        "processes": [],
    }


def test_index_order_is_pci_bus_order(machine: Machine) -> None:
    machine.read()
    told = machine.more()
    assert told["buses"] == sorted(told["buses"])


def test_samples_follow_the_machine_while_it_runs(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0, util=97, used=70 * GIB, pids="41,42"), gpu(1), gpu(2)])
    sample = machine.read()["samples"][0]
    assert (sample["utilization_percent"], sample["memory_used_bytes"]) == (97, 70 * GIB)
    assert machine.more()["pids"] == [[41, 42], [], []]


def test_unsupported_fields_are_none_and_zero_stays_zero(machine: Machine) -> None:
    told = ("util", "temp", "power", "total", "sm", "mem", "throttle", "ecc_c", "ecc_u", "remap", "pids", "drawing")
    machine.has([gpu(0, **dict.fromkeys(told)), gpu(1, util=0, used=0, power=0)])
    reading = machine.read()
    assert health(reading) == ["ok", "ok"]
    assert reading["gpus"][0]["memory_total_bytes"] is None
    assert {k: v for k, v in reading["samples"][0].items() if v is not None} == {"index": 0, "processes": []}
    assert reading["samples"][1]["utilization_percent"] == 0
    assert reading["samples"][1]["power_w"] == 0.0


def test_one_field_in_error_is_unknown_and_does_not_condemn_the_device(machine: Machine) -> None:
    machine.has([gpu(0, power="!999"), gpu(1)])
    reading = machine.read()
    assert health(reading) == ["ok", "ok"]
    assert reading["samples"][0]["power_w"] is None


def test_one_lost_device_is_quarantined_alone_and_keeps_its_facts(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0), gpu(1, fail=15), gpu(2)])
    reading = machine.read()
    assert health(reading) == ["ok", "quarantined", "ok"]
    assert texts(reading)[1] == "NVML: GPU is lost"
    assert reading["gpus"][1]["uuid"] == "GPU-00000001"
    assert reading["gpus"][1]["memory_total_bytes"] == 80 * GIB
    assert reading["samples"][1]["memory_used_bytes"] is None
    assert reading["samples"][2]["utilization_percent"] == 42
    assert reading["note"] == ""


def test_device_lost_before_it_was_ever_read_is_quarantined_without_facts(machine: Machine) -> None:
    machine.has([gpu(0), gpu(1, fail=16)])
    reading = machine.read()
    assert health(reading) == ["ok", "quarantined"]
    assert (reading["gpus"][1]["uuid"], reading["gpus"][1]["name"]) == ("", "unknown GPU")
    machine.has([gpu(0), gpu(1)])
    assert [g["uuid"] for g in machine.read()["gpus"]] == ["GPU-00000000", "GPU-00000001"]


def test_lost_device_that_came_back_is_seen_by_the_next_session(machine: Machine) -> None:
    machine.read(now=0)
    machine.has([gpu(0), gpu(1, fail=15), gpu(2)])
    assert health(machine.read(now=5)) == ["ok", "quarantined", "ok"]
    machine.has([gpu(0), gpu(1), gpu(2)])
    assert health(machine.read(now=10)) == ["ok", "quarantined", "ok"]  # as the driver still says in this session
    assert health(machine.read(now=5 + REPROBE_SECONDS)) == [
        "ok",
        "quarantined",
        "ok",
    ]  # it answers; once lost, it is watched
    assert health(machine.read(now=5 + PROBE_SECONDS)) == ["ok", "ok", "ok"]


def test_device_the_driver_no_longer_lists_keeps_its_index_and_moves_no_other(machine: Machine) -> None:
    machine.read(now=0)
    machine.has([gpu(0), gpu(1, fail=15), gpu(2)])
    machine.read(now=0)
    machine.has([gpu(0), gpu(2)])
    reading = machine.read(now=REPROBE_SECONDS)
    assert [(g["index"], g["uuid"], g["health"]) for g in reading["gpus"]] == [
        (0, "GPU-00000000", "ok"),
        (1, "GPU-00000001", "quarantined"),
        (2, "GPU-00000002", "ok"),
    ]
    assert reading["renumbered"]
    assert [s["index"] for s in reading["samples"]] == [0, 1, 2]
    assert reading["samples"][2]["utilization_percent"] == 42


def test_no_readable_device_means_unknown_not_quarantined(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(i, fail=15) for i in range(3)])
    reading = machine.read()
    assert health(reading) == ["unknown"] * 3
    assert reading["note"] == "NVML: GPU is lost"


def test_driver_mismatch_makes_all_unknown_until_it_is_mended(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0), gpu(1), gpu(2)], also="fail 18")
    reading = machine.read()
    assert health(reading) == ["unknown"] * 3
    assert "mismatch" in reading["note"]
    assert texts(reading) == [reading["note"]] * 3
    assert reading["samples"][0]["utilization_percent"] is None
    machine.has([gpu(0), gpu(1), gpu(2)], driver="560.1")
    reading = machine.read()
    assert health(reading) == ["ok"] * 3
    assert reading["driver_version"] == "560.1"


def test_driver_not_loaded_from_the_start_offers_nothing_and_says_why(machine: Machine) -> None:
    machine.has([], also="fail 9")
    reading = machine.read()
    assert (reading["gpus"], reading["note"]) == ([], "NVML: Driver Not Loaded")


def test_driver_without_devices_says_so(machine: Machine) -> None:
    machine.has([])
    reading = machine.read()
    assert (reading["gpus"], reading["note"]) == ([], "the NVIDIA driver lists no GPUs")


def test_gpus_known_from_before_the_agents_start_are_unknown_while_the_driver_fails(
    library: Path, tmp_path: Path
) -> None:
    known = [Gpu(0, "GPU-00000000", "NVIDIA H100 80GB HBM3", 80 * GIB)]
    with Machine(library, tmp_path, known=known) as machine:
        machine.has([], also="fail 9")
        reading = machine.read()
        assert health(reading) == ["unknown"]
        assert reading["gpus"][0]["uuid"] == "GPU-00000000"
        machine.has([gpu(0)])
        assert health(machine.read()) == ["ok"]


def test_hanging_driver_is_unknown_within_the_deadline_without_piling_up_processes_and_recovers(
    impatient: Machine,
) -> None:
    machine = impatient
    read_until_known(machine)
    machine.has([gpu(0), gpu(1), gpu(2)], also="hang")
    for _ in range(5):
        reading = machine.read()
        assert health(reading) == ["unknown"] * 3
        assert texts(reading) == [SILENT] * 3
        assert len(reading["children"]) == 1
    machine.has([gpu(0, util=7), gpu(1), gpu(2)])
    reading = read_until_known(machine)
    assert health(reading) == ["ok"] * 3
    assert reading["samples"][0]["utilization_percent"] == 7


def test_driver_that_hangs_while_it_is_opened_is_read_once_it_answers(impatient: Machine) -> None:
    machine = impatient
    machine.has([gpu(0)], also="hang")
    reading = machine.read()
    assert (reading["gpus"], reading["note"]) == ([], SILENT)
    machine.has([gpu(0)])
    deadline = time.monotonic() + 20
    while not (reading := machine.read())["gpus"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert health(reading) == ["ok"]


def test_reader_with_a_hanging_driver_still_ends(library: Path, tmp_path: Path) -> None:
    with Machine(library, tmp_path, deadline=IMPATIENT_SECONDS) as machine:
        machine.has([gpu(0)], also="hang")
        machine.read()
        said, _ = machine.process.communicate(timeout=20)
        assert machine.process.returncode == 0
        assert '"children": []' in said
        machine.ended = True


def test_selection_limits_the_offer_and_keeps_indices(library: Path, tmp_path: Path) -> None:
    with Machine(library, tmp_path, selection="1,GPU-00000002,7") as machine:
        reading = machine.read()
    assert [g["index"] for g in reading["gpus"]] == [1, 2]
    assert [s["utilization_percent"] for s in reading["samples"]] == [41, 42]
    assert reading["note"] == "--gpus names 7, which this machine does not have"


def test_broken_library_is_a_failing_driver_not_a_machine_without_gpus(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    with Machine(tmp_path, tmp_path, known=[Gpu(0, "GPU-a", "x", None)]) as machine:
        reading = machine.read()
    assert health(reading) == ["unknown"]
    assert reading["note"].startswith("libnvidia-ml.so.1 cannot be loaded:")


def test_a_fatal_xid_quarantines_that_gpu_alone_and_names_who_is_ended(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0), gpu(1), gpu(2)], also="xid 1|GPU-00000001|79")
    reading = machine.read(now=5)
    assert health(reading) == ["ok", "quarantined", "ok"]
    assert texts(reading)[1] == "Xid 79: the GPU has fallen off the bus"
    assert reading["fatal"] == {"1": "Xid 79: the GPU has fallen off the bus"}
    assert reading["samples"][1]["xid"] == 79
    assert reading["gpus"][1]["fault"] == 1
    assert health(machine.read(now=4 + PROBE_SECONDS)) == ["ok", "quarantined", "ok"]
    assert health(machine.read(now=5 + PROBE_SECONDS)) == ["ok", "ok", "ok"]


def test_an_xid_of_the_application_is_told_and_no_fault(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0), gpu(1), gpu(2)], also="xid 1|GPU-00000000|31")
    reading = machine.read()
    assert (health(reading), reading["samples"][0]["xid"]) == (["ok"] * 3, 31)


def test_uncorrectable_memory_errors_and_what_slows_a_gpu_are_read(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0, ecc_u=1, ecc_c=9, remap="1,2,1,0", throttle=0x48), gpu(1), gpu(2)])
    reading = machine.read()
    sample = reading["samples"][0]
    assert (sample["ecc_corrected"], sample["ecc_uncorrected"], sample["rows_remapped"]) == (9, 1, 3)
    assert (sample["remap_pending"], sample["remap_failed"]) == (True, False)
    assert sample["throttled"] == ["hardware slowdown", "heat (hardware)"]
    assert texts(reading)[0] == "1 uncorrectable memory error"
    assert reading["fatal"] == {"0": "1 uncorrectable memory error"}


def test_an_admin_brings_a_gpu_back_and_the_next_agent_knows_of_it(library: Path, tmp_path: Path) -> None:
    with Machine(library, tmp_path) as machine:
        machine.read()
        machine.has([gpu(0), gpu(1), gpu(2)], also="xid 1|GPU-00000001|79")
        assert health(machine.read()) == ["ok", "quarantined", "ok"]
        remembered = machine.remembered()
    with Machine(library, tmp_path, known=remembered.known, faults=remembered.faults) as machine:
        assert health(machine.read()) == ["ok", "quarantined", "ok"]
        machine.pardon("GPU-00000001", 7)  # no fault it ever had
        assert health(machine.read()) == ["ok", "quarantined", "ok"]
        machine.pardon("GPU-00000001", 1)
        assert health(machine.read()) == ["ok", "ok", "ok"]


def test_a_gpu_missing_since_the_machine_restarted_is_shown_until_an_admin_says_so(
    library: Path, tmp_path: Path
) -> None:
    before = [Gpu(i, f"GPU-0000000{i}", "NVIDIA H100 80GB HBM3", 80 * GIB) for i in range(4)]
    with Machine(library, tmp_path, before=before) as machine:
        reading = machine.read()
        assert health(reading) == ["ok", "ok", "ok", "quarantined"]
        assert texts(reading)[3] == "it was here before the machine restarted, as GPU 3"
        assert reading["fatal"] == {}
        assert health(machine.read()) == health(reading)
        machine.pardon("GPU-00000003", 1)
        assert health(machine.read()) == ["ok", "ok", "ok"]


def test_a_crash_in_the_library_is_the_drivers_trouble_and_not_the_agents(machine: Machine) -> None:
    machine.read()
    machine.has([gpu(0), gpu(1), gpu(2)], also="crash")
    reading = machine.read()
    assert health(reading) == ["unknown"] * 3
    assert reading["note"] == "the process that asks the NVIDIA driver died (signal 6)"
    assert reading["children"] == []
    machine.has([gpu(0), gpu(1), gpu(2)])
    assert health(machine.read()) == ["unknown"] * 3  # it is not started again at once


@pytest.mark.gpu
def test_real_gpus_read_as_nvidia_smi_says() -> None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        pytest.skip("no nvidia-smi: this machine has no NVIDIA GPU")
    query = [tool, "--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    asked = subprocess.run(query, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        pytest.skip(f"nvidia-smi fails: {asked.stdout.strip()}")
    source = RealGpus(ALL, deadline_seconds=60)
    reading = source.read(0, {})
    source.close()
    told = [
        f"{g.index}, {g.uuid}, {g.name}, {(g.memory_total_bytes or 0) >> 20}, {reading.driver_version}"
        for g in reading.gpus
    ]
    assert told == asked.stdout.splitlines()
    assert all(g.health is GpuHealth.OK for g in reading.gpus)
    for sample in reading.samples:
        assert sample.utilization_percent is None or 0 <= sample.utilization_percent <= 100
        assert sample.temperature_c is None or 0 < sample.temperature_c < 120


def apart(machine: Machine, *gpus: dict[str, Any]) -> list[str]:
    machine.has([gpu(i, **told) for i, told in enumerate(gpus)])
    return [g["distances"] for g in read_until_known(machine)["gpus"]]


def test_how_close_gpus_are_is_told_where_it_differs(machine: Machine) -> None:
    board = [{"numa": 0, "switch": 1}, {"numa": 0, "switch": 1}, {"numa": 0, "switch": 2}, {"numa": 1, "switch": 3}]
    assert apart(machine, *board) == ["0367", "3067", "6607", "7770"]


@pytest.mark.parametrize(
    ("numa", "links", "rows"),
    [
        ([0, 0, 1, 1], ["1", "0", "3", "2"], ["0177", "1077", "7701", "7710"]),
        ([0, 1, 2, 2], ["switch", "switch", "", ""], ["0177", "1077", "7706", "7760"]),
    ],
)
def test_an_nvlink_is_closer_than_anything_else(
    machine: Machine, numa: list[int], links: list[str], rows: list[str]
) -> None:
    assert apart(machine, *({"numa": at, "links": to} for at, to in zip(numa, links, strict=True))) == rows


@pytest.mark.parametrize("told", [{"numa": 0}, {"numa": 0, "links": "switch"}, {}])
def test_where_all_are_as_close_or_the_driver_is_silent_nothing_is_told(machine: Machine, told: dict[str, Any]) -> None:
    assert apart(machine, told, told, told) == ["", "", ""]
