"""Which attempt a process belongs to, and whose it is where it belongs to none."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, replace
from pathlib import Path

from agent.process_tree import is_dead, read_proc, start_time, stat
from agent.runs import existing
from gpuq.gpu_use import GpuProcess
from gpuq.model import AttemptUid, JobId

_MARK = b"GPUQ_ATTEMPT="
_DEPTH = 256  # of a process tree: more than anybody's, so that a walk that meets a process in passing ends


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What one attempt holds here. since is in monotonic seconds; share_bytes as in a Rank."""

    job: JobId
    gpus: tuple[int, ...]
    since: float
    share_bytes: int | None = None


class Tenants:
    """The processes of the runs below one directory, as of when this was made."""

    def __init__(self, runs: Path) -> None:
        self._here: set[AttemptUid] = set()
        self._supervisors: dict[tuple[int, int], AttemptUid] = {}  # by pid and start
        self._leaders: dict[int, tuple[int, AttemptUid]] = {}  # a session's leader: its start, its attempt
        for uid, _, directory in existing(runs):
            self._here.add(uid)
            supervisor = directory.supervisor()
            if supervisor is None or directory.has_ended:
                continue  # one that has ended shares its supervisor's pid with a later run
            self._supervisors[supervisor.pid, supervisor.start] = uid
            launched = directory.launched()
            if launched is not None:
                self._leaders[launched.leader[0]] = (launched.leader[1], uid)

    def owner(self, pid: int) -> AttemptUid | None:
        """The attempt a process belongs to: by its ancestors, which hold whatever it does, else by what it carries.

        The latter is for what is left of a run whose supervisor was killed. A process that says so of itself is
        believed, of a run there is: the uid of an attempt is known to who runs it.
        """
        above = pid
        for _ in range(_DEPTH):
            fields = stat(above)
            if fields is None or above <= 1:
                break
            uid = self._supervisors.get((above, int(fields[19])))
            if uid is not None:
                return uid
            above = int(fields[1])
        for item in read_proc(f"/proc/{pid}/environ").split(b"\0"):
            if item.startswith(_MARK):
                uid = AttemptUid(item.removeprefix(_MARK).decode(errors="replace"))
                return uid if uid in self._here else self._by_session(pid)
        return self._by_session(pid)

    def _by_session(self, pid: int) -> AttemptUid | None:
        fields = stat(pid)
        known = None if fields is None else self._leaders.get(int(fields[3]))
        if fields is None or known is None:
            return None
        since, uid = known
        return uid if int(fields[19]) >= since and start_time(int(fields[3])) in (None, since) else None


def described(process: GpuProcess) -> GpuProcess | None:
    """The process with its user and name, None if this machine shows no such process (any more)."""
    fields = stat(process.pid)
    if fields is None or is_dead(fields):
        return None
    command = read_proc(f"/proc/{process.pid}/comm").decode(errors="replace").strip()
    return replace(process, user=_user(process.pid), command=command or None)


def _user(pid: int) -> str | None:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
