"""How much of the disk logs take, and which of them go when that is to become less. What is kept is decided purely."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuq.model import AttemptUid

_NAME = re.compile(r"([0-9a-f]{8,64})\.(\d{1,7})\.log")
MAKE_ROOM_TO = 0.95  # of the limit: what is over it is brought down to this, so that it is not over it again at once


@dataclass(frozen=True, slots=True)
class Kept:
    """A log on disk. size is what it takes there, without what a cap gave back; changed_at in wall seconds."""

    uid: AttemptUid
    rank: int
    size: int
    changed_at: float


def survey(root: Path) -> Iterator[Kept]:
    """All logs below a LogFiles' root; those that go meanwhile are left out. Takes some seconds for a million."""
    for folder in _entries(root):
        for entry in _entries(folder.path) if folder.is_dir() else ():
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            yield Kept(AttemptUid(match[1]), int(match[2]), found.st_blocks * 512, found.st_mtime)


def to_delete(
    kept: Iterable[Kept],
    lives: Callable[[AttemptUid], bool],
    now: float,
    keep_seconds: int | None,
    limit: int | None,
) -> list[Kept]:
    """What is to go of logs whose attempt has ended: what is too old, and the oldest of what is too much.

    limit counts all that is kept; what belongs to live attempts counts too, and stays.
    """
    every = sorted(kept, key=lambda log: (log.changed_at, log.uid, log.rank))
    total = sum(log.size for log in every)
    over = limit is not None and total > limit
    room = 0 if limit is None else int(limit * MAKE_ROOM_TO)
    found = []
    for log in every:
        old = keep_seconds is not None and log.changed_at < now - keep_seconds
        if (old or (over and total > room)) and not lives(log.uid):
            found.append(log)
            total -= log.size
    return found


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
