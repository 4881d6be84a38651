"""Unpacks gpuq.pyz into the user's cache: the slow path of a start, taken once per build, Python and user.

Whoever starts at the same moment, and whatever ends a start half-way, `site` is either absent or whole: it is made
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
from collections.abc import Callable, Iterator
from pathlib import Path

OWN_PACKAGES = ("gpuq", "agent", "tui")
ABANDONED_SECONDS = 3600


def install(pyz: str, build_id: str, site: str, is_complete: Callable[[str], bool]) -> str:
    """Makes `site` whole and returns it; a private temporary directory, gone at exit, where the cache is of no use."""
    home = Path(site).parent
    payload = _payload(pyz, build_id)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = home.stat().st_uid
        if owner != os.geteuid():
            raise PermissionError(errno.EACCES, f"belongs to user {owner}")
        with _alone(home):
            if not is_complete(site):
                _tell("gpuq: unpacking for the first time (a few seconds)")
                _sweep(home)
                fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
                try:
                    _unpack(payload, fresh, Path(site))
                    _put(fresh, Path(site), is_complete)
                finally:
                    shutil.rmtree(fresh, ignore_errors=True)
        return site
    except OSError as error:
        return _temporary(payload, f"{home}: {error.strerror or error}")


def _payload(pyz: str, build_id: str) -> bytes:
    """The packed program, read and checked whole: an upgrade may be writing over the file at this moment."""
    try:
        with zipfile.ZipFile(pyz) as archive:
            if json.loads(archive.read("build.json"))["build_id"] == build_id:
                return archive.read("payload.zip")
    except (OSError, ValueError, LookupError, zipfile.BadZipFile):
        pass
    sys.stderr.write(f"gpuq: {pyz} is damaged, or was replaced at this moment: start it again, or else copy it again\n")
    sys.exit(2)


def _temporary(payload: bytes, trouble: str) -> str:
    sys.stderr.write(f"gpuq: cannot use the cache {trouble}; unpacking to a temporary directory (set GPUQ_CACHE)\n")
    try:
        fresh = tempfile.mkdtemp(prefix="gpuq-")
        atexit.register(_remove, fresh, os.getpid())
        _unpack(payload, Path(fresh), Path(fresh))
    except OSError as error:
        sys.stderr.write(f"gpuq: nor is there another place to unpack to: {error}\n")
        sys.exit(2)
    return fresh


def _remove(directory: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends must not take it from its parent
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Lets one start unpack and the others wait for it. It only saves work: a rename decides, not this lock."""
    with (home / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # network file systems without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(home: Path) -> None:
    """Deletes what starts that were killed half-way left behind; an hour old, so that nobody is still at it."""
    for left in [*home.glob(".new-*"), *home.glob(".old-*")]:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _unpack(payload: bytes, fresh: Path, site: Path) -> None:
    """Fills `fresh`, later to be known as `site`, with the program, its byte code and the list is_complete() reads."""
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        archive.extractall(fresh)
        names = archive.namelist()
    for name in names:
        if name.endswith(".py"):
            # Unchecked: Python does not look at the source again, nobody edits a cache. Quiet: packages carry templates
            # and code for other Pythons, and importing one of those says so itself.
            py_compile.compile(
                str(fresh / name),
                dfile=str(site / name),
                quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
    _list(fresh)


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


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(line + "\n")
