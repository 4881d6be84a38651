"""Starting a program below the supervisor, in two ways. Standard library only, for the supervisor's reasons.

`spawn` shares memory with its caller until exec (posix_spawn), which takes 1.5 ms less of processor time for each job
than a fork, and stops the caller meanwhile. `fork` is used where the supervisor must be able to act whatever happens: a
working directory on a file server that is down holds up chdir and exec without end, and a job with a lease must then be
killed on time. The kernel kills such a child also when its supervisor dies. And it is used where the job runs in
another account, which is taken for good before anything of the job is touched: what root may enter or open, the job may
not. no_new_privs is not set: in a job sudo works as it does at a login.
"""

# ruff: noqa: PTH110
# pathlib would be most of a supervisor's memory.
from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from agent.output_files import Files, copied_to

Account = tuple[int, int, list[int]]  # uid, gid, all groups: as numbers, since names would have to be looked up
NO_FILES: Files = (None, None, False)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

_libc = ctypes.CDLL(None)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


# Python ignores SIGPIPE, nohup SIGHUP, ...: exec resets handlers by itself but hands on what is ignored.
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def spawn(argv: list[str], env: dict[str, str], cwd: str, log: int) -> int | str:
    """The pid of argv, in a session of its own with both outputs in log; or what `why_not` reads. Leaves the caller in
    cwd.
    """
    outputs = ((os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2))
    _forget_peak()

    def start(path: str) -> int:
        return os.posix_spawn(path, argv, env, file_actions=outputs, setsid=True, setsigmask=(), setsigdef=_SIGNALS)

    return _first_that_starts(argv[0], env, cwd, start)


def _forget_peak() -> None:
    """Exec adds the memory it leaves to what the new program has used at most: this process', as large as it ever was.

    That may have been for an earlier run, with more environment or output than this one.
    """
    with suppress(OSError):  # not every kernel has it
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"5")
        finally:
            os.close(fd)


class Start(NamedTuple):
    """What a forked child is to become, and with what.

    outputs: the log for both, and files to which they are copied. keep: a descriptor it inherits, stdin another, if not
    negative. enter puts the process that calls it into its control groups. account: whose, if not this one.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    outputs: tuple[int, Files]
    keep: int
    enter: Callable[[], None]
    account: Account | None
    stdin: int = -1


def fork(start: Start) -> tuple[int, int]:
    """A child that is to `_become` what start says, and what it reports on. Raises OSError."""
    parent = os.getpid()
    receive, report = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.fork()
    except OSError:
        os.close(receive)
        os.close(report)
        raise
    if child == 0:
        _become(start, parent, report)
    os.close(report)
    return child, receive


def _become(start: Start, parent: int, report: int) -> NoReturn:
    """No other file is open in it but keep and stdin.

    Before anything else it enters its control groups. A terminal as stdin becomes its own; without one stdin is closed
    off, as it is here. On failure it writes to report what `why_not` reads, and exits. On success report closes, being
    close-on-exec.
    """
    argv, env, cwd, (log, files), keep, enter, account, stdin = start
    failure = f"cgroup {errno.EIO}"
    try:
        enter()
        failure = f"exec {errno.EIO}"
        os.setsid()  # so that its `kill 0` cannot reach the supervisor
        if account is not None:
            failure = f"account {errno.EPERM}"
            for fd in {log, stdin} - {-1}:
                os.fchown(fd, account[0], -1)  # or `echo failed > /dev/stderr`, which opens the pipe anew, is refused
            take_account(*account)
            failure = f"exec {errno.EIO}"
        # Here, since a change of account takes it back.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # without its supervisor nobody would keep its limits
        if os.getppid() != parent:
            os._exit(127)
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        if stdin >= 0:
            os.dup2(stdin, 0)
            if os.isatty(0):
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        out, error = log, log
        if any(files):
            failure = f"output {errno.EIO}"
            out, error = copied_to(files, log)
            failure = f"exec {errno.EIO}"
        os.dup2(out, 1)
        os.dup2(error, 2)
        if keep >= 0:
            os.set_inheritable(keep, True)
        failure = str(_first_that_starts(argv[0], env, cwd, lambda path: os.execve(path, argv, env)))
    except OSError as error:
        failure = f"{failure.split()[0]} {error.errno}"
    finally:
        os.write(report, failure.encode())
        os._exit(127)


def take_account(uid: int, gid: int, groups: list[int]) -> None:
    """Gives up root for an account, in a way that cannot be undone. Raises OSError if that is not what came of it."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or 0 in os.getresuid():
        raise PermissionError(errno.EPERM, "another account was not taken")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PermissionError(errno.EPERM, "root was not given up")


def _first_that_starts(name: str, env: dict[str, str], cwd: str, start: Callable[[str], int]) -> int | str:
    """What start says of the first place in PATH where the program can be started, or the stage and errno."""
    try:
        os.chdir(cwd)
    except OSError as error:
        return f"chdir {error.errno}"
    except ValueError:  # a NUL in it
        return f"chdir {errno.EINVAL}"
    search = env.get("PATH", _DEFAULT_PATH).split(":")
    stage, failed = "exec", errno.ENOENT
    for path in [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in search]:
        try:
            if os.path.exists(path):
                return start(path)
        except OSError as error:
            if error.errno == errno.ENOENT:  # the file is there, so something it names is not
                stage = "interpreter"
            else:
                failed = error.errno or failed
        except ValueError:  # a NUL in it
            failed = errno.EINVAL
    return f"{stage if failed == errno.ENOENT else 'exec'} {failed}"


def why_not(failure: str, name: str, cwd: str) -> str:
    """What a child reported, for people."""
    stage, number = failure.split()
    why = os.strerror(int(number))
    if stage == "cgroup":
        return f"cannot enter the control groups of the job: {why}"
    if stage == "output":
        return f"cannot write the files of -o and -e: {why}"
    if stage == "account":
        return f"cannot take the account of the job: {why}"
    if stage == "chdir":
        return f"cannot enter the working directory '{cwd}': {why}"
    if stage == "interpreter":
        return f"cannot execute '{name}': the interpreter in its first line does not exist"
    if int(number) == errno.ENOEXEC:
        return f"cannot execute '{name}': {why}; a script needs a first line such as #!/bin/bash"
    return f"cannot execute '{name}': {why}"
