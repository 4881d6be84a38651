"""What is said of how a job used its GPUs, at the end of run and in show."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Gpuq
from tests.cli.fake_api import FakeApi, ended

USAGE: dict[str, Any] = {
    "gpus": 2,
    "gpu_hours": 5.98,
    "observed_seconds": 10_700.0,
    "idle_seconds": 240.0,
    "utilization_percent": 87.4,
    "memory_peak_bytes": 61 << 30,
    "energy_joules": 14_000_000,
    "curves": [{"node": "n1", "point_seconds": 320.0, "busy_percent": [0, 50, 100], "memory_mib": [0, 1, 2]}],
}
UNSEEN = USAGE | {
    "gpu_hours": 0.0012,
    **dict.fromkeys(("observed_seconds", "idle_seconds", "utilization_percent", "memory_peak_bytes", "energy_joules")),
    "curves": [],
}
SAID = "2 GPUs for 02:59:30, 5.98 GPU-hours: 87 % busy, idle 00:04:00, at most 61G memory of the 24G asked for, 3.9 kWh"


def attempt(usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "number": 1,
        "uid": "u1",
        "nodes": [{"node": "n1", "gpus": [0, 1]}],
        "granted_at": "2026-11-21T05:00:00.000Z",
        "started_at": "2026-11-21T05:00:10.000Z",
        "ended_at": "2026-11-21T07:59:40.000Z",
        "exit_code": 0,
        "signal": None,
        "cause": None,
        "log_bytes": 0,
        "gpu_usage": usage,
    }


def a_job(usage: dict[str, Any] | None) -> dict[str, Any]:
    done = ended("SUCCEEDED", exit_code=0, attempts=[attempt(usage)])
    done["request"]["gpu_memory_bytes"] = 24 << 30
    return done


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        (USAGE, f"gpuq: job 1042 had {SAID}\n"),
        (UNSEEN, "gpuq: job 1042 had 2 GPUs for 02:59:30, 0.0012 GPU-hours: too short to be watched\n"),
        (None, ""),
    ],
)
def test_run_ends_with_a_line_on_how_the_gpus_were_used(
    api: FakeApi, gpuq: Gpuq, usage: dict[str, Any] | None, said: str
) -> None:
    api.on("POST", "/jobs", (201, {"id": "1042", "elements": None}))
    api.on("GET", "/jobs/1042", a_job(usage) | {"attempt": 0})
    result = gpuq("run", "-G", "2", "true")
    assert (result.status, result.out) == (0, "")
    assert result.err == "gpuq: submitted job 1042\n" + said


def test_show_has_the_same_and_a_curve_of_it(api: FakeApi, gpuq: Gpuq) -> None:
    api.on("GET", "/jobs/1042", a_job(USAGE))
    shown = gpuq("show", "1042").out
    assert f"GPUs        {SAID}\n" in shown
    assert any(f"Busy        |{bars}| each 00:05:20\n" in shown for bars in (" ▄█", " 48"))
    api.on("GET", "/jobs/1042", a_job(None))
    assert "Busy" not in gpuq("show", "1042").out
