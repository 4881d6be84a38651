"""A daemon runs from a copy of the program that is its own: the cache may be emptied and gpuq.pyz replaced under it.

The copy is HOME/KIND/program-*/site, of hard links where the cache lies on the same file system; where it does not, and
the copy would take more than half of what is free, there is none. The daemon holds a lock on it, removes it when it
ends, and removes those that daemons which were killed have left behind.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gpuq.config import host_home
from gpuq.units import format_size

_PREFIX = "program-"
_LOCK = "lock"
_UNLOCKED_SECONDS = 60.0  # many times what passes between making a copy and locking it


def settle(kind: str, words: Sequence[str]) -> str | None:
    """Starts this command again from a copy, in the same process, unless it already runs from one.

    Returns why no daemon can run here, if so. It is for a verb that runs a daemon, before any of its words (a token on
    standard input) is consumed. words: those behind the verb.
    """
    if sys.platform != "linux":
        return "controller and agent run on Linux; elsewhere gpuq is a client: see gpuq login --help"
    bootstrap = sys.modules.get("gpuq_bootstrap")
    if bootstrap is None or {"-h", "--help", "--service"} & set(words):
        return None
    site = Path(bootstrap.SITE)
    if site.parent.name.startswith(_PREFIX):
        _keep(site.parent)
        return None
    directory = Path(host_home(_home_in(words)), kind)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _noexec(directory):
            copy = _copied(site, directory)
            os.execv(sys.executable, [sys.executable, "-I", "-S", str(copy), kind, *words])
        trouble = f"{directory} is mounted noexec"
    except OSError as error:
        trouble = str(error.strerror)
    if _noexec(site):
        return f"{site.parent} and {directory} are mounted noexec: set GPUQ_CACHE to a directory that is not"
    sys.stderr.write(f"gpuq {kind}: runs from the cache, which must not be emptied, not from a copy: {trouble}\n")
    return None


def _home_in(words: Sequence[str]) -> str | None:
    """What --home says; click, which reads options, has not been at work yet."""
    found = None
    for at, word in enumerate(words):
        if word == "--home":
            found = next(iter(words[at + 1 :]), None)
        elif word.startswith("--home="):
            found = word.partition("=")[2]
    return found


def _noexec(directory: Path) -> bool:
    """Whether no compiled module can be loaded from there."""
    return bool(os.statvfs(directory).f_flag & os.ST_NOEXEC)


def _copied(site: Path, directory: Path) -> Path:
    """Raises OSError, with a strerror for people."""
    if site.stat().st_dev != directory.stat().st_dev:
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
        disk = os.statvfs(directory)
        if 2 * size > (free := disk.f_bavail * disk.f_frsize):
            raise OSError(errno.ENOSPC, f"it takes {format_size(size)}, and {directory} has {format_size(free)} left")
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
    try:
        shutil.copytree(site, folder / "site", copy_function=_link)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        # copytree goes on to the end, and tells of each file.
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else str(error)
        raise OSError(errno.EIO, first) from error
    return folder / "site"


def _link(source: str, copy: str) -> None:
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def _keep(folder: Path) -> None:
    """Locks the copy that this process runs from until its end, and sweeps up copies that nobody holds."""
    with suppress(OSError):
        _lock(folder)
    atexit.register(_remove, folder, os.getpid())
    for other in folder.parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if other != folder and time.time() - other.stat().st_mtime > _UNLOCKED_SECONDS:
                os.close(_lock(other))
                shutil.rmtree(other, ignore_errors=True)


def _lock(folder: Path) -> int:
    """A POSIX record lock: it works on NFS too, and no child inherits it. Raises OSError if somebody has it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
