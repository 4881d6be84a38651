"""The control groups of one run, as its supervisor makes, uses and removes them. Standard library only.

cgroups.py says where they lie. A run has none, one (version 2) or one in each of several hierarchies (version 1). The
supervisor is in none of them: what it holds must not be held against the job, nor be killed for the job's greed. Only
while it spawns a job (posix_spawn) it is: what it starts then is in them from its first instruction, at half the cost
of a fork that would enter them by itself.
"""

# ruff: noqa: PTH102, PTH106, PTH110
# pathlib would be most of a supervisor's memory.
from __future__ import annotations

import errno
import os
import time
from contextlib import suppress

from agent.process_tree import kill_each, read_proc

_PATIENCE_SECONDS = 0.5  # for what was killed to be gone from a group; then it is left to whoever looks next
_LOOK_SECONDS = 0.01
_MEMORY = ("memory.max", "memory.limit_in_bytes")
_ROOM_TO_START = 16 << 20  # arguments and environment, of 2 MiB at most, and what exec takes: else who spawns is killed
_NOT_EVERYWHERE = ("memory.swap.max", "memory.memsw.limit_in_bytes")  # kernels without swap, or without its accounts


class RunCgroup:
    """wanted: folders of its groups, the limits to write into each, and the supervisor's own group in its hierarchy."""

    def __init__(self, wanted: list[tuple[str, dict[str, str], str]]) -> None:
        self._wanted = wanted
        self.folders: list[str] = []  # those that there are: none before `make`
        self._doors: list[int] = []  # open: whoever writes 0 to them is in, as long as it has no other thread
        self._homes: list[int] = []  # likewise of the supervisor's
        self.inside = False  # whether the supervisor could not leave them

    def make(self) -> str:
        """Makes them and sets their limits; why something of that failed, or ''."""
        failed = ""
        for folder, limits, home in self._wanted:
            try:
                with suppress(FileExistsError):
                    os.mkdir(folder)
                self._doors.append(_door(folder))
                self.folders.append(folder)
                with suppress(OSError):
                    self._homes.append(_door(home))
                for name, value in limits.items():
                    if not _write(f"{folder}/{name}", value) and name not in _NOT_EVERYWHERE:
                        failed = f"{name} cannot be set"
            except OSError as error:
                failed = f"no control group: {os.strerror(error.errno or 0)}"
        return failed

    def join(self) -> None:
        """Puts the calling process into them, and so all that it starts. Raises OSError."""
        for door in self._doors:
            os.write(door, b"0")

    @property
    def has_way_back(self) -> bool:
        """Whether the supervisor can leave them after it has joined them, and be sure to live until then."""
        limits = (value for _, files, _ in self._wanted for name, value in files.items() if name in _MEMORY)
        return len(self._homes) == len(self._doors) and all(int(value) >= _ROOM_TO_START for value in limits)

    def leave(self) -> None:
        """Takes the calling process, which has joined, back to where it was."""
        try:
            for home in self._homes:
                os.write(home, b"0")
        except OSError:
            self.inside = True

    def kill(self) -> None:
        """SIGKILL for all that is in them. Where the kernel does not do it in one stroke, first no more may come."""
        if not self.inside:
            kill_all(self.folders)

    def oom_kills(self) -> int:
        """How many processes of the run the kernel has killed because memory was short, the run's or the machine's."""
        return max((_oom_kills(folder) for folder in self.folders), default=0)

    def remove(self) -> None:
        """Takes them away, with what may be left in them."""
        for door in self._doors + self._homes:
            os.close(door)
        if not self.inside:
            remove_all(self.folders)
        self._doors, self._homes, self.folders = [], [], []


def _door(folder: str) -> int:
    """Where the one thread of a process enters.

    For a whole process the kernel first waits until no processor is in the midst of a fork, 6 to 12 ms unless it did so
    a moment ago. Version 1 takes a thread by itself, which from Linux 5.5 on needs no such wait.
    """
    try:
        return os.open(f"{folder}/tasks", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def kill_all(folders: list[str]) -> None:
    """SIGKILL for all that is in these groups and below."""
    for folder in folders:
        if not _write(f"{folder}/cgroup.kill", "1"):
            _write(f"{folder}/pids.max", "0")
            kill_each(processes(folder))


def processes(folder: str) -> list[int]:
    """What is in a group and those below it; nothing if it is gone."""
    found = [int(pid) for pid in read_proc(f"{folder}/cgroup.procs").split()]
    for below in _below(folder):
        found += processes(below)
    return found


def remove_all(folders: list[str]) -> None:
    """Takes groups away, having killed what is in them; what cannot be killed at once keeps its group."""
    until = time.monotonic() + _PATIENCE_SECONDS
    for folder in folders:
        while not _removed(folder) and time.monotonic() < until:
            kill_all([folder])
            time.sleep(_LOOK_SECONDS)


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno == errno.EBUSY:
            for below in _below(folder):
                _removed(below)
            with suppress(OSError):
                os.rmdir(folder)
        return not os.path.exists(folder)
    return True


def _below(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _oom_kills(folder: str) -> int:
    for name in ("memory.events", "memory.oom_control"):
        for line in read_proc(f"{folder}/{name}").splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


def _write(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
