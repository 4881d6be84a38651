"""How a job ended, as an exit status and as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuq.cli.terminal import local_time, visible

OWN_TROUBLE = 125  # of run and wait, when gpuq and not the job failed; the shell keeps 126 and up for itself
# The signals jobs really end by; others are shown by number. (Importing signal for the names costs an enum of 64.)
_SIGNALS = {1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 11: "SEGV", 15: "TERM"}


def exit_status(job: Mapping[str, Any]) -> int:
    """The job's own exit code, or 128 + signal; 1 for a job that has neither or was canceled."""
    if job["state"] == "SUCCEEDED":
        return 0
    if job["state"] == "CANCELED":
        return 1
    if job["signal"] is not None:
        return 128 + int(job["signal"])
    return int(job["exit_code"] or 1)


def how_it_ended(job: Mapping[str, Any]) -> str:
    """'exit code 3', 'signal 9 (KILL)', 'reached its time limit', ...; '' for success without more to say.

    Of an array, how far its elements are.
    """
    cause = job["cause"]
    elements = job.get("elements") or job.get("array")
    if elements and cause is None:
        return progress(elements)
    if cause is not None and cause["code"] not in ("exit_code", "signal"):
        return visible(cause["text"] or cause["code"])
    if job["signal"] is not None:
        name = _SIGNALS.get(job["signal"])
        return f"signal {job['signal']}" + (f" ({name})" if name else "")
    if job["exit_code"]:
        return f"exit code {job['exit_code']}"
    return visible(cause["text"]) if cause is not None else ""


def reason_text(reason: Mapping[str, str]) -> str:
    """Why a job waits, as the controller says it; a time in this machine's zone, as everywhere in tables."""
    if reason["code"] == "begin":
        return f"begins {local_time(reason['text'].removeprefix('begins '))}"
    return visible(reason["text"])


def progress(elements: Mapping[str, Any]) -> str:
    """Of an array's elements: '12 of 100 done, 1 failed, 8 running, 80 queued'."""
    counts = elements["counts"]
    done = sum(counts.get(state, 0) for state in ("SUCCEEDED", "FAILED", "CANCELED"))
    parts = [f"{done} of {elements['size']} done"]
    parts += [f"{n} {state.lower()}" for state, n in counts.items() if n and state != "SUCCEEDED"]
    return ", ".join(parts)


def sentence(job: Mapping[str, Any]) -> str:
    how = how_it_ended(job)
    return f"job {job['id']} {job['state']}" + (f": {how}" if how else "")
