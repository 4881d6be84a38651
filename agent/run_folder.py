"""The supervisor's side of the directory of a run; agent/runs.py is the agent's. Standard library only."""

# ruff: noqa: PTH102, PTH112, PTH120
# pathlib would be most of a supervisor's memory.
from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import Any

from agent.process_tree import start_time
from agent.spool import Spool


class RunFolder:
    """One run's directory, held open: what is in it can be reached wherever it was moved. Raises OSError."""

    def __init__(self, path: str, boot_id: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.saved = False  # whether the exit record is on disk
        self._notes = -1  # the file of traces, which the exit record takes over
        self._identity = f"{boot_id}:{os.getpid()}:{start_time(os.getpid())}"

    def claim(self) -> bool:
        """Whether the run is this process' to start: nobody has taken its name before."""
        try:
            # A link is made whole in one step and needs no block of its own: the smallest write that is also a lock.
            os.symlink(self._identity, "supervisor", dir_fd=self.fd)
        except FileExistsError:
            return False
        return True

    def trace(self, launcher: str, pipe: int, process: int) -> None:
        """Notes how to find again what was started, should this process die: launcher, pipe, and the one it leads."""
        text = f"{launcher}:{pipe}:{process}:{start_time(process) or 0}\n"
        with suppress(OSError):
            os.pwrite(self._open_notes(), text.encode(), 0)

    def _open_notes(self) -> int:
        if self._notes < 0:
            self._notes = os.open("traces", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        return self._notes

    def save(self, record: dict[str, Any], spool: Spool) -> bool:
        """Puts the exit record on disk for good; False if that is to be tried again.

        If somebody has deleted the directory it is made again: the record says that this run is not to be repeated.
        """
        try:
            try:
                self._write(record)
            except FileNotFoundError:
                if not os.path.isdir(os.path.dirname(self.path)):
                    return True  # all runs are gone, and with them whoever would ask
                self._make_again(spool)
                self._write(record)
        except OSError:
            return False
        self.saved = True
        return True

    def _write(self, record: dict[str, Any]) -> None:
        # In the file that is there: it is one less to make for each job, and on a full disk it has room already.
        fd = self._open_notes()
        data = json.dumps(record).encode()
        if os.pwrite(fd, data, 0) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, len(data))
        os.fsync(fd)
        os.rename("traces", "exit.json", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        os.fsync(self.fd)

    def _make_again(self, spool: Spool) -> None:
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.close()
        self.fd, self._notes = fd, -1
        self.claim()
        spool.copy_to(fd)

    def close(self) -> None:
        os.close(self.fd)
        if self._notes >= 0:
            os.close(self._notes)
