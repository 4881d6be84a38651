"""More than a node is meant for: many jobs at once, much output, and processes that do everything not to end."""

from __future__ import annotations

import time
from collections.abc import Iterable

from tests.lab.lab import Gpuq, Lab, Node, until
from tests.lab.report import Report
from tests.lab.watch import marked

_JOBS = 200
# It costs nothing while it waits: each takes one line from a pipe that all of them read.
_WAITS = "read -r < /tmp/go; echo I am $GPUQ_ARRAY_TASK_ID; exit $((GPUQ_ARRAY_TASK_ID % 2))"
_MEGABYTES = 200
_PRINT = f"""
import hashlib, sys
digest = hashlib.sha256()
written = number = 0
while written < {_MEGABYTES} << 20:
    numbers = range(number, number + 10000)
    block = b"".join(b"line %012d of many that all look alike and yet are not\\n" % i for i in numbers)
    number += 10000
    written += len(block)
    digest.update(block)
    sys.stdout.buffer.write(block)
sys.stdout.buffer.flush()
open("/tmp/digest", "w").write(digest.hexdigest())
"""
_CHILDREN = 1000
# Each in a session of its own, without gpuq's variables, and deaf to what asks it to end.
_MULTIPLY = f"""
import os, signal, sys, time
for signal_number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(signal_number, signal.SIG_IGN)
for number in range({_CHILDREN}):
    if os.fork() == 0:
        os.setsid()
        os.environ.clear()
        time.sleep(1000)
print("all there", flush=True)
if sys.argv[1] == "stays":
    time.sleep(1000)
"""
# What the next holder of the GPU sees of them.
_LOOK = "pgrep -fc '[c]hild-of-lab'; exit 0"


def many_jobs(lab: Lab, report: Report) -> None:
    """200 jobs at once on one node: all of them run at the same time, and each ends as it should."""
    head, nodes = lab.cluster_of_kinds(report, "n")
    ids = {}
    for node in nodes:
        with report.step(f"{node.kind}: {_JOBS} jobs run on one node"):
            node.gpuq.shell("mkfifo /tmp/go")
            words = ["bash", "-c", _WAITS, f"many-{node.name}"]
            ids[node.name] = head.submit("-w", node.name, "-a", f"0-{_JOBS - 1}", *words)
            until(f"{_JOBS} processes", 60, lambda node=node: len(_leaders(node)) == _JOBS)  # type: ignore[misc]
    for node in nodes:
        node.gpuq.shell(f"yes '' | head -n {_JOBS} > /tmp/go")
    with report.step("all of them have ended, half with 1"):
        for id in ids.values():
            head.becomes(id, "FAILED", seconds=60)
    for node in nodes:
        id = ids[node.name]
        found = head.json("queue", "--all", "--expand", "-j", id)["items"]
        codes = sorted(item["exit_code"] for item in found)
        report.check(f"{node.kind}: every exit code", codes == [0] * (_JOBS // 2) + [1] * (_JOBS // 2), codes)
        said = [head("logs", f"{id}_{number}") for number in (0, 77, _JOBS - 1)]
        report.check(f"{node.kind}: logs", said == [f"I am {n}\n" for n in (0, 77, _JOBS - 1)], said)
        report.check(f"{node.kind}: no process is left", not _leaders(node), len(_leaders(node)))


def _leaders(node: Node) -> list[int]:
    return [pid for pid, leads in marked(f"many-{node.name}") if leads]


def much_output(lab: Lab, report: Report) -> None:
    """A job prints 200 MB: not a byte is lost, and others on the same node are served meanwhile."""
    head, nodes = lab.cluster_of_kinds(report, "n")
    for node in nodes:
        with report.step(f"{node.kind}: a job prints {_MEGABYTES} MB, 10 others run beside it"):
            id = head.submit("-w", node.name, "-G", "1", "python3", "-c", _PRINT)
            slowest = 0.0
            for _ in range(10):
                began = time.monotonic()
                head("run", "-w", node.name, "-G", "1", "true")
                slowest = max(slowest, time.monotonic() - began)
            job = head.becomes(id, "SUCCEEDED", "FAILED", seconds=120)
        report.check(f"{node.kind}: it succeeded", job["state"] == "SUCCEEDED", job["cause"])
        report.check(f"{node.kind}: the slowest of the 10 took {slowest:.2f} s, less than 5", slowest < 5, slowest)
        wanted = node.gpuq.read("/tmp/digest")
        with report.step(f"{node.kind}: all of it can be read"):
            until("the whole log", 60, lambda id=id: head.job(id)["log_bytes"] >= _MEGABYTES << 20)  # type: ignore[misc]
            report.check(f"{node.kind}: every byte of it", _digest(head, id) == wanted)


def _digest(head: Gpuq, id: str) -> str:
    """Of a job's log as it is read by a person; on the host, since it is long."""
    return head.shell(f"./gpuq.pyz logs {id} | sha256sum").split()[0]


def many_children(lab: Lab, report: Report) -> None:
    """1,000 children that ignore SIGTERM in sessions of their own: the next job on that GPU sees none of them."""
    head, nodes = lab.cluster_of_kinds(report, "n")
    for how, wanted in (("stays", "CANCELED"), ("leaves", "SUCCEEDED")):
        marks = {node.name: f"child-of-lab-{node.name}-{how}" for node in nodes}
        with lab.turn(), report.step(f"each node has a job with {_CHILDREN} children"):
            first = {
                name: head.submit("-w", name, "-G", "2", "python3", "-c", _MULTIPLY, how, mark)
                for name, mark in marks.items()
            }
            until("all children", 120, lambda marks=marks: _all_there(marks.values()))  # type: ignore[misc]
        next = {node.name: head.submit("-w", node.name, "-G", "1", "sh", "-c", _LOOK) for node in nodes}
        waiting = {head.job(id)["state"] for id in next.values()}
        report.check("the next job for their GPUs waits", waiting == {"QUEUED"}, waiting)
        if how == "stays":
            head("cancel", *first.values())
        with report.step(f"{'cancelled' if how == 'stays' else 'over, but for the children'}: the next jobs run"):
            ended = {name: head.becomes(id, "SUCCEEDED", "FAILED", seconds=120) for name, id in next.items()}
        for node in nodes:
            seen = (ended[node.name]["state"], head("logs", next[node.name]).strip())
            report.check(f"{node.kind}: it saw none of them", seen == ("SUCCEEDED", "0"), seen)
            left = len(marked(marks[node.name]))
            report.check(f"{node.kind}: none is left", not left, left)
            state = head.job(first[node.name])["state"]
            report.check(f"{node.kind}: the first is {wanted}", state == wanted, state)


def _all_there(marks: Iterable[str]) -> bool:
    return all(len(marked(mark)) >= _CHILDREN for mark in marks)
