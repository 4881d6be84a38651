"""What a job writes, on its way from a pipe into its log file. Standard library only, for the supervisor's reasons.

The job has a pipe and not the file: `echo failed > /dev/stderr` opens its stderr once more and cuts it to nothing,
which a pipe does not mind and a file would. It costs one copy in memory, and nothing while nothing is written.

The job of a run with a lease must be ended on time whatever happens, and a write may wait without end for a disk, or
for the server of the disk: there a thread writes, and the supervisor never waits for it.

Of a log longer than its cap the middle is given back to the disk, as it grows: the file has a hole then, so all offsets
stay true, and the line before the hole says where it ends. A disk that stays full does not hold the job up for long:
what it writes meanwhile is lost, and a line says how much.
"""

from __future__ import annotations

import _thread
import ctypes
import fcntl
import os
import time
from collections import deque
from contextlib import suppress

_PIECE = 1 << 16
_AT_ONCE = 1 << 20  # bytes after which the supervisor looks at its limits again
_PENDING = 1 << 20  # bytes that may wait for the disk; what is more waits in the pipe, and then the job waits
_LOUD_PIPE = 1 << 20  # for a job that filled the usual 64 KiB between two looks
# A job that writes a line now and then is read at once; one that writes many small ones, this often.
PAUSE_SECONDS = 0.004
FULL_DISK_SECONDS = 1.0  # until it is tried again
FULL_DISK_PATIENCE_SECONDS = 10.0  # for which the job is held up; then it goes on, and its output is lost
ALIGN = 4096  # of a hole: file systems free whole blocks
_STEPS = 16  # in which half a cap is given back: each costs a few calls
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h

