"""Processes below one process, and signals that reach the process meant and no other. Standard library only.

The supervisor and the agent use it; DESIGN's rule is that nothing is ever signalled on a pid alone.
"""

# ruff: noqa: PTH110, PTH208
# pathlib would be most of a supervisor's memory.
from __future__ import annotations

import errno
import os
import signal
import time

# Rounds of SIGSTOP before SIGTERM: two are enough but for what forks all the time.
_STOP_ROUNDS = 50
_SHELLS = (b"sh", b"bash", b"dash", b"ash", b"ksh", b"zsh", b"fish", b"csh", b"tcsh")


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process that lives; None if it is gone or dead."""
    fields = stat(pid)
    return None if fields is None or is_dead(fields) else int(fields[19])


def stat(pid: int) -> list[bytes] | None:
    """Fields 3 onward of /proc/PID/stat: state, parent, group, session, ...; None if the process is gone."""
    raw = read_proc(f"/proc/{pid}/stat")
    return raw[raw.rindex(b")") + 2 :].split() if raw else None  # the name before it may hold spaces and brackets


def is_dead(fields: list[bytes]) -> bool:
    """Of a stat: a process whose main thread has ended shows as a zombie, and lives while another thread does."""
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def read_proc(path: str) -> bytes:
    """All of a file in /proc, empty if the process is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def send_signal(pid: int, start: int, number: int) -> None:
    """Signals the process that has this pid and start time, and no other that got the pid since."""
    handle = -1
    try:
        handle = os.pidfd_open(pid)
    except AttributeError:
        pass  # a Python built on older headers
    except OSError as error:
        if error.errno == errno.ESRCH:
            return
    try:
        if start_time(pid) != start:
            return
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:  # Linux before 5.3: some microseconds lie between the look and the signal
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or it took another account (sudo): then the tree cannot be confirmed gone, and is not
    finally:
        if handle >= 0:
            os.close(handle)


def hang_up(pid: int, start: int) -> None:
    """What a terminal that goes away does to the process that leads there."""
    for number in (signal.SIGHUP, signal.SIGCONT):
        send_signal(pid, start, number)


def descendants(root: int) -> list[int]:
    """Everything below a process, parents first. A process that forks meanwhile may be missed: ask again."""
    if not _are_listed(root):
        below = _by_parent()
        found = below.get(root, [])[:]
        for pid in found:  # grows while it is walked
            found += below.get(pid, [])
        return found
    found = _listed(root)
    for pid in found:
        found += _listed(pid)
    return found


def children(pid: int) -> list[int]:
    return _listed(pid) if _are_listed(pid) else _by_parent().get(pid, [])


def _are_listed(pid: int) -> bool:
    """Whether the kernel lists children: it may be built without that, and then every process is looked at."""
    return os.path.exists(f"/proc/{pid}/task/{pid}/children")


def _listed(pid: int) -> list[int]:
    """The children of all threads of a process."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(child) for thread in threads for child in read_proc(f"/proc/{pid}/task/{thread}/children").split()]


def _by_parent() -> dict[int, list[int]]:
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        fields = stat(int(name)) if name.isdigit() else None
        if fields:
            below.setdefault(int(fields[1]), []).append(int(name))
    return below


def kill_tree(root: int) -> None:
    """SIGKILL for all that is below a process now; what is forked meanwhile is left for the next round."""
    kill_each(descendants(root))


def kill_each(pids: list[int]) -> None:
    """SIGKILL for processes that were listed just now."""
    for pid in pids:
        start = start_time(pid)
        if start is not None:
            send_signal(pid, start, signal.SIGKILL)


def warn_tree(main: int, number: int, main_only: bool) -> None:
    """A signal for a process and all below it, once; main_only: for this one alone.

    A shell that waits for others is left out, if it is the first: to most it says that they are to end, and what they
    have started is what the signal is for.
    """
    below = [] if main_only else descendants(main)
    waits = bool(below) and read_proc(f"/proc/{main}/comm").strip() in _SHELLS
    for pid in below if waits else [main, *below]:
        start = start_time(pid)
        if start is not None:
            send_signal(pid, start, number)


def terminate_tree(root: int) -> None:
    """SIGTERM, once, for each process below this one, and for none that they start in answer to it.

    They are suspended first, until none is left that could fork: one forked while the signals go round would miss
    its own, and one forked later is part of somebody's clean-up ('trap "cp model /safe" TERM') and must not get one.
    """
    held: dict[int, int] = {}
    look: set[int] = set()  # those that may have children not seen yet
    for _ in range(_STOP_ROUNDS):
        moving = {pid for pid in look if _may_fork(pid)}  # asked before its children are listed
        fresh = _unheld_below({root} | look, held)
        for pid, start in fresh.items():
            send_signal(pid, start, signal.SIGSTOP)
        held |= fresh
        look = moving | fresh.keys()
        if not look:
            break
        if not fresh:
            time.sleep(0.001)
    for number in (signal.SIGTERM, signal.SIGCONT):
        for pid, start in held.items():
            send_signal(pid, start, number)


def _unheld_below(pids: set[int], held: dict[int, int]) -> dict[int, int]:
    """Their descendants with their start times, but for those held and what is below these."""
    found: dict[int, int] = {}
    stack = list(pids)
    while stack:
        for pid in children(stack.pop()):
            start = start_time(pid)
            if start is not None and held.get(pid) != start and pid not in found:
                found[pid] = start
                stack.append(pid)
    return found


def _may_fork(pid: int) -> bool:
    """Whether it has not come to its stop yet, and is not kept from it by the kernel either (D)."""
    fields = stat(pid)
    return fields is not None and fields[0] in (b"R", b"S")
