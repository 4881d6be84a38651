"""Three minutes without the network, or with half of it, under jobs that stay with their node and some that may not."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.lab.lab import Gpuq, Lab, Node, until
from tests.lab.network import cut, drop, drop_nothing, mend
from tests.lab.report import Report
from tests.lab.watch import Watch

_CUT_SECONDS = 180.0
_LEASE_SECONDS = 40.0  # gpuq.view.Policy.lease
_FENCED_SECONDS = _LEASE_SECONDS + 15.0
_LOST_SECONDS = 90.0  # Policy.lost_after: sooner nothing may start elsewhere
_MOVED_SECONDS = _LOST_SECONDS + 40.0
# One line a second until it is told to end; the end of the first attempt on each host is another exit code.
_COUNT = "n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo line $n; sleep 1; done; exit 5"

# What becomes of a node of this role, and what undoes it.
ROLES = {
    "cut": "the network is cut",
    "alone": "the agent is killed, then the network cut",
    "mute": "what the node sends is lost",
    "deaf": "what is sent to the node is lost",
}


def long_partition(lab: Lab, report: Report) -> None:
    """Three minutes of partition, whole and one-way, agent alive or killed: keep stays, fence moves, never both."""
    head, nodes = lab.cluster_of_kinds(report, *ROLES)
    marks = [mark for node in nodes for mark in (f"keep-{node.name}", f"fence-{node.name}")]
    with Watch(lab.hosts, *marks) as watch:
        ids = _start_jobs(head, nodes, marks)
        first = {mark: watch.one(mark) for mark in marks}
        began = time.monotonic()
        _break(head, nodes)
        fences = [f"fence-{node.name}" for node in nodes]
        with report.step("every fenced job is ended on its node", f"the lease is {_LEASE_SECONDS:.0f} s"):
            _all(fences, began + _FENCED_SECONDS, lambda mark: first[mark] not in watch.living(mark))
        with report.step("and runs on another", f"nodes are lost after {_LOST_SECONDS:.0f} s"):
            _all(fences, began + _MOVED_SECONDS, lambda mark: [life.host for life in watch.living(mark)] == ["head"])
        with report.step("the rest of the three minutes"):
            time.sleep(max(0.0, began + _CUT_SECONDS - time.monotonic()))
        states = {node.name: head.job(ids[f"keep-{node.name}"])["state"] for node in nodes}
        report.check("each kept job is LOST", set(states.values()) == {"LOST"}, states)
        _mend(head, nodes)
        with report.step("the network is back: kept jobs are RUNNING"):
            for node in nodes:
                head.becomes(ids[f"keep-{node.name}"], "RUNNING", seconds=120)
        kept = {mark: watch.living(mark) for mark in marks if mark.startswith("keep")}
        same = all(found == [first[mark]] for mark, found in kept.items())
        report.check("each is the process it was", same, kept)
        for host in lab.hosts:
            host.run("touch", "/tmp/end")
        _check_ends(head, nodes, ids, watch, report)


def _start_jobs(head: Gpuq, nodes: list[Node], marks: list[str]) -> dict[str, str]:
    """One job for each mark, on its node; those with fence may later run on the head, which takes none at first."""
    head("cordon", "head")
    ids = {}
    for mark in marks:
        policy, _, name = mark.partition("-")
        where = f"{name},head" if policy == "fence" else name
        ids[mark] = head.submit("-w", where, "-G", "1", "--on-lost", policy, "bash", "-c", _COUNT, mark)
    for id in ids.values():
        head.becomes(id, "RUNNING")
    head("uncordon", "head")
    return ids


def _break(head: Gpuq, nodes: list[Node]) -> None:
    for node in nodes:
        if node.role == "alone":
            node.gpuq.signal("KILL", "agent")
    drop(
        *((node.host.address, head.host.address) for node in nodes if node.role == "mute"),
        *((head.host.address, node.host.address) for node in nodes if node.role == "deaf"),
    )
    for node in nodes:
        if node.role in ("cut", "alone"):
            cut(node.host.port())


def _mend(head: Gpuq, nodes: list[Node]) -> None:
    drop_nothing()
    for node in nodes:
        if node.role in ("cut", "alone"):
            mend(node.host.port())
    for node in nodes:
        if node.role == "alone":
            node.gpuq.start_agent()


def _check_ends(head: Gpuq, nodes: list[Node], ids: dict[str, str], watch: Watch, report: Report) -> None:
    ended = {mark: head.becomes(id, "FAILED", "SUCCEEDED") for mark, id in ids.items()}
    for node in nodes:
        keep, fence = f"keep-{node.name}", f"fence-{node.name}"
        what = f"{ROLES[node.role]}, {node.kind}"
        overlaps = watch.overlap(keep) + watch.overlap(fence)
        report.check(f"{what}: never two attempts at once", not overlaps, overlaps)
        lives = (len(watch.lives(keep)), len(watch.lives(fence)))
        report.check(f"{what}: keep ran once, fence twice", lives == (1, 2), lives)
        shown = [(ended[mark]["exit_code"], ended[mark]["attempt"]) for mark in (keep, fence)]
        report.check(f"{what}: the real ends", shown == [(5, 1), (5, 2)], shown)
        log = head("logs", ids[keep]).splitlines()
        whole = log == [f"line {number}" for number in range(1, len(log) + 1)] and len(log) > _CUT_SECONDS / 2
        report.check(f"{what}: the whole log of the kept job", whole, log[-3:])


def _all(marks: list[str], deadline: float, holds: Callable[[str], bool]) -> None:
    left = deadline - time.monotonic()
    until("all of " + " ".join(marks), left, lambda: all(holds(mark) for mark in marks))
