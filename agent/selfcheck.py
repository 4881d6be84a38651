"""Whether this machine can take work at all: what every job needs of it, tried."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

# A job's log and exit record, and some room for what it does at its start.
LEAST_FREE_BYTES = 16 << 20
LEAST_FREE_INODES = 64
TEMPORARY = Path("/tmp")
_TEXT = b"gpuq tries whether this can be written\n"


def trouble(folders: Iterable[Path]) -> str:
    """What keeps jobs from being run here, in words that stay the same while it lasts; '' if nothing does."""
    return next(filter(None, (_trouble_of(folder) for folder in dict.fromkeys(folders))), "")


def _trouble_of(folder: Path) -> str:
    try:
        free, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
        if free < LEAST_FREE_BYTES:
            return f"the disk of {folder} has less than {LEAST_FREE_BYTES >> 20}M left"
        if inodes.f_files and inodes.f_favail < LEAST_FREE_INODES:
            return f"the disk of {folder} has no room for more files"
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_TEXT)
            file.flush()
            file.seek(0)
            if file.read() != _TEXT:
                return f"what is written to {folder} is not what is read there"
    except OSError as error:
        return f"cannot write to {folder}: {error.strerror}"
    return ""
