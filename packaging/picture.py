"""python packaging/picture.py dist/gpuq.pyz: renews the picture in README.md from what the program really prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from trial import Trial, until

README = Path(__file__).resolve().parent.parent / "README.md"
PICTURE = re.compile(r"(<!-- picture.*?-->\n)```text\n.*?```\n", re.DOTALL)
WORK = ("sh", "-c", "sleep 600")


def take(pyz: Path) -> str:
    """What a small cluster at work looks like, on simulated GPUs."""
    with Trial(pyz) as trial:
        trial.gpuq("up", "--detach", "--simulate-gpus", "8xH100-80GB")
        first = trial.submit("-J", "pretrain", "-G", "4", "-t", "2-00", *WORK)
        trial.submit("-J", "sweep", "-G", "1", "-a", "0-99%2", *WORK)
        trial.submit("-J", "evaluate", "-G", "1", "-d", f"afterok:{first}", *WORK)
        trial.submit("-J", "finetune", "-G", "H100:2", "--gpu-mem", "70G", *WORK)
        huge = trial.submit("-J", "huge", "-G", "16", *WORK)

        def at_work() -> bool:
            busy = [gpu for gpu in trial.json("gpus")["items"] if (gpu["utilization_percent"] or 0) > 80]
            return len(busy) == 8

        until("work on all eight GPUs", 60, at_work)
        commands = (("queue",), ("gpus",), ("why", huge))
        return "\n".join(f"$ gpuq {' '.join(words)}\n{trial.gpuq(*words)}" for words in commands)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: picture.py dist/gpuq.pyz", file=sys.stderr)
        return 2
    picture = "\n".join(line.rstrip() for line in take(Path(arguments[0])).splitlines())
    text, found = PICTURE.subn(lambda match: f"{match[1]}```text\n{picture}\n```\n", README.read_text())
    if found != 1:
        print("picture.py: README.md has no place for the picture", file=sys.stderr)
        return 1
    README.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
