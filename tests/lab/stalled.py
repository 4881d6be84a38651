"""The controller stops for five minutes as a machine does that swaps or is paused, and goes on where it was."""

from __future__ import annotations

import time

from tests.lab.lab import Lab, until
from tests.lab.report import Report
from tests.lab.watch import Watch

_STALL_SECONDS = 300.0
_FENCED_SECONDS = 60.0  # gpuq.view.Policy.lease is 40
_COUNT = "n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo line $n; sleep 1; done; exit 5"
_ENDS = "sleep 60; echo over; exit 6"


def controller_stalled(lab: Lab, report: Report) -> None:
    """The controller is stopped for five minutes: nobody is taken for lost, what ended meanwhile has its real end."""
    head, nodes = lab.cluster_of_kinds(report, "n")
    marks = [f"{policy}-{node.name}" for node in nodes for policy in ("keep", "fence", "ends")]
    with Watch(lab.hosts, *marks) as watch:
        ids = {}
        for mark in marks:
            policy, _, name = mark.partition("-")
            script = _ENDS if policy == "ends" else _COUNT
            lost = "fence" if policy == "fence" else "keep"
            words = ["-w", name, "--on-lost", lost, "bash", "-c", script, mark]
            ids[mark] = head.submit(*words)
        for id in ids.values():
            head.becomes(id, "RUNNING")
        controller = head.pid("controller")
        head.host.run("kill", "-STOP", controller)
        began = time.monotonic()
        fences = [f"fence-{node.name}" for node in nodes]
        with report.step("fenced jobs are ended by their nodes: no answer extends the lease"):
            until("their end", _FENCED_SECONDS, lambda: not any(watch.living(mark) for mark in fences))
        with report.step("the rest of the five minutes"):
            time.sleep(began + _STALL_SECONDS - time.monotonic())
        head.host.run("kill", "-CONT", controller)
        with report.step("the controller goes on: nodes are up, the ends of meanwhile known, fenced jobs run again"):
            for node in nodes:
                head.node_becomes(node.name, "up")
                head.becomes(ids[f"ends-{node.name}"], "FAILED")
                head.becomes(ids[f"fence-{node.name}"], "RUNNING")
        silent = head.json("events", "--kind", "node.lost")["items"]
        report.check("no node and no job was ever taken for lost", not silent, silent)
        for node in nodes:
            node.host.run("touch", "/tmp/end")
        for node in nodes:
            found = {
                policy: head.becomes(ids[f"{policy}-{node.name}"], "FAILED") for policy in ("keep", "fence", "ends")
            }
            shown = {policy: (job["exit_code"], job["attempt"]) for policy, job in found.items()}
            wanted = {"keep": (5, 1), "fence": (5, 2), "ends": (6, 1)}
            report.check(f"{node.kind}: the real ends", shown == wanted, shown)
            lives = {policy: len(watch.lives(f"{policy}-{node.name}")) for policy in wanted}
            report.check(
                f"{node.kind}: as many processes as attempts", lives == {"keep": 1, "fence": 2, "ends": 1}, lives
            )
            log = head("logs", ids[f"keep-{node.name}"]).splitlines()
            whole = log == [f"line {number}" for number in range(1, len(log) + 1)] and len(log) > _STALL_SECONDS / 2
            report.check(f"{node.kind}: the whole log of the kept job", whole, log[-3:])
        report.check("never two attempts at once", not any(map(watch.overlap, marks)))
