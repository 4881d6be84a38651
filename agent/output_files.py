"""The files of -o and -e: what a job writes goes there on its way to its log. Standard library only.

They are opened by the job's process once it has the job's account, so that it is this account that may or may not. A
process of its own for each copies what comes: a file server that is down holds up the job then, as it would hold up one
that writes there itself, and never its supervisor.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from contextlib import suppress
from typing import NoReturn

Files = tuple[str | None, str | None, bool]  # of standard output and standard error; whether they are appended to

_PIECE = 1 << 16
_PR_SET_NAME = 15  # linux/prctl.h
_libc = ctypes.CDLL(None)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_name = ctypes.create_string_buffer(b"gpuq-output")


def copied_to(files: Files, log: int) -> tuple[int, int]:
    """What to use as standard output and standard error, so that both reach the log and their files. Raises OSError."""
    out, error, append = files
    both = None if out is None else _copier(out, append, log)
    if error == out:
        return both or log, both or log
    return both or log, log if error is None else _copier(error, append, log)


def _copier(path: str, append: bool, log: int) -> int:
    """Where to write what is to be in the file and in the log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if append else os.O_TRUNC)
    file = os.open(path, flags, 0o666)
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        if os.fork():  # whose parent is gone is the supervisor's: the job knows nothing of it, and need not wait for it
            os._exit(0)
        _copy(read, file, log, path)
    os.waitpid(child, 0)
    os.close(read)
    os.close(file)
    return write


def _copy(read: int, file: int, log: int, path: str) -> NoReturn:
    """Until everyone who could write has ended."""
    try:
        os.setsid()
        _libc.prctl(_PR_SET_NAME, ctypes.addressof(_name), 0, 0, 0)
        # What the job writes when it is told to end must arrive; a file that takes no more is an error like any other.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            if fd not in (read, file, log):
                with suppress(OSError):
                    os.close(fd)
        while data := os.read(read, _PIECE):
            _write_all(log, data)
            if file >= 0:
                try:
                    _write_all(file, data)
                except OSError as error:
                    why = os.strerror(error.errno or 0)
                    _write_all(log, f"\n[gpuq] {path} gets no more of this: {why}\n".encode(errors="replace"))
                    file = -1
    finally:
        os._exit(0)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # the job has the same pipe open, and has set it so for everyone
            room = select.poll()
            room.register(fd, select.POLLOUT)
            room.poll()
