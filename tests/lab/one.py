"""One scenario, in namespaces of its own that tests/lab/__main__.py has made; what it found goes to a file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.lab.catalogue import ALL
from tests.lab.host import HostError, Machine
from tests.lab.lab import Lab
from tests.lab.report import Report

_CHECKOUT = str(Path(__file__).resolve().parents[2])  # no bare host has one


def main(told: str) -> None:
    given = json.loads(told)
    name, disks, image = given["name"], Path(given["disks"]), Path(given["image"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", tempfile.gettempdir()], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    disks.mkdir()
    pythons = Path(given["pythons"]) if given["pythons"] else None
    machine = Machine(disks, pythons, [_CHECKOUT], image, given["groups"])
    report = Report(name)
    report.note((ALL[name].__doc__ or "").splitlines()[0])
    began = time.monotonic()
    try:
        with Lab(image / "gpuq.pyz", machine, given["versions"]) as lab:
            ALL[name](lab, report)
    except (HostError, OSError, subprocess.SubprocessError, RuntimeError) as error:
        report.failed(str(error))
    except Exception:  # noqa: BLE001 -- a defect of the scenario's own
        report.failed(traceback.format_exc())
    report.note(f"took {time.monotonic() - began:.0f} s")
    Path(given["found"]).write_text(json.dumps([report.rows, report.wrong]))


if __name__ == "__main__":
    main(sys.argv[1])