_libc = ctypes.CDLL(None)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Spool:
    """The pipe, and the file behind it once `open` was called."""

    def __init__(self, threaded: bool, cap: int = 0) -> None:
        """cap: bytes of its beginning and end that are kept of a longer log, together; 0: all of it."""
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_end, False)
        self.inode = os.fstat(self.read_end).st_ino
        self.file = -1
        self.lost = 0  # bytes that were given up, at the end, because the disk was full
        self._taken = 0  # bytes, from the pipe and notes
        self._mended = 0  # bytes of notes that the writer made
        self._written = 0
        self._dropped = 0  # bytes that were given up before the end
        self._gap = 0  # of them those that the log does not tell of yet
        self._full_since: float | None = None
        self._cap, self._released = cap, 0  # up to where the middle was given back
        self._pieces: deque[bytes] = deque()
        self._most_pending = _PENDING if threaded else 1
        self._loud = False
        self._closing = False
        self._threaded, self._thread_runs = threaded, False
        self._there, self._over = _thread.allocate_lock(), _thread.allocate_lock()

    def open(self, directory: int) -> None:
        """Makes the log file, in an open directory. Raises OSError."""
        self.file = os.open("log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory)

    def note(self, text: str) -> None:
        """Writes a line of gpuq's own behind what the job has written so far."""
        self.take()
        self._put(f"[gpuq] {text}\n".encode(errors="replace"))

    def take(self) -> float | None:
        """Takes what is in the pipe; returns in how many seconds to look again, None: as soon as there is more."""
        taken = 0
        while taken < _AT_ONCE:
            if self._pending >= self._most_pending and not self._write():
                return PAUSE_SECONDS if self._threaded else FULL_DISK_SECONDS
            try:
                data = os.read(self.read_end, _PIECE)
            except BlockingIOError:
                return PAUSE_SECONDS if taken < _PIECE else None
            if not self._loud and len(data) == _PIECE:
                self._loud = True
                with suppress(OSError):  # the account has reached what it may have of these
                    fcntl.fcntl(self.read_end, fcntl.F_SETPIPE_SZ, _LOUD_PIPE)
            taken += len(data)
            self._put(data)
        return None

    def put(self, data: bytes) -> None:
        """Writes what came by another way than the pipe: a job's terminal."""
        self._put(data)

    @property
    def is_full(self) -> bool:
        """Whether more had better wait for the disk."""
        return self._pending >= self._most_pending and not self._write()

    def finish(self) -> int:
        """Writes all that there is, when nobody is left who could write more; returns the size of the log on disk."""
        self._most_pending = 1 << 62
        # No more than the pipe can hold: somebody outside of the job may write to it without end.
        until = self._taken + fcntl.fcntl(self.read_end, fcntl.F_GETPIPE_SZ)
        while self._taken < until and self.take() is None:
            pass
        self._closing = True
        if self._thread_runs:
            self._wake()
            self._over.acquire()
        self._write_pieces()
        self.lost = self._pending + self._gap
        if self._written:
            with suppress(OSError):
                self._mend()
                os.fdatasync(self.file)  # the exit record must not outlive bytes that it counts
        return self._written

    def copy_to(self, directory: int) -> None:
        """Makes the log once more, in a directory that takes the place of a deleted one. Raises OSError."""
        if os.fstat(self.file).st_nlink:
            return
        copy = os.open("log", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
        done = 0
        while piece := os.pread(self.file, _AT_ONCE, done):
            done += os.write(copy, piece)
        os.fdatasync(copy)
        os.close(self.file)
        self.file = copy

    def close(self) -> None:
        for fd in (self.read_end, self.write_end, self.file):
            os.close(fd)

    # ---------------- the file

    @property
    def _pending(self) -> int:
        """Bytes that wait for the disk."""
        return self._taken + self._mended - self._written - self._dropped

    def _put(self, data: bytes) -> None:
        self._pieces.append(data)
        self._taken += len(data)
        self._write()

    def _write(self) -> bool:
        """Writes what waits, or has it written; whether nothing, or little enough, waits now."""
        if not self._threaded:
            return self._write_pieces()
        if not self._thread_runs:
            self._thread_runs = True
            self._there.acquire()
            self._over.acquire()
            _thread.start_new_thread(self._write_for_ever, ())
        self._wake()
        return self._pending < self._most_pending

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it was woken already
            self._there.release()

    def _write_for_ever(self) -> None:
        while not self._closing:
            self._there.acquire()
            while not self._write_pieces() and not self._closing:
                time.sleep(FULL_DISK_SECONDS)
        self._write_pieces()
        self._over.release()

    def _write_pieces(self) -> bool:
        """False if the disk has no room, or fails: then the rest waits, for so long."""
        try:
            while self._pieces or self._gap:
                self._mend()
                if self._gap:
                    self._tell_gap()
                    continue
                data = self._pieces[0]
                count = os.write(self.file, data)
                self._written += count
                if count == len(data):
                    self._pieces.popleft()
                else:
                    self._pieces[0] = data[count:]
                self._full_since = None
                self._release_middle()
        except OSError:
            return self._gives_up()
        return True

    def _gives_up(self) -> bool:
        """Whether the disk was full for so long that what waits is let go of, so that the job goes on."""
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < FULL_DISK_PATIENCE_SECONDS or self._closing:
            return False
        while self._pieces:
            size = len(self._pieces.popleft())
            self._dropped += size
            self._gap += size
        return True

    def _tell_gap(self) -> None:
        text = f"\n[gpuq] the disk was full: {self._gap} bytes of output are lost here\n".encode()
        count = os.write(self.file, text)
        self._written += count
        self._mended += count
        self._gap = 0  # told in part is told: the disk is full again, and the next gap says so

    def _release_middle(self) -> None:
        """Gives back what lies between the first and the last half cap."""
        half = self._cap // 2
        end = (self._written - half) // ALIGN * ALIGN
        if not self._cap or self._written <= self._cap or end - self._released < max(ALIGN, half // _STEPS):
            return
        start = half // ALIGN * ALIGN
        if end <= start:
            return
        if _libc.fallocate64(self.file, _KEEP_SIZE | _PUNCH_HOLE, start, end - start):
            self._cap = 0  # this file system cannot
            return
        self._released = end
        text = f"\n[gpuq] the log is longer than its cap: from here to byte {end} nothing is kept\n".encode()
        os.pwrite(self.file, text, start - len(text))

    def _mend(self) -> None:
        """Says so in the log if somebody has cut its file short; offsets stay true."""
        found = os.fstat(self.file).st_size
        if found >= self._written:
            return
        text = f"[gpuq] somebody cut this log at byte {found}: from there to here it is lost\n".encode()
        count = os.write(self.file, text)
        self._written += count
        self._mended += count
