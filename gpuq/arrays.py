"""Array indices as ranges: '0-99:2%8' and back, taking and removing, never expanded before the count is checked."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from gpuq.errors import InvalidRequest
from gpuq.model import Array, CauseCode, IndexRange, Job, JobId
from gpuq.states import JobState

MAX_ELEMENTS = 1_000_000
MAX_INDEX = 2**31 - 1
_ELEMENT = re.compile(r"(\d{1,10})_(0|[1-9]\d{0,9})", re.ASCII)
_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


def parse_array(text: str) -> Array:
    """The array of '1,5,10-99:2%8'; raises InvalidRequest with the limit that was passed."""
    body, percent, limit = text.partition("%")
    if percent and not (re.fullmatch("[0-9]{1,9}", limit) and 0 < int(limit) <= MAX_ELEMENTS):
        raise InvalidRequest(f"'%{limit[:20]}' in the array is not a number of elements to run at once")
    ranges = sorted((_parse_part(part, text) for part in body.split(",")), key=lambda r: r.start)
    size = sum(len(r) for r in ranges)
    if size > MAX_ELEMENTS:
        raise InvalidRequest(f"the array has {size:,} elements", f"at most {MAX_ELEMENTS:,} are allowed")
    if any(b.start <= a.last for a, b in pairwise(ranges)):
        indices = sorted({i for r in ranges for i in expand([r])})  # interleaved or overlapping: merge by value
        ranges = list(compact(indices))
    return Array(tuple(ranges), tuple(ranges), int(limit) if percent else None)


def _parse_part(part: str, whole: str) -> IndexRange:
    match = _PART.fullmatch(part.strip()) if part.isascii() else None
    if not match or len(part) > 40:
        raise InvalidRequest(f"'{whole[:60]}' is not an array", "write for example 0-99, 1,5,9 or 0-99:2%8")
    start, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    if last < start or step < 1 or last > MAX_INDEX:
        raise InvalidRequest(f"'{part}' is not a range of array indices", f"from 0 to {MAX_INDEX}, smaller first")
    return IndexRange(start, last - (last - start) % step, step)


def expand(ranges: Iterable[IndexRange]) -> Iterator[int]:
    for r in ranges:
        yield from range(r.start, r.last + 1, r.step)


def compact(indices: Iterable[int]) -> Iterator[IndexRange]:
    """Ascending indices as the fewest runs of step 1."""
    start = last = None
    for i in indices:
        if last is not None and start is not None and i != last + 1:
            yield IndexRange(start, last)
            start = i
        start = i if start is None else start
        last = i
    if start is not None and last is not None:
        yield IndexRange(start, last)


def count(ranges: Iterable[IndexRange]) -> int:
    return sum(len(r) for r in ranges)


def first(ranges: tuple[IndexRange, ...]) -> int:
    return ranges[0].start


def contains(ranges: tuple[IndexRange, ...], index: int) -> bool:
    return _place(ranges, index) is not None


def without(ranges: tuple[IndexRange, ...], index: int) -> tuple[IndexRange, ...]:
    """The ranges less one index, which splits at most one of them."""
    place = _place(ranges, index)
    if place is None:
        return ranges
    r = ranges[place]
    before = IndexRange(r.start, index - r.step, r.step)
    behind = IndexRange(index + r.step, r.last, r.step)
    return ranges[:place] + tuple(part for part in (before, behind) if len(part)) + ranges[place + 1 :]


def _place(ranges: tuple[IndexRange, ...], index: int) -> int | None:
    """Which of the ranges, ascending and disjoint, holds the index.

    Found by halving: taking every second element of an array of 100,000 leaves 50,000 ranges on the way.
    """
    place = bisect_right(ranges, index, key=lambda r: r.start) - 1
    if place < 0:
        return None
    r = ranges[place]
    return place if index <= r.last and (index - r.start) % r.step == 0 else None


def text(ranges: Iterable[IndexRange]) -> str:
    """'0-99:2,200' as submitted."""
    return ",".join(
        str(r.start) if len(r) == 1 else f"{r.start}-{r.last}" + (f":{r.step}" if r.step > 1 else "") for r in ranges
    )


def element(id: JobId) -> tuple[JobId, int] | None:
    """The array and index of an element's id as gpuq writes it; None for any other text, '5_07' among them."""
    match = _ELEMENT.fullmatch(id)
    return None if match is None else (JobId(match[1]), int(match[2]))


def dropped_state(row: Job) -> JobState:
    """How the elements ended that an array's record dropped before they were made."""
    return JobState.CANCELED if row.cause is None or row.cause.code is CauseCode.CANCELED else JobState.FAILED


def with_unmade(row: Job, made: Mapping[JobState, int]) -> dict[JobState, int]:
    """Counts by state of all elements: those made, those still waiting, those that ended before they were made."""
    counts = dict(made)
    if row.array is not None:
        for state, n in ((JobState.QUEUED, count(row.array.waiting)), (dropped_state(row), row.array.dropped)):
            if n:
                counts[state] = counts.get(state, 0) + n
    return counts
