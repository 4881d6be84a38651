"""python packaging/picture.py dist/gpuq.pyz: renews the pictures of README.md from what the program really shows.

The text is what commands print. The dashboard runs in tmux, which must be installed, and is drawn from its screen.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text
from trial import Trial, until

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DASHBOARD = ROOT / "docs" / "dashboard.svg"
COLUMNS, LINES = 132, 34
PICTURE = re.compile(r"(<!-- picture.*?-->\n)```text\n.*?```\n", re.DOTALL)
CELL = 12.2  # width of a character in the SVG that Rich makes
_INDENTED = re.compile(
    r'x="(?P<x>[\d.]+)"(?P<between> y="[\d.]+" )textLength="(?P<length>[\d.]+)"(?P<rest>[^>]*)>'
    r"(?P<blanks>(?:&#160;)+)(?=[^<])"
)
WORK = ("sh", "-c", "sleep 600")


def take(pyz: Path) -> tuple[str, str]:
    """What a small cluster at work looks like, on simulated GPUs: commands as text, the dashboard as SVG."""
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
        text = "\n".join(f"$ gpuq {' '.join(words)}\n{trial.gpuq(*words)}" for words in commands)
        return text, _svg(_screen(trial))


def _screen(trial: Trial) -> str:
    """The dashboard's screen with its colours, as a terminal would be told to draw it."""

    def tmux(*words: str) -> str:
        command = ["tmux", "-L", trial.root.name, "-f", "/dev/null", *words]
        return subprocess.run(command, env=trial.environment, capture_output=True, text=True, check=True).stdout

    started = shlex.join(trial.command("tui", "--view", "jobs", "--theme", "dark"))
    tmux(
        "new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), f"TERM=xterm-256color COLORTERM=truecolor {started}"
    )
    try:
        until("the dashboard", 60, lambda: "HISTORY" in tmux("capture-pane", "-p"))
        tmux("send-keys", "j", "j", "j")  # to the job that asks for more than there is
        until("its detail", 60, lambda: "FITS" in tmux("capture-pane", "-p"))
        return tmux("capture-pane", "-p", "-e", "-N")
    finally:
        tmux("kill-server")


def _svg(screen: str) -> str:
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen), overflow="crop", no_wrap=True, end="")
    return _INDENTED.sub(_moved, console.export_svg(title="gpuq tui", unique_id="gpuq"))


def _moved(text: re.Match[str]) -> str:
    """A text element without the blanks it begins with: some viewers leave those out, and all that follows moves."""
    blanks = text["blanks"].count("&") * CELL
    x, length = float(text["x"]) + blanks, float(text["length"]) - blanks
    return f'x="{x:g}"{text["between"]}textLength="{length:g}"{text["rest"]}>'


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: picture.py dist/gpuq.pyz", file=sys.stderr)
        return 2
    printed, dashboard = take(Path(arguments[0]))
    picture = "\n".join(line.rstrip() for line in printed.splitlines())
    text, found = PICTURE.subn(lambda match: f"{match[1]}```text\n{picture}\n```\n", README.read_text())
    if found != 1:
        print("picture.py: README.md has no place for the picture", file=sys.stderr)
        return 1
    README.write_text(text)
    DASHBOARD.write_text(dashboard)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
