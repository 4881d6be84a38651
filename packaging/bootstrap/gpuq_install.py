"""Unpacks gpuq.pyz into the user's cache: the slow path of a start, taken once per build, Python, machine and user.

Whoever starts at the same moment, and whatever ends a start half-way, a site is either absent or whole: it is made
under another name and renamed into place.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import io
import json
import os
import py_compile
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

OWN_PACKAGES = ("gpuq", "agent", "tui")
ABANDONED_SECONDS = 3600
UNUSED_SECONDS = 60 * 86400  # is_complete() marks a site that is used once a day
PATIENCE_SECONDS = 20.0  # many times what unpacking takes
MOST_COMPILERS = 4
# 263 modules, of which a process imports two at most: compiling them would take a fifth of all.
NOT_COMPILED = "pygments/lexers/"

Check = Callable[[str], bool]


def install(pyz: str, build_id: str, target: str, sites: Sequence[str], is_ours: Check, is_complete: Check) -> str:
    """Makes the first of `sites` whole that can be, and returns it.

    Where none can, it is a private temporary directory, gone at exit. A file system that nothing may be run from is
    taken only when there is no other: what is not compiled works there, daemons say that they cannot.
    """
    members = _members(pyz, build_id, target)
    troubles: list[str] = []
    for noexec in (False, True):
        for site in map(Path, sites):
            try:
                site.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not is_ours(str(site.parent)):
                    raise PermissionError(errno.EACCES, _whose(site.parent))
                if _is_noexec(site.parent) and not noexec:
                    raise PermissionError(errno.EACCES, "mounted noexec")
                if str(site) != sites[0]:
                    _say(f"cannot use the cache {troubles[0]}; unpacking to {site.parent} (set GPUQ_CACHE)")
                _fill(site, members, is_complete)
                return str(site)
            except OSError as error:
                troubles.append(f"{site.parent}: {error.strerror or error}")
    _say(f"cannot use the cache {troubles[0]}; unpacking to a temporary directory (set GPUQ_CACHE)")
    return _temporary(members)


def _members(pyz: str, build_id: str, target: str) -> dict[str, bytes]:
    """The parts of this target and the start, read and checked: an upgrade may be writing over the file just now."""
    try:
        with zipfile.ZipFile(pyz) as archive:
            built = json.loads(archive.read("build.json"))
            if built["build_id"] == build_id:
                names = ["__main__.py", *(part for part, targets in built["parts"].items() if target in targets)]
                return {name: archive.read(name) for name in names}
    except (OSError, ValueError, LookupError, zipfile.BadZipFile):
        pass
    _say(f"{pyz} is damaged, or was replaced at this moment: start it again, or else copy it again")
    sys.exit(2)


def _whose(directory: Path) -> str:
    owner = directory.stat().st_uid
    return "others may write to it" if owner == os.geteuid() else f"belongs to user {owner}"


def _is_noexec(directory: Path) -> bool:
    return bool(os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0))  # macOS has no such constant


def _fill(site: Path, members: Mapping[str, bytes], is_complete: Check) -> None:
    home = site.parent
    with _alone(home):
        if is_complete(str(site)):
            return
        if sys.stderr.isatty():
            _say("unpacking for the first time (two seconds)")
        _sweep(home)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
        try:
            _unpack(members, fresh, site)
            _put(fresh, site, is_complete)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _temporary(members: Mapping[str, bytes]) -> str:
    try:
        fresh = tempfile.mkdtemp(prefix="gpuq-")
        atexit.register(_remove, fresh, os.getpid())
        _unpack(members, Path(fresh), Path(fresh))
    except OSError as error:
        _say(f"nor is there another place to unpack to: {error}")
        sys.exit(2)
    return fresh


def _remove(directory: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends must not take it from its parent
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Lets one start unpack and the others wait for it. It only saves work: a rename decides, not this lock."""
    with (home / ".lock").open("w") as file:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:  # and not for ever: whoever has the lock may have been stopped by Ctrl-Z
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break  # network file systems without locks
        yield


def _sweep(home: Path) -> None:
    """Deletes what starts that were killed half-way left behind, an hour old, so that nobody is still at it; and old
    versions that nobody has started for long. Daemons have copies of their own.
    """
    for left in home.iterdir():
        half = left.name.startswith((".new-", ".old-"))
        with contextlib.suppress(OSError):
            marked = left if half else left / ".complete"
            if time.time() - marked.stat().st_mtime > (ABANDONED_SECONDS if half else UNUSED_SECONDS):
                shutil.rmtree(left, ignore_errors=True)


def _unpack(members: Mapping[str, bytes], fresh: Path, site: Path) -> None:
    """Fills `fresh`, later to be known as `site`, with the program, its byte code and the list is_complete() reads."""
    for name, data in members.items():
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as part:
                part.extractall(fresh)
        else:
            (fresh / name).write_bytes(data)
    names = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*.py"))
    _compile([name for name in names if not name.startswith(NOT_COMPILED)], fresh, site)
    _list(fresh)


def _compile(names: Sequence[str], fresh: Path, site: Path) -> None:
    """Two thirds of a first start, so the processors share it."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(processors, MOST_COMPILERS)
    shares = [names[number::count] for number in range(count)]
    children = []
    for share in shares[1:]:
        child = os.fork()
        if child == 0:
            status = errno.EIO
            try:
                _compile_these(share, fresh, site)
                status = 0
            except OSError as error:
                status = error.errno or errno.EIO
            finally:
                os._exit(status)
        children.append(child)
    try:
        _compile_these(shares[0], fresh, site)
    finally:
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for status in filter(None, ended):
        raise OSError(status, os.strerror(status) if status > 0 else f"compiling ended by signal {-status}")


def _compile_these(names: Sequence[str], fresh: Path, site: Path) -> None:
    for name in names:
        # Unchecked: Python does not look at the source again, nobody edits a cache. Quiet: packages carry templates
        # and code for other Pythons, and importing one of those says so itself.
        py_compile.compile(
            str(fresh / name),
            dfile=str(site / name),
            quiet=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _list(site: Path) -> None:
    """Writes `.complete`: directories to look at on every start with their mtimes, a blank line, all files' sizes."""
    listing = site / ".complete"
    listing.touch()  # before its directory's mtime is read
    files = sorted(path for path in site.rglob("*") if path.is_file() and path != listing)
    watched = {site} | {path for path in site.iterdir() if path.is_dir()}
    watched |= {path.parent for path in files if path.relative_to(site).parts[0] in OWN_PACKAGES}
    directories = [f"{path.stat().st_mtime_ns} {path.relative_to(site)}" for path in sorted(watched)]
    sizes = [f"{path.stat().st_size} {path.relative_to(site)}" for path in files]
    listing.write_text("\n".join(directories) + "\n\n" + "\n".join(sizes))


def _put(fresh: Path, site: Path, is_complete: Callable[[str], bool]) -> None:
    """Renames `fresh` to `site`, in place of what is left of an emptied one."""
    while True:
        try:
            fresh.rename(site)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if is_complete(str(site)):
            return  # another start was faster
        with contextlib.suppress(FileNotFoundError):
            # Moved aside before it is deleted, so that no other start ever meets it half-deleted under its name.
            old = tempfile.mkdtemp(prefix=".old-", dir=site.parent)
            site.rename(Path(old, "site"))
            shutil.rmtree(old, ignore_errors=True)


def _say(line: str) -> None:
    sys.stderr.write(f"gpuq: {line}\n")
