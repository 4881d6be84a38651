"""Machines where libnvidia-ml.so.1 is not to be had: nvidia-smi's CSV, or no GPUs at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import nvidia_smi
from agent.driver_child import SMI_SECONDS
from agent.gpus import RealGpus, Remembered
from agent.nvml import DriverFailing
from agent.selection import ALL
from gpuq.node import Gpu, GpuHealth

try:
    import ctypes

    ctypes.CDLL("libnvidia-ml.so.1")
except OSError:
    pass
else:
    pytest.skip("this machine has the driver's library", allow_module_level=True)

H100 = "GPU-1, NVIDIA H100 80GB HBM3, 81559, 1024, 55, 61, 345.10, 550.54.15, 1755, 2619, 3, 0"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an nvidia-smi would lie; there is none yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def says(tool: Path, text: str, status: int = 0) -> None:
    tool.with_suffix(".csv").write_text(text + "\n")
    draft = tool.with_suffix(".draft")
    draft.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done <"$0.csv"\nexit {status}\n')
    draft.chmod(0o755)
    draft.replace(tool)


def test_machine_without_library_and_tool_has_no_gpus(tool: Path) -> None:
    source = RealGpus(ALL)
    reading = source.read(0, {})
    source.close()
    assert not tool.exists()
    assert reading.gpus == ()
    assert reading.note == "no NVIDIA driver: libnvidia-ml.so.1 is not installed"


def test_gpus_known_before_are_unknown_when_the_library_is_gone(tool: Path) -> None:
    source = RealGpus(ALL, Remembered(known=(Gpu(0, "GPU-1", "x", 1),)))
    reading = source.read(0, {})
    source.close()
    assert not tool.exists()
    assert [g.health for g in reading.gpus] == [GpuHealth.UNKNOWN]


def test_tool_is_asked_where_the_library_is_missing_but_rarely(tool: Path) -> None:
    says(tool, f"0, {H100}")
    source = RealGpus(ALL)
    reading = source.read(0, {})
    assert reading.gpus == (Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 81559 << 20),)
    assert reading.driver_version == "550.54.15"
    sample = reading.samples[0]
    assert (sample.memory_used_bytes, sample.utilization_percent) == (1 << 30, 55)
    assert (sample.temperature_c, sample.power_w) == (61, 345.1)
    assert (sample.clock_mhz, sample.memory_clock_mhz) == (1755, 2619)
    assert (sample.ecc_corrected, sample.ecc_uncorrected) == (3, 0)
    says(tool, "NVIDIA-SMI has failed because it could not communicate with the driver.", status=9)
    assert source.read(SMI_SECONDS - 1, {}) == reading
    failing = source.read(SMI_SECONDS, {})
    assert [g.health for g in failing.gpus] == [GpuHealth.UNKNOWN]
    assert failing.note.startswith("nvidia-smi ended with 9 and said: NVIDIA-SMI has failed")
    says(tool, f"0, {H100}")
    assert source.read(2 * SMI_SECONDS, {}).gpus == reading.gpus
    source.close()


def test_fields_the_tool_does_not_know_are_none() -> None:
    row = "0, GPU-1, Orin, [N/A], [Not Supported], [N/A], ERR!, [Unknown Error], 540.2" + ", [N/A]" * 4
    (device,) = nvidia_smi.parse(row).devices
    assert device.failure == ""
    assert (device.memory_total_bytes, device.sample.memory_used_bytes) == (None, None)
    assert (device.sample.utilization_percent, device.sample.temperature_c) == (None, None)
    assert device.sample.power_w is None


def test_device_the_tool_calls_lost_is_failing_alone() -> None:
    lost = ", ".join(["1", *["[GPU is lost]"] * 7, "550.54.15", *["[GPU is lost]"] * 4])
    well, failing = nvidia_smi.parse(f"0, {H100}\n{lost}\n").devices
    assert (well.failure, failing.failure) == ("", "nvidia-smi: GPU is lost")
    assert failing.uuid is None


@pytest.mark.parametrize("text", ["No devices were found", "0, GPU-1, H100", "x, " + H100])
def test_lines_in_another_form_are_a_failing_driver(text: str) -> None:
    with pytest.raises(DriverFailing, match="form gpuq does not know"):
        nvidia_smi.parse(text)
