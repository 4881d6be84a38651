"""Runs a login shell until it ends or its time is up, and then ends whatever it has left running.

What a profile starts in the background is in no job: nobody would hold it to a limit, know whose it is on a GPU, or end
it with the job it was read for.

A program of its own, given to Python as text, since the zipapp's cache may be gone by the time it is wanted. Its
argument is a JSON object: argv, env, seconds, and taken, what of subprocess.Popen makes it another account's.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class _TimeIsUp(Exception):
    pass


def main(asked: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _end)
    signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
    with suppress(_TimeIsUp, OSError, subprocess.SubprocessError):
        process = subprocess.Popen(asked["argv"], env=asked["env"], cwd="/", start_new_session=True, **asked["taken"])
        process.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(ChildProcessError):  # nothing is left: what its parent leaves is a child of this process
        while True:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)  # ours, and nobody's else before we take its status
            os.wait()


def _end(number: int, frame: object) -> None:
    raise _TimeIsUp


def _children() -> list[int]:
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):  # noqa: PTH208
        with suppress(OSError, ValueError), open(f"/proc/{int(name)}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == me:
                found.append(int(name))
    return found


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
