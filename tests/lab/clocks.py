"""Clocks that jump by an hour, on nodes and on the controller.

A host has no wall clock of its own: the kernel's time namespaces have monotonic and boot clocks only. So libfaketime is
preloaded into all that is started on these hosts, jobs included; what the file system notes is this machine's time.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.lab.lab import Gpuq, Lab
from tests.lab.report import Report
from tests.lab.watch import Watch

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_FILE = "/home/clock"  # what is added to a host's clock
_ENVIRONMENT = (
    f"LD_PRELOAD={LIBRARY}",
    f"FAKETIME_TIMESTAMP_FILE={_FILE}",
    "FAKETIME_CACHE_DURATION=1",
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
    "NO_FAKE_STAT=1",
)
_COUNT = "n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo line $n; sleep 1; done; exit 5"
_WATCHED_SECONDS = 15.0
_LIMIT = 60.0
_LATE = 15.0


def clock_jumps(lab: Lab, report: Report) -> None:
    """Wall clocks jump by an hour, forth and back, of nodes and the controller: nothing is lost or ended for it."""
    if not LIBRARY.exists():
        report.note("left out: there is no libfaketime; packaging/lab-packages.sh installs it")
        return
    head, nodes = lab.cluster_of_kinds(report, "n")
    everyone = [head, *(node.gpuq for node in nodes)]
    with lab.turn(), report.step("every daemon has a clock that can be set"):
        for each in everyone:
            each("down", "--keep-jobs")
            set_clock(each, 0)
            each.host.environment = _ENVIRONMENT
        head.start_cluster("16xH100-80GB")
        for node in nodes:
            node.gpuq.start_agent()
        for node in nodes:
            head.node_becomes(node.name, "up")
    marks = [f"{kind}-{node.name}" for node in nodes for kind in ("counts", "limited")]
    with Watch(lab.hosts, *marks) as watch:
        ids = {}
        for node in nodes:
            words = ["-w", node.name, "-G", "1", "--on-lost", "fence"]
            ids[node.name] = head.submit(*words, "bash", "-c", _COUNT, f"counts-{node.name}")
            head.submit(*words, "-t", "1:00", "bash", "-c", _COUNT, f"limited-{node.name}")
        for id in ids.values():
            head.becomes(id, "RUNNING")
        for who, hosts in (("every node's", everyone[1:]), ("the controller's", [head])):
            for hours in (1, -1, 0):
                for each in hosts:
                    set_clock(each, hours)
                with report.step(f"{who} clock is {hours:+d} h"):
                    time.sleep(_WATCHED_SECONDS)
                report.check("the clocks are so", all(_is_set(each, hours) for each in hosts))
                states = {name: head.job(id)["state"] for name, id in ids.items()}
                report.check("every job runs on", set(states.values()) == {"RUNNING"}, states)
                up = {item["name"]: item["state"] for item in head.json("nodes")["items"]}
                report.check("every node is up", set(up.values()) == {"up"}, up)
                said = [head("run", "-w", node.name, "echo", "here").strip() for node in nodes]
                report.check("each takes and ends new work", said == ["here"] * len(nodes), said)
        for node in nodes:
            node.host.run("touch", "/tmp/end")
            mark = f"counts-{node.name}"
            job = head.becomes(ids[node.name], "FAILED")
            shown = (job["exit_code"], job["attempt"], len(watch.lives(mark)))
            report.check(f"{node.kind}: exit code 5, one attempt, one process", shown == (5, 1, 1), shown)
            lasted = [life.seen - life.born for life in watch.lives(f"limited-{node.name}")]
            on_time = len(lasted) == 1 and 0 <= lasted[0] - _LIMIT + 1 < _LATE
            report.check(f"{node.kind}: a job with a limit of {_LIMIT:.0f} s ran for that long", on_time, lasted)


def set_clock(each: Gpuq, hours: int) -> None:
    each.host.run("sh", "-c", f"echo {hours * 3600:+d} > {_FILE}.new && mv {_FILE}.new {_FILE}")


def _is_set(each: Gpuq, hours: int) -> bool:
    """Whether that is what programs on the host see, gpuq's daemon among them."""
    ahead = float(each.host.run("date", "+%s")) - time.time()
    daemon = each.host.run("grep", "-c", LIBRARY.name, f"/proc/{each.pid('agent')}/maps")
    return abs(ahead - hours * 3600) < 5 and int(daemon) > 0
