"""One agent per machine for real GPUs: a lock every account of the machine can see, in memory-backed /run/lock or /tmp.

It is a POSIX record lock, because these are not inherited by fork: supervisors outlive their agent, and none may keep
its successor out. Closing any descriptor of the file drops such a lock, so within a process it is opened once only.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from gpuq.errors import Conflict

_NAME = "gpuq-gpus.lock"
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_in_this_process: set[Path] = set()
_guard = threading.Lock()


class GpuClaim:
    """The right to offer this machine's real GPUs, until released or until the process is gone."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd

    def release(self) -> None:
        """Give the right back; a second call does nothing. The file stays: removing it would race with a claim."""
        with _guard:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                _in_this_process.discard(self._path)

    def __enter__(self) -> GpuClaim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim_real_gpus(name: str, folder: Path | None = None) -> GpuClaim:
    """Claim this machine's GPUs for the agent called `name`; raises Conflict naming the agent that has them.

    folder is where the lock lies; by default the same place for every account of the machine. Containers that do not
    share it do not see each other's claims.
    """
    path = (folder or _machine_folder()) / _NAME
    with _guard, _serialised(path.with_suffix(".guard")):
        if path in _in_this_process:
            raise Conflict("this process already offers the machine's GPUs")
        fd = _open(path)
        if not _try_lock(fd):
            holder, called = _holder(fd), _read(fd)
            os.close(fd)
            if not _only_a_zombie(holder):
                where = f"pid {holder}" if holder > 0 else "in another container"
                who = f"the agent '{called}' ({where})"
                raise Conflict(
                    f"{who} already offers this machine's GPUs", "stop it first, or use --simulate-gpus for this one"
                )
            # Killed while its thread was stuck inside the driver: it holds the lock for as long as that lasts, but
            # will never do anything again. Its jobs need an agent, so the lock moves to a new file.
            try:
                path.unlink()
            except OSError as error:
                raise Conflict(
                    f"a dead agent (pid {holder}) stuck in the NVIDIA driver holds {path}: {error.strerror}",
                    f"remove {path}, or restart the machine",
                ) from error
            fd = _open(path)
            if not _try_lock(fd):
                os.close(fd)
                raise Conflict(f"{path} is locked by something that is not gpuq")
        os.ftruncate(fd, 0)
        os.pwrite(fd, name.encode(), 0)
        _in_this_process.add(path)
        return GpuClaim(path, fd)


def _machine_folder() -> Path:
    """/run/lock where everyone may write there (Debian and kin), else /tmp; the same for root and for users."""
    run_lock = Path("/run/lock")
    try:
        shared = run_lock.stat().st_mode & stat.S_IWOTH
    except OSError:
        shared = 0
    return run_lock if shared else Path("/tmp")


@contextmanager
def _serialised(path: Path) -> Iterator[None]:
    """Claims are made one after the other: two that both found a dead holder must not remove each other's new file."""
    fd = _open(path)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    """The file, made for all accounts to use. Never through a link: anyone may write in its folder."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(2):
        try:
            # Without O_CREAT first: the kernel refuses that for another's file in a sticky folder, even to root.
            fd = os.open(path, flags)
        except FileNotFoundError:
            try:
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            except OSError as error:
                raise Conflict(
                    f"cannot make {path}, which keeps two agents off the same GPUs: {error.strerror}"
                ) from error
            os.fchmod(fd, 0o666)  # whatever the umask says
        except OSError as error:
            raise Conflict(
                f"cannot open {path}, which keeps two agents off the same GPUs: {error.strerror}", f"remove {path}"
            ) from error
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        break
    raise Conflict(f"{path}, which keeps two agents off the same GPUs, is no plain file", f"remove {path}")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _holder(fd: int) -> int:
    """The pid of the lock's holder by the kernel's word, not the file's; 0 or less if it cannot be seen from here."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return int(struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))[4])


def _read(fd: int) -> str:
    return os.pread(fd, 256, 0).decode(errors="replace")


def _only_a_zombie(pid: int) -> bool:
    """Whether the process is dead but for a thread the kernel cannot end."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("Z", "X")
