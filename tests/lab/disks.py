"""Disks that are full for a while: the controller's, then the nodes'."""

from __future__ import annotations

import re
import time

from tests.lab.host import UID
from tests.lab.lab import Gpuq, Lab, Node, until
from tests.lab.report import Report
from tests.lab.watch import Watch

_SIZE = "160m"
_FULL_SECONDS = 20.0
# Also to a file elsewhere on the host: what the job did, by other means than gpuq's log of it.
_COUNT = "n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo line $n; echo $n > /tmp/$0; sleep 0.2; done; exit 5"


def disks_full(lab: Lab, report: Report) -> None:
    """The controller's disk is full and freed, then the nodes': jobs go on, and no line of theirs is lost."""
    head, nodes = lab.cluster_of_kinds(report, "n")
    with lab.turn():
        for each in (head, *(node.gpuq for node in nodes)):
            _onto_a_small_disk(each, head)
    for node in nodes:
        head.node_becomes(node.name, "up")
    with Watch(lab.hosts, *(node.name for node in nodes)) as watch:
        ids = [head.submit("-w", node.name, "-G", "1", "bash", "-c", _COUNT, node.name) for node in nodes]
        for id in ids:
            head.becomes(id, "RUNNING")
        _controllers(head, nodes, report)
        _nodes(head, nodes, report)
        for node in nodes:
            node.host.run("touch", "/tmp/end")
        for node, id in zip(nodes, ids, strict=True):
            job = head.becomes(id, "FAILED")
            shown = (job["exit_code"], job["attempt"], len(watch.lives(node.name)))
            report.check(f"{node.kind}: exit code 5, one attempt, one process", shown == (5, 1, 1), shown)
            last = int(node.host.read(f"/tmp/{node.name}"))
            wanted = "".join(f"line {number}\n" for number in range(1, last + 1))
            until("the log", 30, lambda id=id, last=last: f"line {last}\n" in head("logs", id))  # type: ignore[misc]
            said = head("logs", id)
            lost = _lost(said, wanted)
            what = f"in order, and the {lost} bytes that are lost are told" if lost else "every line, once, in order"
            report.check(f"{node.kind}: {what}", lost is not None, said[-200:])


def _lost(said: str, wanted: str) -> int | None:
    """How many bytes of a log are missing, by its own notes; None if these are not right, or what is there is not."""
    told = sum(map(int, re.findall(r"^\[gpuq\] .*: (\d+) bytes of output are lost here$", said, re.MULTILINE)))
    lines = [line for line in said.splitlines(keepends=True) if line.strip() and not line.startswith("[gpuq]")]
    remaining = iter(wanted.splitlines(keepends=True))
    in_order = all(line in remaining for line in lines)  # each found behind the one before it
    return told if in_order and sum(map(len, lines)) + told == len(wanted) else None


def _onto_a_small_disk(each: Gpuq, head: Gpuq) -> None:
    """Its daemons' state is on a disk of its own from now on; the daemons are ended and started for it."""
    each("down", "--keep-jobs")
    options = f"size={_SIZE},mode=700,uid={UID},gid={UID}"
    state = each.state
    moves = (
        f"mv {state} {state}.old; mkdir {state}; mount -t tmpfs -o {options} tmpfs {state}; cp -a {state}.old/. {state}"
    )
    each.host.run("bash", "-ec", moves)
    if each == head:
        each.start_cluster("16xH100-80GB")
    else:
        each.start_agent()


def _fill(each: Gpuq) -> None:
    each.host.run("bash", "-c", f"head -c 1G /dev/zero > {each.state}/filler; :")
    free = each.host.run("df", "--output=avail", each.state).split()[-1]
    assert free == "0", free


def _free(each: Gpuq) -> None:
    each.host.run("rm", f"{each.state}/filler")


def _controllers(head: Gpuq, nodes: list[Node], report: Report) -> None:
    _fill(head)
    began = time.monotonic()
    refused = head.host.attempt("./gpuq.pyz", "submit", "--parsable", "true", user=head.user)
    took = time.monotonic() - began
    said = (refused.returncode, refused.stderr.strip())
    report.check(f"submit on a full disk is refused at once, in a line ({took:.1f} s)", _is_one_line(said), said)
    before = {node.name: int(node.host.read(f"/tmp/{node.name}")) for node in nodes}
    with report.step("the controller's disk stays full"):
        time.sleep(_FULL_SECONDS)
    for node in nodes:
        beats = int(node.host.read(f"/tmp/{node.name}")) - before[node.name]
        report.check(f"{node.kind}: the job went on, {beats} lines", beats > _FULL_SECONDS, beats)
    alive = head.pid("controller")
    _free(head)
    with report.step("it is freed: a job runs"):
        until("a submit", 60, lambda: _submits(head))
    report.check("the controller is the process it was", head.pid("controller") == alive)


def _trouble(head: Gpuq, node: Node) -> str:
    found: dict[str, str] = {item["name"]: item["trouble"] for item in head.json("nodes")["items"]}
    return found[node.name]


def _submits(head: Gpuq) -> bool:
    return head.host.attempt("./gpuq.pyz", "run", "-w", "head", "true", user=head.user).returncode == 0


def _is_one_line(said: tuple[int, str]) -> bool:
    status, line = said
    return status == 1 and "disk" in line and "\n" not in line and "Traceback" not in line


def _nodes(head: Gpuq, nodes: list[Node], report: Report) -> None:
    for node in nodes:
        _fill(node.gpuq)
    with report.step("the nodes' disks are full: they say so"):
        for node in nodes:
            until("its trouble", 60, lambda node=node: "disk" in _trouble(head, node))  # type: ignore[misc]
    waiting = [head.submit("-w", node.name, "echo", "room") for node in nodes]
    with report.step("they stay full"):
        time.sleep(_FULL_SECONDS)
    states = [head.job(id)["state"] for id in waiting]
    report.check("no new work goes there", states == ["QUEUED"] * len(nodes), states)
    report.check("the head goes on", head("run", "-w", "head", "echo", "on").strip() == "on")
    for node in nodes:
        _free(node.gpuq)
    with report.step("they are freed: what waited runs"):
        ended = [head.becomes(id, "SUCCEEDED", "FAILED")["state"] for id in waiting]
    report.check("and succeeds", ended == ["SUCCEEDED"] * len(nodes), ended)
