"""Whether this machine is on its way down, so that what ends now was ended by that. Standard library only.

Init ends all processes of a machine that is shut down, with SIGTERM and then SIGKILL. Nothing in the signal says so: a
job that died of it looks like one that somebody killed, and would not run again.
"""

# ruff: noqa: PTH110
# pathlib would be most of a supervisor's memory.
from __future__ import annotations

import os
import select
import signal
import struct

from agent.process_tree import read_proc

ENDED_BY_INIT = (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
_ANSWER_SECONDS = 2.0  # systemd is busy then
_SYSTEMCTL = "/usr/bin/systemctl"
_UTMP = struct.Struct("<hxxi376x")  # bits/utmp.h: type and pid of a record of 384 bytes
_RUN_LEVEL = 1
_HALT_AND_REBOOT = b"06"


def may_be_shutdown(exit_code: int | None, number: int | None) -> bool:
    """Whether a process that ended so may have been ended by init: by its signal, or as programs end that are told to
    by one, which may be in any way but well. torchrun says 1, a shell 128 + signal.
    """
    return number in ENDED_BY_INIT or bool(exit_code)


def goes_down(proc: str = "/proc", run: str = "/run") -> bool:
    """Takes some ms where systemd has to be asked: only for an end that may be due to it."""
    if read_proc(f"{proc}/1/comm").startswith(b"systemd-shutdow"):  # the kernel keeps 15 letters
        return True
    if os.path.exists(f"{run}/systemd/system"):
        return _asked_systemd().startswith(b"stopping")
    return _run_level(read_proc(f"{run}/utmp")) in _HALT_AND_REBOOT


def _run_level(utmp: bytes) -> bytes:
    """The run level init has gone to, as a letter, by the last record that says so; 'x' if none does."""
    level = ord("x")
    for at in range(0, len(utmp) - _UTMP.size + 1, _UTMP.size):
        kind, number = _UTMP.unpack_from(utmp, at)
        if kind == _RUN_LEVEL:
            level = number & 0xFF
    return bytes([level])


def _asked_systemd() -> bytes:
    """What systemd says of the state of the whole system; empty if it does not answer."""
    receive, send = os.pipe2(os.O_CLOEXEC)
    try:
        outputs = ((os.POSIX_SPAWN_DUP2, send, 1), (os.POSIX_SPAWN_DUP2, send, 2))
        pid = os.posix_spawn(_SYSTEMCTL, [_SYSTEMCTL, "is-system-running"], {}, file_actions=outputs)
    except OSError:
        os.close(receive)
        return b""
    finally:
        os.close(send)
    try:
        poll = select.poll()
        poll.register(receive, select.POLLIN)
        return os.read(receive, 100) if poll.poll(_ANSWER_SECONDS * 1000) else b""
    finally:
        os.close(receive)
        os.kill(pid, signal.SIGKILL)  # ours, and nobody's else before we take its status
        os.waitpid(pid, 0)
