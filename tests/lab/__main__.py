"""The lab's run, inside namespaces that packaging/lab.py has made: scenario after scenario, then the table.

Everything it starts is in those namespaces, and everything it writes on a file system of theirs: when this process
ends, however it ends, the kernel takes both away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.host import HostError, Machine
from tests.lab.lab import Lab
from tests.lab.report import Report
from tests.lab.scenarios import SCENARIOS
from tests.lab.systemd import service

ALL = {**SCENARIOS, "service": service}
_HIDDEN = [str(Path(__file__).resolve().parents[2])]  # this checkout: no bare host has one
_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def main(arguments: Sequence[str]) -> int:
    """arguments: the built file, then names of scenarios; without names, all."""
    pyz, *names = arguments
    if unknown := set(names) - set(ALL):
        wrong = ", ".join(sorted(unknown))
        print(f"build.py lab: no such scenario: {wrong} (one of: {', '.join(ALL)})", file=sys.stderr)
        return 2
    program = Path(pyz).read_bytes()  # before what it may lie below is mounted over
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", tempfile.gettempdir()], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    disks = Path(tempfile.mkdtemp())
    copy = disks / "gpuq.pyz"  # one that is built again meanwhile must not become part of this run
    copy.write_bytes(program)
    pythons, versions = _pythons(copy)
    report = Report()
    for name in names or ALL:
        report.scenario = name
        print(f"\n{name}: {(ALL[name].__doc__ or '').splitlines()[0]}", flush=True)
        folder = disks / name
        folder.mkdir()
        try:
            with Lab(copy, Machine(folder, pythons, _HIDDEN), versions) as lab:
                ALL[name](lab, report)
        except (HostError, OSError, subprocess.SubprocessError, RuntimeError) as error:
            report.failed(str(error))
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{report.table()}\n")
    for wrong in report.wrong:
        print(f"WRONG: {wrong}")
    print("everything is as it should be" if not report.wrong else f"{len(report.wrong)} things are WRONG")
    return 1 if report.wrong else 0


def _pythons(pyz: Path) -> tuple[Path | None, list[str]]:
    """pyenv's folder of Pythons and those of them that this build is for, the newest of each line; or nothing."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [max(folder.glob(f"{line}.*"), default=None, key=_patch) for line in _VERSIONS]
    names = [path.name for path in found if path]
    runs = [
        version
        for version in names
        if subprocess.run([folder / version / "bin/python3", pyz, "version"], capture_output=True).returncode == 0
    ]
    for version in names:
        print(f"Python {version}: {'hosts get it' if version in runs else 'this build is not for it'}")
    return (folder, runs) if runs else (None, [])


def _patch(version: Path) -> int:
    last = version.name.rpartition(".")[2]
    return int(last) if last.isdigit() else -1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
