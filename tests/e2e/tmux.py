"""A program in a terminal of tmux: keys go in, the screen comes out as text."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.e2e.cluster import DEADLINE_SECONDS, until

LACKING = "" if shutil.which("tmux") else "there is no tmux: sh packaging/lab-packages.sh"
_SETTINGS = """\
set -g default-terminal {term}
set -g status off
set -s escape-time 0
"""
_END = "echo ended with $? and $(stty -a | tr ' ' '\\n' | grep -x -e echo -e -echo)"


class Terminal(NamedTuple):
    """One window of a tmux server of its own, which has no other."""

    socket: Path

    def screen(self) -> list[str]:
        """Its lines, without the blanks at the right."""
        return self._tmux("capture-pane", "-p").splitlines()

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", "--", text)

    def keys(self, *names: str) -> None:
        """Presses keys by tmux's names for them: Enter, Escape, C-s."""
        self._tmux("send-keys", *names)

    def shows(self, *texts: str, seconds: float = DEADLINE_SECONDS) -> list[str]:
        """Waits until all of these are on the screen, and gives it."""
        return self.until(lambda lines: all(any(text in line for line in lines) for text in texts), f"{texts}", seconds)

    def loses(self, text: str, seconds: float = DEADLINE_SECONDS) -> list[str]:
        """Waits until this is no longer on the screen, and gives that."""
        return self.until(lambda lines: not any(text in line for line in lines), f"no '{text}'", seconds)

    def until(self, holds: Callable[[list[str]], bool], what: str, seconds: float = DEADLINE_SECONDS) -> list[str]:
        """Waits until this holds of the screen, and gives it."""
        deadline = time.monotonic() + seconds
        while not holds(lines := self.screen()):
            assert time.monotonic() < deadline, "\n".join([f"not in {seconds:.0f} s: {what}", *lines])
            time.sleep(0.03)
        return lines

    def ended(self) -> int:
        """Waits for the program to end, and gives its exit status."""
        return int(self._end()[1])

    def restored(self) -> bool:
        """Whether the program has left the screen, the cursor, the mouse and the echo as it found them."""
        return self._end()[2] == "echo" and self._told("alternate_on cursor_flag mouse_any_flag") == "0 1 0"

    def _end(self) -> re.Match[str]:
        pattern = re.compile(r"^ended with (\d+) and (-?echo)$", re.MULTILINE)
        found = pattern.search("\n".join(self.until(lambda lines: any(map(pattern.match, lines)), "its end")))
        assert found is not None
        return found

    def _told(self, names: str) -> str:
        return self._tmux("display-message", "-p", " ".join(f"#{{{name}}}" for name in names.split())).strip()

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-S", self.socket, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout


@contextmanager
def terminal(
    folder: Path, command: Sequence[object], environment: Mapping[str, str], term: str, size: tuple[int, int]
) -> Iterator[Terminal]:
    """A terminal of this kind and size in which a shell runs the command, in this folder."""
    settings, socket = folder / "tmux.conf", folder / "tmux.socket"
    settings.write_text(_SETTINGS.format(term=term))
    width, height = map(str, size)
    start = ["tmux", "-u", "-S", str(socket), "-f", str(settings), "new-session", "-d", "-x", width, "-y", height]
    line = " ".join(shlex.quote(str(word)) for word in command)
    shell = f"{line}; {_END}; exec sleep 1000"
    subprocess.run([*start, shell], env={**environment, "LANG": "C.UTF-8"}, cwd=folder, check=True)
    try:
        yield Terminal(socket)
    finally:
        subprocess.run(["tmux", "-S", socket, "kill-server"], capture_output=True, check=False)
        until(lambda: subprocess.run(["tmux", "-S", socket, "ls"], capture_output=True).returncode, "tmux to end")
