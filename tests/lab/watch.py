"""Who runs, and since when and until when, as seen from outside of all hosts: by the kernel's process table alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from tests.lab.host import Host
from tests.lab.lab import until

_LOOK_SECONDS = 0.25
_ONE_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Life:
    """A job's main process. born and seen, when it was last there, are in seconds of CLOCK_BOOTTIME."""

    host: str
    pid: int
    born: float
    seen: float


class Watch:
    """Looks four times a second for processes that lead a session and whose last argument is a mark: jobs' main ones.

    Commands that submit such a job have the mark too, but lead no session.
    """

    def __init__(self, hosts: list[Host], *marks: str) -> None:
        self._hosts = hosts
        self._lives: dict[bytes, dict[tuple[int, float], Life]] = {mark.encode(): {} for mark in marks}
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

    def one(self, mark: str) -> Life:
        """The only one there is now; raises HostError if there is none, or are several."""
        until(f"one process of {mark}", _ONE_SECONDS, lambda: len(self.living(mark)) == 1)
        return self.living(mark)[0]

    def on(self, host: str) -> list[Life]:
        """All there are now on one host."""
        return [life for mark in self._lives for life in self.living(mark.decode()) if life.host == host]

    def overlap(self, mark: str, host: str = "") -> list[Life]:
        """The first two that were there at the same time, on one host if it is given; nothing if there were none."""
        lives = [life for life in self.lives(mark) if host in ("", life.host)]
        for before, after in pairwise(lives):
            if after.born < before.seen:
                return [before, after]
        return []

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        names = {_place(host.pid): host.name for host in self._hosts}
        for pid in _pids():
            mark = _last_argument(pid)
            if mark in self._lives:
                fields = _stat(pid)
                if fields and int(fields[3]) == pid:
                    born = int(fields[19]) / _TICKS
                    host = names.get(_place(pid), "?")
                    self._lives[mark].setdefault((pid, born), Life(host, pid, born, now)).seen = now
        self._looked = now


def marked(mark: str) -> list[tuple[int, bool]]:
    """The processes whose last argument is this now, with whether they lead a session."""
    found = []
    for pid in _pids():
        fields = _stat(pid) if _last_argument(pid) == mark.encode() else []
        if fields:
            found.append((pid, int(fields[3]) == pid))
    return found


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


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
        return str(Path(f"/proc/{pid}/ns/uts").readlink())
    except OSError:
        return ""
