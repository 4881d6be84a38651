"""Files whose middle was given back to the disk: where it is missing, and how it is given back.

The file itself is what knows: what was written is there. Where a file system cannot have holes there are none.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

LEAST_BYTES = 1 << 20  # of a log with a hole: a smaller one is not looked at
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h


class Hole(NamedTuple):
    """Offsets from start up to end."""

    start: int
    end: int


def find(fd: int, size: int, behind: int = 0) -> Hole | None:
    """The first hole within the first `size` bytes of a file, or what of it lies behind an offset."""
    if size < LEAST_BYTES:
        return None
    try:
        start = os.lseek(fd, behind, os.SEEK_HOLE)
        if start >= size:
            return None
        return Hole(start, min(size, os.lseek(fd, start, os.SEEK_DATA)))
    except OSError:  # not on this file system, or nothing follows
        return None


def punch(fd: int, hole: Hole) -> bool:
    """Gives this part of a file back to the disk; whether that is possible here."""
    if not hasattr(ctypes.CDLL(None), "fallocate64"):
        return False
    call = ctypes.CDLL(None).fallocate64
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    done: int = call(fd, _KEEP_SIZE | _PUNCH_HOLE, hole.start, hole.end - hole.start)
    return done == 0
