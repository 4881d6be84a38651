"""Which jobs are listed, and in which order. Pure; 100,000 rows take well under 100 ms.

Newest first where the column does not decide. While the cursor moves, and for a second after, the order stands still:
what somebody aims at must not run away. Rows that change meanwhile are painted where they are.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from operator import attrgetter, itemgetter
from typing import Any

from gpuq.units import format_time
from tui.filters import EVERYTHING, Filter, text_of
from tui.job_row import JobRow
from tui.store import Store

STILL_SECONDS = 1.0  # after the last move, and between two rearrangements
RECENT_SECONDS = 3600.0  # so long a job that has ended stays in the list of what is going on
REBUILD_SECONDS = 60.0  # what is recent, and spans in filters, change with time alone
# With more rows than these to find a place for, sorting all is faster: 10 us each against 50 ms.
_FEW = 2000

_STATES = ("RUNNING", "STARTING", "ALLOCATED", "STOPPING", "LOST", "QUEUED", "FAILED", "CANCELED", "SUCCEEDED")
_RANKS = {state: rank for rank, state in enumerate(_STATES)}

# column -> what it is sorted by. For times it is the moment they count from: the longest first is the earliest.
_BY: Mapping[str, Callable[[JobRow], Any]] = {
    "state": lambda row: _RANKS.get(row.state, 99),
    "name": lambda row: row.name.lower(),
    "user": attrgetter("user"),
    "queue": attrgetter("queue"),
    "gpu": attrgetter("gpus"),
    "time": lambda row: row.started_at or row.submitted_at,
    "where": lambda row: row.nodes[0]["node"] if row.nodes else "~" + (row.reason["code"] if row.reason else ""),
    "priority": attrgetter("priority"),
    "submitted": attrgetter("submitted_at"),
    "attempt": attrgetter("attempt"),
}
COLUMNS = ("id", *_BY)


@dataclass(frozen=True)
class Choice:
    """What is to be listed, and how."""

    filter: Filter = EVERYTHING
    user: str | None = None  # this one's only
    everything: bool = False  # what ended long ago too
    column: str = "state"
    down: bool = False


class JobOrder:
    """The keys of a list of jobs, kept in order as rows change.

    What may be listed is kept in order without the filter too: whoever types one, waits for the filter alone.
    """

    def __init__(self, store: Store) -> None:
        self.keys: Sequence[str] = []
        self.choice = Choice()
        self._store = store
        self._listed: list[str] = []  # all but for the filter, ascending
        self._matching: list[str] = []  # those that the filter lets through; `keys` is this or its reverse
        self._matched = EVERYTHING  # the filter that they are for
        self._listed_for: tuple[object, ...] | None = None  # what was chosen then; None: to be done anew
        self._chosen = True  # by somebody who waits for it
        self._changed: set[str] = set()
        self._texts: dict[str, str] = {}  # what words are looked for in, by id
        self._still_until = float("-inf")
        self._sorted_at = float("-inf")
        self.note((), everything=True)

    def choose(self, choice: Choice) -> None:
        """Takes effect with the next `arrange`, at once."""
        self.choice = choice
        self._chosen = True

    def note(self, changed: Iterable[str], everything: bool = False) -> None:
        """These rows came, changed or went."""
        if everything:
            self._listed_for, self._chosen = None, True
            self._changed.clear()
            self._texts.clear()
            changed = self._store.jobs
        else:
            self._changed.update(changed)
        for id in changed:  # now: whoever types a filter is not to wait for it
            if (row := self._store.jobs.get(id)) is not None:
                self._texts[id] = text_of(row)
            else:
                self._texts.pop(id, None)

    def hold(self, now: float) -> None:
        """The cursor moved: nothing is rearranged for a while. now: any clock, the same as for `arrange`."""
        self._still_until = now + STILL_SECONDS

    def arrange(self, now: float, wall: float) -> bool:
        """Brings `keys` up to date if it may; whether they are other ones now. wall: of the controller."""
        old = now - self._sorted_at >= REBUILD_SECONDS or len(self._changed) > _FEW
        if not self._chosen and (now < self._still_until or not (old or self._changed)):
            return False
        choice = self.choice
        chosen = choice.user, choice.everything, choice.column, choice.down
        if old or chosen != self._listed_for:
            self._listed, self._listed_for, self._sorted_at = self._in_order(wall), chosen, now
            self._match(self._listed)
        elif self._changed:
            self._place_changed(wall)
        else:  # the filter alone is another
            self._match(self._matching if self._narrower(choice.filter) else self._listed)
        if not self._chosen:
            self._still_until = now + STILL_SECONDS
        self._chosen = False
        self._changed.clear()
        self.keys = self._matching[::-1] if choice.down else self._matching
        return True

    def _in_order(self, wall: float) -> list[str]:
        choice, within = self.choice, self._within(wall)
        rows = [row for row in self._store.jobs.values() if within(row)]
        # Two stable sorts: comparing pairs in one takes twice as long.
        rows.sort(key=_number, reverse=not (choice.column == "id" or choice.down))
        if choice.column in _BY:
            rows.sort(key=_BY[choice.column])
        return list(map(_ID, rows))

    def _match(self, found: list[str]) -> None:
        """found: of the listed, all that may match, in their order."""
        filtered = self._matched = self.choice.filter
        for word in filtered.words:
            text = self._texts.get
            found = [id for id in found if word in text(id, "")]
        if filtered.rest is not None:
            rows = filter(None, map(self._store.jobs.get, found))  # one may have gone unnoted yet
            found = list(map(_ID, filter(filtered.rest, rows)))
        self._matching = found

    def _narrower(self, filter: Filter) -> bool:
        """Whether all that it lets through was let through before, as when one more letter was typed."""
        before = self._matched
        return before.rest is None and all(any(old in new for new in filter.words) for old in before.words)

    def _place_changed(self, wall: float) -> None:
        within, match, jobs = self._within(wall), self.choice.filter.match, self._store.jobs
        rows = [row for id in self._changed if (row := jobs.get(id)) is not None and within(row)]
        rows.sort(key=self._place())
        self._listed = self._merged(self._listed, rows)
        if self._chosen or match is None:
            self._match(self._listed)
        else:
            self._matching = self._merged(self._matching, [row for row in rows if match(row)])

    def _merged(self, ids: Sequence[str], rows: Sequence[JobRow]) -> list[str]:
        """The ids with those that changed at the places that these rows, in order, now have."""
        place, jobs = self._place(), self._store.jobs
        old = list(filterfalse(self._changed.__contains__, ids))
        merged: list[str] = []
        done = 0
        for row in rows:
            here, at, step = place(row), done, 1
            while at < len(old) and place(jobs[old[at]]) < here:  # what changes at once is often together
                at, step = at + step, 2 * step
            at = bisect(old, here, max(done, at - step // 2), min(at, len(old)), key=lambda other: place(jobs[other]))
            merged += old[done:at]
            merged.append(row.id)
            done = at
        merged += old[done:]
        return merged

    def _place(self) -> Callable[[JobRow], tuple[Any, int]]:
        """By what rows are in ascending order, ties included."""
        if self.choice.column not in _BY:
            return lambda row: (_number(row), 0)
        by, sign = _BY[self.choice.column], 1 if self.choice.down else -1
        return lambda row: (by(row), sign * _number(row))

    def _within(self, wall: float) -> Callable[[JobRow], bool]:
        """Whether a row may be listed, whatever the filter says."""
        user = self.choice.user
        since = "" if self.choice.everything else format_time(wall - RECENT_SECONDS) or ""
        if user is None:
            return lambda row: row.finished_at is None or row.finished_at >= since
        return lambda row: row.user == user and (row.finished_at is None or row.finished_at >= since)


_ID = itemgetter(0)


def _number(row: JobRow) -> int:
    """What ids are in order by."""
    return int(row.id)
