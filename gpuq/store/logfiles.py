"""Logs of job ranks as plain files: appended by offset, acknowledged only once fsynced, readable for ever.

Logs are not in the database that decisions live in: one chatty job would make every commit of the cluster slower.
Bytes of a log never change once written, so a chunk that comes twice can be trimmed or written again without harm.
All methods block on the disk and may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuq import holes
from gpuq.errors import InvalidRequest, Unavailable
from gpuq.holes import Hole
from gpuq.model import AttemptUid
from gpuq.store import logsearch
from gpuq.store.logsearch import Found, Wanted

_UID = re.compile(r"[0-9a-f]{8,64}")  # also what keeps a uid from being a path
_MAX_RANK = 1 << 20
_BLOCK = 64 << 10  # what `tail_offset` reads at a time, from the end
_MAX_TAIL = 16 << 20  # a log without line ends is not read whole to find its last lines
_LOCKS = 64  # appends to one log must not interleave; locks are shared out by hash so that they never pile up
_REMEMBERED = 16_384  # sizes kept in memory, 250 bytes each; any other costs one fsync of a clean file to learn again

Log = tuple[AttemptUid, int]  # an attempt, and the rank of it that wrote the log
Piece = tuple[int, bytes | memoryview]  # offset of the first byte, and the bytes


class LogFiles:
    """All logs of a controller, below `root`. Readers never see a byte that is not on disk for good."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sizes: OrderedDict[Log, int] = OrderedDict()  # bytes fsynced
        self._sizes_lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def append(self, log: Log, pieces: Iterable[Piece], hole: Hole | None = None) -> int:
        """Write the pieces, in order, and return how many bytes of the log are now on disk for good.

        A piece that begins beyond the end is left out: its sender goes on from the size returned. One that overlaps
        what is there is trimmed. What lies in the hole is given back to the disk, and one that goes on behind it may
        follow. Raises Unavailable when the disk is full or fails: then none of them counts.
        """
        path = self._path(log)
        with self._locks[hash(log) % _LOCKS]:
            size = end = self._settled_size(log, path)
            try:
                with _opened_to_write(path) as fd:
                    for offset, data in pieces:
                        if hole is not None and hole.start <= end < hole.end == offset:
                            end = offset
                        if offset <= end < offset + len(data):
                            _write_all(fd, memoryview(data)[end - offset :], end)
                            end = offset + len(data)
                    if hole is not None and hole.end <= end:
                        _give_back(fd, hole)
                    if end > size:
                        os.fdatasync(fd)
            except OSError as error:
                # After a failed fsync the kernel may call lost pages clean. The old size stands, so the sender
                # sends these bytes again and they are written anew, not only synced anew.
                raise _unavailable(error) from error
            self._remember(log, end)
        return end

    def size(self, log: Log) -> int:
        """Bytes readers may see; 0 for a log nothing was ever written to."""
        with self._sizes_lock:
            known = self._sizes.get(log)
        if known is not None:
            return known
        path = self._path(log)
        with self._locks[hash(log) % _LOCKS]:
            return self._settled_size(log, path)

    def known_size(self, log: Log) -> int:
        """The size as far as memory has it, without touching the disk; 0 when it does not."""
        return self._sizes.get(log, 0)

    def read(self, log: Log, offset: int, limit: int) -> tuple[int, bytes]:
        """At most `limit` bytes from `offset`, and where they begin: behind the hole, for an offset in it.

        Empty at or beyond the end; none reaches over a hole.
        """
        size = self.size(log)
        if offset >= size:
            return offset, b""
        with _opened_to_read(self._path(log)) as fd:
            hole = holes.find(fd, size)
            if hole is not None and hole.start <= offset < hole.end:
                offset = hole.end
            until = hole.start if hole is not None and offset < hole.start else size
            return offset, os.pread(fd, max(0, min(limit, until - offset)), offset)

    def delete(self, log: Log) -> None:
        """Takes a log away for good; that there was one stays known. Raises OSError."""
        path = self._path(log)
        with self._locks[hash(log) % _LOCKS]:
            try:
                path.rename(_gone(path))  # that one can be told from a log that never was
                os.truncate(_gone(path), 0)
            except FileNotFoundError:
                return
            with self._sizes_lock:
                self._sizes.pop(log, None)

    def was_deleted(self, log: Log) -> bool:
        """Whether there was a log, and it is deleted."""
        return self.size(log) == 0 and _gone(self._path(log)).exists()

    def tail_offset(self, log: Log, lines: int) -> int:
        """Where the last `lines` lines begin, at most 16 MiB before the end. An unfinished last line counts as one."""
        end = self.size(log)
        if lines <= 0 or end == 0:
            return end
        floor = max(0, end - _MAX_TAIL)
        position = end
        with _opened_to_read(self._path(log)) as fd:
            # The newline that ends the last line does not begin another one.
            wanted = lines + 1 if os.pread(fd, 1, end - 1) == b"\n" else lines
            while position > floor:
                start = max(floor, position - _BLOCK)
                block = os.pread(fd, position - start, start)
                at = len(block)
                while wanted and (at := block.rfind(b"\n", 0, at)) >= 0:
                    wanted -= 1
                    if not wanted:
                        return start + at + 1
                position = start
        return floor

    def search(self, log: Log, wanted: Wanted, start: int) -> Found:
        """Lines with a text among those that begin at `start` or later."""
        if not (size := self.size(log)):
            return Found([], 0, done=True)
        with _opened_to_read(self._path(log)) as fd:
            return logsearch.forwards(fd, size, wanted, start)

    def search_back(self, log: Log, wanted: Wanted, before: int) -> Found:
        """Lines with a text among those that begin before an offset, the last of them first."""
        if not (size := self.size(log)):
            return Found([], 0, done=True)
        with _opened_to_read(self._path(log)) as fd:
            return logsearch.backwards(fd, size, wanted, before)

    def _path(self, log: Log) -> Path:
        uid, rank = log
        if not _UID.fullmatch(uid) or not 0 <= rank < _MAX_RANK:
            raise InvalidRequest("that is not the name of a log")
        return self._root / uid[:2] / f"{uid}.{rank}.log"  # 256 folders: none grows past what tools can list

    def _settled_size(self, log: Log, path: Path) -> int:
        """The size on disk, with this log's lock held. Bytes left by a life that died before its fsync are synced."""
        with self._sizes_lock:
            known = self._sizes.get(log)
        if known is not None:
            return known
        try:
            with _opened_to_read(path) as fd:
                os.fsync(fd)
                size = os.fstat(fd).st_size
        except FileNotFoundError:
            return 0  # not remembered: asking for logs that are not there must not push out those that are
        except OSError as error:
            raise _unavailable(error) from error
        self._remember(log, size)
        return size

    def _remember(self, log: Log, size: int) -> None:
        with self._sizes_lock:
            self._sizes[log] = size
            self._sizes.move_to_end(log)
            while len(self._sizes) > _REMEMBERED:
                self._sizes.popitem(last=False)


def _gone(path: Path) -> Path:
    return path.with_suffix(".gone")


def _give_back(fd: int, hole: Hole) -> None:
    if holes.punch(fd, hole):
        said = f"\n[gpuq] the log is longer than its cap: from here to byte {hole.end} nothing is kept\n".encode()
        _write_all(fd, memoryview(said), max(0, hole.start - len(said)))


@contextmanager
def _opened_to_read(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _opened_to_write(path: Path) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        fd = _create(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _create(path: Path, flags: int) -> int:
    """A new log, whose name survives a power cut: a synced file in a folder that was not is a lost file."""
    for folder in (path.parent.parent, path.parent):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(folder.parent)
    fd = os.open(path, flags | os.O_CREAT, 0o600)
    try:
        _sync_folder(path.parent)
    except OSError:
        os.close(fd)
        raise
    return fd


def _sync_folder(path: Path) -> None:
    with _opened_to_read(path) as fd:
        os.fsync(fd)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _unavailable(error: OSError) -> Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable("the controller has no room left for logs", "free disk space on its machine")
    return Unavailable(f"the controller cannot use its log files: {error.strerror}")
