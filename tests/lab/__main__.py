"""The lab's run, inside namespaces that packaging/lab.py has made: all scenarios, then the table.

First those that are timed; then those that mostly wait at the same time, and the others one after another beside them.
Each is a process (one.py) in namespaces of its own. All they start is in those, and all they write on a file system of
theirs: when this process ends, however it ends, the kernel takes both away.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.lab import groups
from tests.lab.catalogue import ALL, TIMED, WAITING
from tests.lab.host import UID
from tests.lab.lab import SET_UP
from tests.lab.report import Report

_DISKS = Path("/run/gpuq-lab")
_CHECKOUT = Path(__file__).resolve().parents[2]
_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
_SCENARIO_SECONDS = 900.0
_LOOK_SECONDS = 0.5
# As in packaging/lab.py: a scenario's hosts are its own, and the first process reaps orphans.
_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_FIRST_PROCESS = ["bash", "-c", '"$@"; exit $?', "lab"]


def main(arguments: Sequence[str]) -> int:
    """arguments: the built file, then names of scenarios; without names, all."""
    pyz, *names = arguments
    if unknown := set(names) - set(ALL):
        listed = ", ".join(sorted(unknown))
        print(f"build.py lab: no such scenario: {listed} (one of: {', '.join(ALL)})", file=sys.stderr)
        return 2
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", _DISKS.parent], check=True)
    _DISKS.mkdir()
    image = _DISKS / "image"
    image.mkdir()
    copy = image / "gpuq.pyz"  # one that is built again meanwhile must not become part of this run
    shutil.copyfile(pyz, copy)
    copy.chmod(0o755)
    pythons, versions = _pythons(copy, image / ".cache")
    subprocess.run(["chown", "-R", f"{UID}:{UID}", image], check=True)
    for kind in groups.KINDS:
        print(groups.in_words(kind), flush=True)
    lab = groups.lab_name()
    groups.remove_leftovers()
    given: dict[str, object] = {"pythons": str(pythons or ""), "versions": versions, "image": str(image), "groups": lab}
    try:
        reports = _run_all(list(names or ALL), given)
    finally:
        groups.remove_lab(lab)
    whole = Report(rows=[row for report in reports for row in report.rows])
    wrong = [line for report in reports for line in report.wrong]
    print(f"\n{whole.table()}\n")
    for one in wrong:
        print(f"WRONG: {one}")
    print("everything is as it should be" if not wrong else f"{len(wrong)} things are WRONG")
    return 1 if wrong else 0


def _run_all(names: list[str], given: dict[str, object]) -> list[Report]:
    reports = [_run_one(name, given) for name in TIMED if name in names]
    waiting = [name for name in WAITING if name in names]
    with ThreadPoolExecutor(1 + len(waiting)) as pool:
        begun = pool.submit(_start_in_turn, pool, waiting, given)
        reports += [_run_one(name, given) for name in names if name not in (*WAITING, *TIMED)]
        return reports + [each.result() for each in begun.result()]


def _start_in_turn(pool: ThreadPoolExecutor, names: list[str], given: dict[str, object]) -> list[Future[Report]]:
    """Each when the one before it is set up, or over."""
    begun: list[Future[Report]] = []
    for name in names:
        begun.append(pool.submit(_run_one, name, given))
        while not (begun[-1].done() or (_DISKS / f"{name}{SET_UP}").exists()):
            time.sleep(_LOOK_SECONDS)
    return begun


def _run_one(name: str, given: dict[str, object]) -> Report:
    """One scenario in a process of its own, which leaves what it found in a file."""
    found = _DISKS / f"{name}.json"
    told = json.dumps({**given, "name": name, "disks": str(_DISKS / name), "found": str(found)})
    words = [*_NAMESPACES, *_FIRST_PROCESS, sys.executable, "-m", "tests.lab.one", told]
    try:
        status = subprocess.run(words, cwd=_CHECKOUT, timeout=_SCENARIO_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        return Report(name, wrong=[f"{name}: was not over after {_SCENARIO_SECONDS:.0f} s"])
    if not found.exists():
        return Report(name, wrong=[f"{name}: ended with {status} and said nothing"])
    rows, wrong = json.loads(found.read_text())
    return Report(name, [tuple(row) for row in rows], wrong)


def _pythons(pyz: Path, cache: Path) -> tuple[Path | None, list[str]]:
    """pyenv's folder of Pythons and those of them that this build is for, the newest of each line; or nothing.

    Each unpacks the program into cache, and so does the system's.
    """
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [max(folder.glob(f"{line}.*"), default=None, key=_patch) for line in _VERSIONS]
    runs = [path.name for path in found if path and _unpacks(path / "bin/python3", pyz, cache)]
    _unpacks(Path("/usr/bin/python3"), pyz, cache)
    for name in (path.name for path in found if path):
        print(f"Python {name}: {'hosts get it' if name in runs else 'this build is not for it'}")
    return (folder, runs) if runs else (None, [])


def _unpacks(python: Path, pyz: Path, cache: Path) -> bool:
    words = [str(python), str(pyz), "version"]
    environment = {**os.environ, "GPUQ_CACHE": str(cache)}
    try:
        return subprocess.run(words, capture_output=True, env=environment, check=False).returncode == 0
    except OSError:
        return False


def _patch(version: Path) -> int:
    last = version.name.rpartition(".")[2]
    return int(last) if last.isdigit() else -1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
