"""A node loses its power while it has a job in every state a job can be in."""

from __future__ import annotations

from typing import Any

from tests.lab.lab import Gpuq, Lab, Node, until
from tests.lab.network import cut
from tests.lab.report import Report
from tests.lab.watch import Watch

_LOST_SECONDS = 90.0  # gpuq.view.Policy.lost_after
# The first attempt stays, whatever it is told; the second ends. The host's disk outlives its power.
_STAYS = "trap '' TERM; echo begun; [ -e ~/again-$0 ] || { touch ~/again-$0; sleep 1000; sleep 1000; }; sleep 1; exit 3"
_ENDS = "until [ -e ~/over ]; do sleep 0.2; done; echo over; exit 4"


def power_in_every_state(lab: Lab, report: Report) -> None:
    """A node loses its power under a job in every state: each has its real end, or runs again, never twice at once."""
    head, nodes = lab.cluster_of_kinds(report, "n", gpus="8xH100-80GB")
    states = ("starting", "running", "stopping", "ended", "allocated", "queued", "lost", "gang")
    marks = [f"{state}-{node.name}" for node in nodes for state in states]
    with Watch(lab.hosts, *marks) as watch:
        jobs = {node.name: _one_in_each_state(head, node, watch) for node in nodes}
        for node in nodes:
            node.host.power_off()
        until("no process is left", 5, lambda: not any(watch.on(node.name) for node in nodes))
        _boot(nodes)
        with report.step("every node starts again: jobs end, or run again"):
            ends = {node.name: _ends(head, jobs[node.name]) for node in nodes}
        for node in nodes:
            _check(node, ends[node.name], watch, report)
        _while_lost(head, nodes, watch, report)
        twice = [
            life
            for mark in marks
            for host in (["head", mark.removeprefix("gang-")] if mark.startswith("gang-") else [""])
            for life in watch.overlap(mark, host)
        ]
        report.check(f"{len(marks)} jobs: never two attempts of one at once", not twice, twice)


def _one_in_each_state(head: Gpuq, node: Node, watch: Watch) -> dict[str, str]:
    """Ids of jobs in that state on that node, or for that node."""

    def submit(state: str, script: str, *words: str) -> str:
        return head.submit("-w", node.name, *words, "bash", "-c", script, f"{state}-{node.name}")

    ids = {}
    setup = f"[ -e ~/set-{node.name} ] || {{ touch ~/set-{node.name}; sleep 1000; }}"
    ids["starting"] = submit("starting", "exit 3", "-G", "1", "--setup", setup)
    ids["running"] = submit("running", _STAYS, "-G", "1")
    ids["stopping"] = submit("stopping", _STAYS, "-G", "1")
    ids["ended"] = submit("ended", _ENDS, "-G", "1")
    ids["gang"] = head.submit(
        "-w", f"{node.name},head", "-N", "2", "-G", "2", "bash", "-c", _STAYS, f"gang-{node.name}"
    )
    ids["queued"] = submit("queued", "exit 3", "-G", "8", "--priority", "-1")  # no room is kept for it
    for state in ("running", "stopping", "ended", "gang"):
        head.becomes(ids[state], "RUNNING")
    until("the set-up runs", 30, lambda: node.gpuq.shell("ls ~ | grep -c set- || :").strip() == "1")
    head("cancel", ids["stopping"])
    head.becomes(ids["stopping"], "STOPPING")
    node.gpuq.signal("STOP", "agent")
    node.gpuq.shell("touch ~/over")
    until("it ends unheard", 30, lambda: not watch.living(f"ended-{node.name}"))
    node.gpuq.shell(f"until grep -qs '\"exit_code\": *4' {node.gpuq.state}/agent/runs/*/exit.json; do sleep 0.1; done")
    ids["allocated"] = submit("allocated", "exit 3", "-G", "1")
    head.becomes(ids["allocated"], "ALLOCATED")
    return ids


def _boot(nodes: list[Node]) -> None:
    for node in nodes:
        node.host.boot()
        node.gpuq.start_agent(gpus="8xH100-80GB")


def _ends(head: Gpuq, ids: dict[str, str]) -> dict[str, Any]:
    return {state: head.becomes(id, "SUCCEEDED", "FAILED", "CANCELED", seconds=120) for state, id in ids.items()}


def _check(node: Node, ends: dict[str, Any], watch: Watch, report: Report) -> None:
    shown = {state: (job["state"], job["exit_code"], job["attempt"]) for state, job in ends.items()}
    wanted = {
        "starting": ("FAILED", 3, 2),
        "running": ("FAILED", 3, 2),
        "gang": ("FAILED", 3, 2),
        "stopping": ("CANCELED", None, 1),
        "ended": ("FAILED", 4, 1),
        "queued": ("FAILED", 3, 1),
    }
    for state, end in wanted.items():
        report.check(f"{node.kind}: {state} when the power went: {end}", shown[state] == end, shown[state])
    # Whether the order had left when the agent stopped listening is chance; that it runs once is not.
    report.check(f"{node.kind}: allocated when the power went", shown["allocated"][:2] == ("FAILED", 3), shown)
    lives = {state: len(watch.lives(f"{state}-{node.name}")) for state in ("stopping", "ended")}
    report.check(f"{node.kind}: what was to be stopped, or had ended, ran once", set(lives.values()) == {1}, lives)


def _while_lost(head: Gpuq, nodes: list[Node], watch: Watch, report: Report) -> None:
    ids = {}
    for node in nodes:
        ids[node.name] = head.submit("-w", node.name, "-G", "1", "bash", "-c", _STAYS, f"lost-{node.name}")
        head.becomes(ids[node.name], "RUNNING")
    for node in nodes:
        cut(node.host.port())
    with report.step("cut off: their jobs are LOST", f"after {_LOST_SECONDS:.0f} s"):
        for id in ids.values():
            head.becomes(id, "LOST", seconds=2 * _LOST_SECONDS)
    for node in nodes:
        node.host.power_off()
    _boot(nodes)  # whose cables are new ones
    with report.step("then without power, and started again: they run again"):
        for node in nodes:
            job = head.becomes(ids[node.name], "FAILED", seconds=120)
            shown = (job["exit_code"], job["attempt"], len(watch.lives(f"lost-{node.name}")))
            report.check(f"{node.kind}: lost when the power went: runs anew", shown == (3, 2, 2), shown)
