"""What a daemon writes to its own log, which its standard error is: kept from filling the disk."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

MAX_BYTES = 10 << 20  # of daemon.log; as much again is in daemon.log.1


def cut_own_log(limit: int = MAX_BYTES) -> bool:
    """Makes daemon.log.1 of a daemon.log that has grown beyond the limit; whether it had. Raises OSError.

    In place, since this process goes on writing to it: only possible for a file that is appended to.
    """
    path = Path(os.readlink("/proc/self/fd/2"))  # noqa: PTH115 -- it may name what no path can
    if path.name != "daemon.log" or not fcntl.fcntl(2, fcntl.F_GETFL) & os.O_APPEND or os.fstat(2).st_size <= limit:
        return False
    shutil.copyfile(path, f"{path}.1")
    os.ftruncate(2, 0)
    return True
