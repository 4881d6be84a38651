"""A job that counts while everything around it dies and is replaced: its lines and its end tell whether it noticed."""

from __future__ import annotations

import re
import time
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

from tests.lab.lab import Gpuq, Lab, Node, until
from tests.lab.report import Report
from tests.lab.watch import Watch

_LINES = 120
_COUNT = f"for i in $(seq {_LINES}); do echo line $i; sleep 1; done; exit 7"
WHOLE = "".join(f"line {number}\n" for number in range(1, _LINES + 1))
_PYTHON = "/opt/python"  # on a host: a Python of its own, which can be deleted
_PAUSE_SECONDS = 2.0  # for which what was killed stays dead


def lines(lab: Lab, report: Report) -> None:
    """120 lines, one a second, while daemons are killed, and gpuq's file, its cache and the node's Python replaced."""
    other = lab.machine.disks / "other.pyz"
    another_build(lab.pyz, other)
    head, nodes = lab.cluster_of_kinds(report, "n")
    if lab.machine.pythons:
        for node in nodes:
            _own_python(node, lab.versions[0])
    rounds = ("killed", "replaced")
    with Watch(lab.hosts, *(f"{each}-{node.name}" for each in rounds for node in nodes)) as watch:
        with lab.turn():  # two minutes are all there is
            first = _count(head, nodes, "killed")
            _daemons_die(head, nodes, report)
            _still_counting(nodes, "killed", watch, report)
            # On a machine with nothing else to do, those of before are still there for what follows.
            second = _count(head, nodes, "replaced")
            _all_is_replaced(lab, nodes, other, report)
            _still_counting(nodes, "replaced", watch, report)
        with report.step("the jobs come to their end"):
            ids = {**first, **second}
            ended = {mark: head.becomes(id, "SUCCEEDED", "FAILED", seconds=2 * _LINES) for mark, id in ids.items()}
    for mark, id in ids.items():
        shown = (ended[mark]["state"], ended[mark]["exit_code"], ended[mark]["attempt"])
        report.check(f"{mark}: exit code 7, one attempt", shown == ("FAILED", 7, 1), shown)
        until(f"the log of {id}", 10, lambda id=id: len(head("logs", id)) >= len(WHOLE))  # type: ignore[misc]
        said = head("logs", id)
        report.check(f"{mark}: 120 lines, once each, in order", said == WHOLE, said)
        lives = watch.lives(mark)
        report.check(f"{mark}: one process from first to last", len(lives) == 1, lives)
    versions = {item["name"]: item["agent_version"] for item in head.json("nodes")["items"]}
    others = [node.name for node in nodes if versions[node.name].endswith("+other")]
    report.check("the agents are of the other build", len(others) == len(nodes), versions)


def _count(head: Gpuq, nodes: list[Node], kind: str) -> dict[str, str]:
    """A job on each node that counts, by its mark; all run."""
    ids = {}
    for node in nodes:
        mark = f"{kind}-{node.name}"
        ids[mark] = head.submit("-w", node.name, "-G", "1", "bash", "-c", _COUNT, mark)
    for id in ids.values():
        head.becomes(id, "RUNNING")
    return ids


def _still_counting(nodes: list[Node], kind: str, watch: Watch, report: Report) -> None:
    counting = [node.kind for node in nodes if watch.living(f"{kind}-{node.name}")]
    report.check(f"{kind} while the jobs counted", len(counting) == len(nodes), counting)


def _daemons_die(head: Gpuq, nodes: list[Node], report: Report) -> None:
    with report.step("agents killed, started again"):
        _start(nodes, _kill(nodes))
    with report.step("controller killed, started again"):
        head.signal("KILL", "controller")
        time.sleep(_PAUSE_SECONDS)
        head.start_cluster("16xH100-80GB")
    with report.step("both killed, started again"):
        head.signal("KILL", "controller")
        killed = _kill(nodes)
        head.start_cluster("16xH100-80GB")
        _start(nodes, killed)


def _all_is_replaced(lab: Lab, nodes: list[Node], other: Path, report: Report) -> None:
    with report.step("agents killed, started from another gpuq.pyz, the caches emptied"):
        for node in nodes:
            node.gpuq.copy_file(other, "gpuq.pyz")
            node.gpuq.shell("rm -rf ~/.cache/gpuq")
        _start(nodes, _kill(nodes))
    if lab.machine.pythons:
        with report.step("Python deleted and replaced, agents killed, started"):
            killed = _kill(nodes)
            for node in nodes:
                _replace_python(node, lab.versions[-1])
            _start(nodes, killed)


def _kill(nodes: list[Node]) -> dict[str, str]:
    """The pids there were."""
    killed = {node.name: node.gpuq.signal("KILL", "agent") for node in nodes}
    time.sleep(_PAUSE_SECONDS)
    return killed


def _start(nodes: list[Node], killed: dict[str, str]) -> None:
    for node in nodes:
        node.gpuq.start_agent()
    for node in nodes:
        until(f"an agent on {node.name}", 60, partial(node.gpuq.has_agent, killed[node.name]))


def _own_python(node: Node, version: str) -> None:
    """Its agent runs on a Python in a file system of the host's own from now on."""
    below = f"{node.host.machine.pythons}/{version}"
    made = f"/home/.python; mkdir -p {_PYTHON} $d/upper $d/work"
    layers = f"lowerdir={below},upperdir=$d/upper,workdir=$d/work"
    node.host.run("bash", "-ec", f"d={made}; mount -t overlay overlay -o {layers} {_PYTHON}")
    node.host.python = _PYTHON
    killed = node.gpuq.signal("KILL", "agent")
    node.gpuq.start_agent()
    until(f"an agent on {node.name}", 60, partial(node.gpuq.has_agent, killed))


def _replace_python(node: Node, version: str) -> None:
    """Deletes that Python, file by file; then another one is in its place."""
    node.host.run("bash", "-ec", f'rm -rf {_PYTHON}/bin {_PYTHON}/lib; [ -z "$(ls {_PYTHON}/bin 2>&-)" ]')
    node.host.run("mount", "--bind", f"{node.host.machine.pythons}/{version}", _PYTHON)


def another_build(pyz: Path, target: Path) -> None:
    """The same program as another build: its version ends in '+other', its id is another, so nothing is shared."""
    members = _read(pyz.read_bytes())
    (build_id,) = set(re.findall(rb'^BUILD_ID = "(\w+)"', members["__main__.py"], re.MULTILINE))
    changed = build_id[::-1]
    del members["__main__.pyc"]  # Python takes the source then
    common = _read(members["common.zip"])
    version = common["gpuq/version.py"]
    common["gpuq/version.py"] = re.sub(rb'(VERSION = "[^"]*)"', rb'\1+other"', version)
    members["common.zip"] = _write(common)
    for name in ("__main__.py", "build.json"):
        members[name] = members[name].replace(build_id, changed)
    target.write_bytes(pyz.read_bytes().split(b"PK", 1)[0] + _write(members))
    target.chmod(0o755)


def _read(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(members: dict[str, bytes]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()
