"""The same reading from nvidia-smi's CSV, for machines where the driver's library cannot be loaded into Python.

That happens with a static or foreign-libc Python and in containers that carry only the tool. A run of it costs about
a hundred times what a call of the library does, so agent/gpus.py asks rarely.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess

from agent.nvml import Device, DriverAbsent, DriverFailing, DriverReading
from gpuq.node import GpuSample

_FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "ecc.errors.corrected.volatile.total",
    "ecc.errors.uncorrected.volatile.total",
)
_MIB = 1 << 20  # nvidia-smi's unit of memory
# Longer than the deadline of agent/gpus.py: the reading is given up there first, this ends the process afterwards.
_TIMEOUT_SECONDS = 30.0
# What stands in a field instead of a value when the device, not the field, is the trouble.
_LOST = ("[GPU is lost]", "[GPU requires reset]", "[Reset Required]")


def read() -> DriverReading:
    """Every device nvidia-smi lists. Raises DriverAbsent where it is not installed, DriverFailing when it fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise DriverAbsent("nvidia-smi is not installed")
    command = [tool, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DriverFailing(f"nvidia-smi did not end within {_TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise DriverFailing(f"nvidia-smi cannot be run: {error.strerror}") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        said = (output + done.stderr.decode(errors="replace")).strip() or "nothing"
        raise DriverFailing(f"nvidia-smi ended with {done.returncode} and said: {said.splitlines()[0]}")
    return parse(output)


def parse(output: str) -> DriverReading:
    """The reading in nvidia-smi's lines; raises DriverFailing when they are not what was asked for."""
    rows = [[field.strip() for field in row] for row in csv.reader(output.splitlines()) if row]
    if any(len(row) != len(_FIELDS) or not row[0].isdigit() for row in rows):
        raise DriverFailing("nvidia-smi answered in a form gpuq does not know")
    versions = [row[8] for row in rows if row[8][:1].isdigit()]
    return DriverReading(versions[0] if versions else None, tuple([_device(row) for row in rows]))


def _device(row: list[str]) -> Device:
    index, total, used = int(row[0]), _whole(row[3]), _whole(row[4])
    clock, memory_clock, corrected, uncorrected = (_whole(field) for field in row[9:13])
    lost = next((field.strip("[]") for field in row if field in _LOST), "")
    return Device(
        index,
        row[1] if row[1].startswith("GPU-") else None,
        "unknown GPU" if row[2].startswith("[") else row[2],
        None if total is None else total * _MIB,
        GpuSample(
            index,
            memory_used_bytes=None if used is None else used * _MIB,
            utilization_percent=_whole(row[5]),
            temperature_c=_whole(row[6]),
            power_w=_number(row[7]),
            clock_mhz=clock,
            memory_clock_mhz=memory_clock,
            ecc_corrected=corrected,
            ecc_uncorrected=uncorrected,
        ),
        f"nvidia-smi: {lost}" if lost else "",
        lost=bool(lost),
    )


def _whole(text: str) -> int | None:
    number = _number(text)
    return None if number is None else int(number)


def _number(text: str) -> float | None:
    """None for [N/A], [Not Supported], ERR! and whatever else is no number."""
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else None
