"""What a job made of its GPUs, in a line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from gpuq.cli.terminal import seconds_of
from gpuq.units import format_duration, format_size, plural

_BARS, _DIGITS = " ▁▂▃▄▅▆▇█", " 12345678"


def curve(attempt: Mapping[str, Any]) -> str:
    """How busy its GPUs were over its time, in a line of bars, and how much of it a bar is; '' if it was not watched.

    Of several nodes the first.
    """
    curves = (attempt.get("gpu_usage") or {}).get("curves")
    if not curves or not curves[0]["busy_percent"]:
        return ""
    marks = _BARS if (sys.stdout.encoding or "").lower().startswith("utf") else _DIGITS
    bars = "".join(marks[round(percent / 100 * 8)] for percent in curves[0]["busy_percent"])
    return f"|{bars}| each {format_duration(curves[0]['point_seconds'])}"


def receipt(job: Mapping[str, Any], attempt: Mapping[str, Any]) -> str:
    """'2 GPUs for 3h, 5.98 GPU-hours: 87 % busy, idle 4m, at most 61G of 80G memory'; '' of an attempt without GPUs.

    Memory is held against what the job asked for, if it did. What nobody saw is not spoken of.
    """
    usage = attempt.get("gpu_usage")
    if not usage:
        return ""
    text = f"{usage['gpus']} {plural(usage['gpus'], 'GPU')}"
    if attempt["started_at"] and attempt["ended_at"]:
        text += f" for {format_duration(seconds_of(attempt['ended_at']) - seconds_of(attempt['started_at']))}"
    text += f", {usage['gpu_hours']:.3g} GPU-hours"
    parts = []
    if usage["utilization_percent"] is not None:
        parts.append(f"{usage['utilization_percent']:.0f} % busy")
    if usage["idle_seconds"]:
        parts.append(f"idle {format_duration(usage['idle_seconds'])}")
    if usage["memory_peak_bytes"] is not None:
        asked = job["request"]["gpu_memory_bytes"]
        against = f" of the {format_size(asked)} asked for" if asked else ""
        parts.append(f"at most {format_size(usage['memory_peak_bytes'])} memory{against}")
    if usage["energy_joules"]:
        parts.append(f"{usage['energy_joules'] / 3.6e6:.2g} kWh")
    if not parts:
        return text + (": too short to be watched" if attempt["ended_at"] else "")
    return f"{text}: {', '.join(parts)}"
