"""Finds and ends what is left of a run that no supervisor watches.

What may be known of such a process: its control group, unless it asked the kernel for another, where there are any;
what is in its environment, unless it cleared or overwrote that; its session, unless it made its own; the pipe its
output goes to, unless it sends that elsewhere; and its parent: what a supervisor that was killed leaves is handed to
the launcher it came from, if that still lives, and nothing escapes that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agent.process_tree import descendants, is_dead, read_proc, send_signal, start_time, stat
from agent.run_cgroup import kill_all, remove_all
from agent.run_cgroup import processes as processes_in

AGAIN_SECONDS = 0.2  # between looks at what was killed: a process in the driver may take long to die
_SUPERVISOR = b"gpuq-supervisor\n"


@dataclass(frozen=True, slots=True)
class Launched:
    """What a supervisor noted of what it started: its launcher, the job's pipe, and the process that leads its session.

    A process is a pid and its start in clock ticks from boot.
    """

    launcher: tuple[int, int]
    pipe: int
    leader: tuple[int, int]

    @property
    def launcher_lives(self) -> bool:
        return start_time(self.launcher[0]) == self.launcher[1]


@dataclass(frozen=True, slots=True)
class Traces:
    """By what to know the processes of a run.

    marks: 'NAME=VALUE', all of which are in their environment. directory: of the run, which a supervisor holds open
    even if it was deleted; one that ends in a dot stands for the runs of all ranks. groups: folders of control groups.
    """

    marks: tuple[bytes, ...]
    directory: str
    launched: Launched | None = None
    groups: Sequence[str] = ()


async def end_all(traces: Traces) -> bool:
    """Kills all there is and returns when nothing is left; whether there was anything."""
    found = False
    while await asyncio.to_thread(_round, traces):
        found = True
        await asyncio.sleep(AGAIN_SECONDS)
    await asyncio.to_thread(remove_all, list(traces.groups))
    return found


def _round(traces: Traces) -> bool:
    """Kills what is there now; whether there was anything. A supervisor is waited for: it ends with its tree."""
    me = os.getpid()
    processes = dict(_processes())
    processes.pop(me, None)
    found: set[int] = set()
    waited_for: set[int] = set()
    for group in traces.groups:
        found.update(pid for pid in processes_in(group) if pid in processes)
    kill_all(list(traces.groups))
    for pid, fields in processes.items():
        if _is_marked(pid, fields, traces):
            found.add(pid)
        elif _supervises(pid, traces.directory):
            below = descendants(pid)
            if _supervises(pid, traces.directory):  # still, so that these are not of another run
                found.update(below)
                waited_for.add(pid)
    launched = traces.launched
    if launched is not None and launched.launcher_lives:
        # Its other children are supervisors, which it has forked: they have its command line.
        line = read_proc(f"/proc/{launched.launcher[0]}/cmdline")
        for pid, fields in processes.items():
            if int(fields[1]) == launched.launcher[0] and read_proc(f"/proc/{pid}/cmdline") != line:
                found |= {pid, *descendants(pid)}
    for pid in found:
        start = start_time(pid)
        if start is not None:
            send_signal(pid, start, signal.SIGKILL)
    return bool(found or waited_for)


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    for name in os.listdir("/proc"):  # noqa: PTH208
        fields = stat(int(name)) if name.isdigit() else None
        if fields is not None and not is_dead(fields):
            yield int(name), fields


def _is_marked(pid: int, fields: list[bytes], traces: Traces) -> bool:
    environment = set(_of_any_thread(pid, "environ").split(b"\0"))
    if environment.issuperset(traces.marks):
        return True
    launched = traces.launched
    if launched is None or any(item.startswith(b"GPUQ_ATTEMPT=") and item not in traces.marks for item in environment):
        return False
    leader, since = launched.leader
    if int(fields[3]) == leader and int(fields[19]) >= since and start_time(leader) in (None, since):
        return True
    return f"pipe:[{launched.pipe}]" in _open_files(pid)


def _supervises(pid: int, directory: str) -> bool:
    if read_proc(f"/proc/{pid}/comm") != _SUPERVISOR:
        return False
    opened = {target.removesuffix(" (deleted)") for target in _open_files(pid)}
    if directory.endswith("."):
        return any(target.startswith(directory) for target in opened)
    return directory in opened


def _of_any_thread(pid: int, name: str) -> bytes:
    """A file of /proc/PID; where the main thread has ended it is empty there, but not at the other threads."""
    if found := read_proc(f"/proc/{pid}/{name}"):
        return found
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            if found := read_proc(f"/proc/{pid}/task/{thread}/{name}"):
                return found
    return b""


def _open_files(pid: int) -> set[str]:
    """What the descriptors of a process lead to; nothing for a process of another account."""
    found: set[str] = set()
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/task/{thread}/fd"):  # noqa: PTH208
                    with suppress(OSError):
                        found.add(os.readlink(f"/proc/{pid}/task/{thread}/fd/{fd}"))  # noqa: PTH115
            if found:
                break  # they share them
    return found
