"""Who runs, and since when and until when, as seen from outside of all hosts: by the kernel's process table alone."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.lab.host import Host

_LOOK_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Life:
    """A job's main process. born and seen, when it was last there, are in seconds of CLOCK_BOOTTIME."""

    host: str
    pid: int
    born: float
    seen: float


class Watch:
    """Looks ten times a second for processes that lead a session and whose last argument is a mark: jobs' main ones.

    Commands that submit such a job have the mark too, but lead no session.
    """

    def __init__(self, hosts: list[Host], *marks: str) -> None:
        self._hosts, self._lives = hosts, {mark.encode(): {} for mark in marks}  # type: dict[bytes, dict[tuple[int, float], Life]]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._looked = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def lives(self, mark: str) -> list[Life]:
        """All that there have been, in the order they were born."""
        return sorted(self._lives[mark.encode()].values(), key=lambda life: life.born)

    def living(self, mark: str) -> list[Life]:
        """Those there were at the last look."""
        return [life for life in self.lives(mark) if life.seen >= self._looked]

    def overlap(self, mark: str) -> list[Life]:
        """The first two that were there at the same time; nothing if there were none."""
        lives = self.lives(mark)
        for before, after in zip(lives, lives[1:], strict=False):
            if after.born < before.seen:
                return [before, after]
        return []

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        names = {_place(host.pid): host.name for host in self._hosts}
        for path in Path("/proc").iterdir():
            pid = int(path.name) if path.name.isdigit() else 0
            mark = _last_argument(pid) if pid else b""
            if mark in self._lives:
                fields = _stat(pid)
                if fields and int(fields[3]) == pid:
                    born = int(fields[19]) / _TICKS
                    host = names.get(_place(pid), "?")
                    self._lives[mark].setdefault((pid, born), Life(host, pid, born, now)).seen = now
        self._looked = now


def _last_argument(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2]
    except OSError:
        return b""


def _stat(pid: int) -> list[str]:
    """Fields 3 onward of its stat: state, parent, group, session, ...; nothing if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return fields if fields[0] not in "ZX" else []


def _place(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:
        return ""
