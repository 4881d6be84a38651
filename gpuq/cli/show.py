"""gpuq show: everything about one job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import how_it_ended, reason_text
from gpuq.cli.params import JSON
from gpuq.cli.receipt import curve, receipt
from gpuq.cli.selection import one_id
from gpuq.cli.table import table
from gpuq.cli.terminal import local_time, now_seconds, say, say_json, seconds_of, stdout_width, table_time, visible
from gpuq.errors import InvalidRequest
from gpuq.units import format_duration, format_signal, format_size, format_time, plural

RANK_HEADER = ("RANK", "NODE", "HOW")
ATTEMPT_HEADER = ("ATTEMPT", "NODES", "GRANTED", "STARTED", "ENDED", "HOW", "LOG")


@command(name="show")
@click.argument("job", metavar="JOB")
@click.option("--script", is_flag=True, help="Print the script it was submitted with, and nothing else.")
@JSON
@connection
def show(job: str, script: bool, as_json: bool) -> None:
    """Show everything about a job: what it asked for, where it stands, and each time it ran."""
    job = one_id(job)
    client = connect()
    if script:
        if as_json:
            raise InvalidRequest("--script prints a script, not JSON", "give one of the two")
        sys.stdout.flush()
        sys.stdout.buffer.write(client.raw(f"/jobs/{job}/script").body)
        sys.stdout.buffer.flush()
        return
    found = client.get(f"/jobs/{job}")
    if as_json:
        say_json(found)
        return
    for name, value in _lines(found):
        say(f"{name:<11} {value}")
    if found["attempts"]:
        rows = [_attempt_cells(attempt) for attempt in found["attempts"]]
        say("\n" + table(ATTEMPT_HEADER, rows, stdout_width(), cut="NODES", right=("ATTEMPT",)))
        ranks = found["attempts"][-1].get("ranks", ())
        if len(ranks) > 1:
            rows = [(str(number), rank["node"], _rank_end(rank)) for number, rank in enumerate(ranks)]
            say("\n" + table(RANK_HEADER, rows, stdout_width(), cut="NODE", right=("RANK",)))


def _lines(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Job", f"{job['id']}  {visible(job['name'])}"
    yield "State", job["state"]
    if job["reason"]:
        yield "Reason", reason_text(job["reason"])
    if job["held_by"]:
        yield "Held by", visible(job["held_by"])
    if not job["array"] and (how := how_it_ended(job)):
        yield "Ended", how
    if job["array"]:
        yield "Array", _array(job["array"])
    yield "User", visible(job["user"])
    yield "Queue", f"{job['queue']}, priority {job['priority']}"
    yield "Command", _command(job)
    if job["cwd"] is not None:
        yield "Folder", visible(job["cwd"])
    for name, file in (("Output", job.get("output")), ("Errors", job.get("error"))):
        if file is not None:
            yield name, f"{visible(file)}, on its node"
    yield "Asks for", _request(job["request"])
    if job["nodes"]:
        yield "Ran on" if job["finished_at"] else "Runs on", _places(job["nodes"])
    for over in job.get("overuse", ()):
        yield "GPU memory", _overuse(over)
    if said := ", ".join(_limits(job)):
        yield "Limits", said
    yield "Submitted", local_time(job["submitted_at"])
    if job["begin_at"]:
        yield "Not before", local_time(_rfc3339(job["begin_at"]))
    if job["started_at"]:
        yield "Started", local_time(job["started_at"])
        if job["finished_at"] or job["state"] not in ("QUEUED", "SUCCEEDED", "FAILED", "CANCELED"):
            end = seconds_of(job["finished_at"]) if job["finished_at"] else now_seconds()
            yield "Run time", format_duration(end - seconds_of(job["started_at"]))
    if job["finished_at"]:
        yield "Finished", local_time(job["finished_at"])
    if job["time_limit_seconds"] is not None:
        yield "Time limit", format_duration(job["time_limit_seconds"])
    if warning := job.get("warning"):
        whom = "its first process" if warning["main_only"] else "the job"
        yield "Signal", f"{format_signal(warning['number'])} to {whom} {warning['seconds']} s before the time limit"
    if job["dependencies"]:
        yield "After", ",".join(f"{d['kind']}:{d['job']}" for d in job["dependencies"])
    yield (
        "Retries",
        f"{job['retries_used']} of {job['max_retries']} for its own failures,"
        f" {job['losses_used']} for lost nodes and preemptions",
    )
    then = "runs again elsewhere" if job["requeue"] else "fails"
    yield "Node lost", f"{job['on_lost']}; on proof of the node's end the job {then}"
    for attempt in job["attempts"][-1:]:
        if said := receipt(job, attempt):
            yield "GPUs", said
        if drawn := curve(attempt):
            yield "Busy", drawn
    if job["log_bytes"] is not None:
        yield "Log", format_size(job["log_bytes"])
    if job["comment"]:
        yield "Comment", visible(job["comment"])


def _rfc3339(time: str | float) -> str:
    return time if isinstance(time, str) else format_time(time) or ""


def _command(job: dict[str, Any]) -> str:
    if job["command"] is None:
        return "(only its owner and admins see it)"
    import shlex

    words = shlex.join(job["command"])
    return visible(f"(script {job['name']}) {words}".rstrip() if job["script"] else words)


def _request(request: dict[str, Any]) -> str:
    parts = [f"{request['nodes']} {plural(request['nodes'], 'node')}"]
    per = " on each" if request["nodes"] != 1 else ""
    if request["gpus_per_node"]:
        traits = [request["gpu_type"]] if request["gpu_type"] else []
        if request["gpu_memory_bytes"]:
            traits.append(f"at least {format_size(request['gpu_memory_bytes'])}")
        if request.get("gpu_share_bytes"):
            traits.append(f"{format_size(request['gpu_share_bytes'])} of each, shared")
        count = request["gpus_per_node"]
        kind = f" ({', '.join(traits)})" if traits else ""
        parts.append(f"{count} {plural(count, 'GPU')}{per}{kind}")
    if request["cpus"]:
        parts.append(f"{request['cpus']} {plural(request['cpus'], 'CPU')}{per}")
    if request["memory_bytes"]:
        parts.append(f"{format_size(request['memory_bytes'])} memory{per}")
    if request.get("constraint"):
        parts.append(f"only where {request['constraint']}")
    if request.get("exclusive"):
        parts.append("with no other job beside it")
    if request["only_nodes"]:
        parts.append(f"on one of {','.join(request['only_nodes'])}")
    if request["not_nodes"]:
        parts.append(f"not on {','.join(request['not_nodes'])}")
    return ", ".join(parts)


def _limits(job: dict[str, Any]) -> Iterator[str]:
    """Whether what was reserved is held by the nodes it runs on; nothing if nothing was, or it has not run."""
    for flag, name in (("--mem", "memory"), ("-c", "cpus")):
        asked = [limit for limit in job.get("limits", ()) if limit[name] is not None]
        missing = [limit for limit in asked if not limit[name]]
        if missing:
            nodes = ",".join(limit["node"] for limit in missing)
            yield f"{flag} is not enforced on {nodes} ({visible(missing[0]['note'] or 'its agent cannot')})"
        elif asked:
            yield f"{flag} is enforced"


def _overuse(over: dict[str, Any]) -> str:
    text = (
        f"uses {format_size(over['used_bytes'])} of GPU {over['gpu']} of {over['node']}, asked for"
        f" {format_size(over['share_bytes'])}, for {format_duration(over['seconds'])}"
    )
    end = over["stopped_after_seconds"]
    return text if end is None else f"{text}: stopped after {format_duration(end)} of that"


def _array(array: dict[str, Any]) -> str:
    counts = ", ".join(f"{n} {state}" for state, n in array["counts"].items() if n)
    return f"{array['text']}, {array['size']} {plural(array['size'], 'element')}: {counts}"


def _places(nodes: list[dict[str, Any]]) -> str:
    return ", ".join(n["node"] + (f" (GPU {','.join(map(str, n['gpus']))})" if n["gpus"] else "") for n in nodes)


def _rank_end(rank: dict[str, Any]) -> str:
    if rank["phase"] != "ended":
        return str(rank["phase"])
    how = "never started"
    if rank["exit_code"] is not None:
        how = f"exit code {rank['exit_code']}"
    elif rank["signal"] is not None:
        how = f"signal {rank['signal']}"
    why = {"sibling": ", stopped as another failed", "time_limit": ", time limit"}
    return how + (why.get(rank["stopped"], ", stopped") if rank["stopped"] else "")


def _stopping(stop: dict[str, Any] | None) -> str:
    """Why an attempt that lives is on its way out, if it is."""
    return "live" if stop is None else visible(f"stopping: {stop['text'] or stop['kind'] + ' by ' + stop['by']}")


def _attempt_cells(attempt: dict[str, Any]) -> tuple[str, ...]:
    ended = attempt["ended_at"] is not None
    how = how_it_ended({**attempt, "state": ""}) or ("done" if ended else _stopping(attempt.get("stop")))
    return (
        str(attempt["number"]),
        _places(attempt["nodes"]),
        table_time(attempt["granted_at"]),
        table_time(attempt["started_at"]),
        table_time(attempt["ended_at"]),
        how,
        format_size(attempt["log_bytes"]),
    )
