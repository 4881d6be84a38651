"""What dashboards keep before their eyes: which rows there are, and what of them was touched when.

A row is a job or an array as submitted, one that has not ended or one that ended lately. A client takes the rows once
and then asks what was touched since: of each it gets the present state, however often it changed meanwhile. So what
is kept here is one place in order for each thing touched, never what it was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gpuq import arrays
from gpuq.changes import AddEvent, Change, DropNode, PutAttempt, PutJob, PutNode
from gpuq.model import Attempt, Job, JobId, NodeName
from gpuq.states import FINAL, JobState, NodeState
from gpuq.store.events import Event
from gpuq.view import ClusterView

ENDED_SECONDS = 86_400.0  # how long a job that has ended keeps its row
KEPT_ENDED = 5_000  # and how many do: a day of short jobs would be a million
KEPT_TOUCHES = 65_536  # a minute of 1,000 changes a second; who was away for longer takes all rows anew. 200 bytes each
KEPT_EVENTS = 500  # of one answer, too: what is missing is in the journal
_FORGOTTEN_AT_ONCE = 4_096


class Ended(NamedTuple):
    """A job that has ended, and its last attempt as far as that is known without asking the store."""

    job: Job
    attempt: Attempt | None = None


class Touched(NamedTuple):
    """What a client has to look at anew, to be up to date as of `at`. more: there are rows touched since."""

    at: int
    more: bool
    rows: list[JobId]
    nodes: list[NodeName]
    sampled: list[NodeName]  # nodes of which there is a new sample, touched otherwise or not
    events: list[Event]  # oldest first, the latest KEPT_EVENTS


class Board:
    """See the module's docstring. Belongs to one life of the controller: places in it mean nothing in another.

    view is the cluster that the changes given to `note` are applied to next.
    """

    def __init__(self, view: ClusterView) -> None:
        self.at = 0  # the latest place given out; every touch gets its own
        self.moved = 0  # the latest that was not a mere sample
        self.floor = 0  # the earliest that is still known: what was touched after it can be told
        self.start(view)

    def start(self, view: ClusterView) -> None:
        """Begins anew, with the rows of a cluster and none that has ended. No place given out before is known now."""
        self._view = view
        self.at = self.moved = self.floor = self.at + 1
        self.ended: dict[JobId, Ended] = {}  # in the order in which they ended
        self.counts: Counter[JobState] = Counter()  # of all rows, each element of an array counted as one
        self._arrays: dict[JobId, Counter[JobState]] = {}
        self._places: list[int] = []  # of touches of rows, ascending, and what each touched
        self._ids: list[JobId] = []
        self._row_at: dict[JobId, int] = {}  # the latest touch of each: the earlier ones are passed over
        self._node_at: dict[NodeName, int] = {}
        self._sample_at: dict[NodeName, int] = {}
        self._states: dict[NodeName, NodeState] = {name: view.node_state(name) for name in view.nodes}
        self._events: deque[tuple[int, Event]] = deque(maxlen=KEPT_EVENTS)
        self._last_event = 0
        for job in view.live_jobs():
            if job.array is not None:
                self._arrays[job.id] = tally = Counter(arrays.with_unmade(job, view.element_counts(job.id)))
                self.counts.update(tally)
            elif job.index is None:
                self.counts[job.state] += 1

    def recall_events(self, latest: Iterable[Event]) -> None:
        """The latest events of earlier days, oldest first. Those to come are numbered on from there, as stored."""
        for event in latest:
            self._events.append((self.floor, event))
            self._last_event = event.id

    def recall_ended(self, rows: Iterable[tuple[Ended, Mapping[JobState, int]]]) -> None:
        """Jobs that ended before this life began, in the order in which they did; of arrays with their elements."""
        later, self.ended = self.ended, {}
        for ended, elements in rows:
            id = ended.job.id
            if id in later or self._view.job(id) is not None:
                continue
            self.ended[id] = ended
            if ended.job.array is not None:
                self._arrays[id] = Counter(elements)
            self.counts.update(self._arrays.get(id) or {ended.job.state: 1})
        self.ended.update(later)
        self._drop_surplus()

    # ------------------------------------------------------------ what happens

    def note(self, changes: Iterable[Change]) -> None:
        """Takes note of changes. To be called before they are applied: what they replace is looked up in the view."""
        jobs: dict[JobId, Job] = {}
        over: dict[JobId, Attempt] = {}
        for change in changes:
            if isinstance(change, PutJob):
                jobs[change.job.id] = change.job
            elif isinstance(change, PutAttempt):
                if not change.attempt.live:
                    over[change.attempt.job] = change.attempt
                if not change.attempt.live or self._view.attempt(change.attempt.uid) is None:
                    self._touch_nodes_of(change.attempt)
            elif isinstance(change, PutNode):
                self._touch_node(change.node.name)
            elif isinstance(change, DropNode):
                self._touch_node(change.name)
            elif isinstance(change, AddEvent):
                self._last_event += 1
                self._events.append((self._next(), Event(self._last_event, change)))
        for job in jobs.values():
            self._put(job, over.get(job.id))

    def heard(self, name: NodeName) -> None:
        """A node has sent a sample, or been heard from at all."""
        self.at += 1
        self._sample_at[name] = self.at
        self._look_at(name)

    def look(self) -> None:
        """Due every second: silence changes what a node is shown as, without a change of the cluster."""
        for name in self._view.nodes:
            self._look_at(name)

    def forget_ended(self, wall: float) -> None:
        """Lets go of rows that ended too long ago."""
        while self.ended:
            id, oldest = next(iter(self.ended.items()))
            if (oldest.job.finished_at or 0.0) > wall - ENDED_SECONDS:
                return
            self._drop(id)

    # ------------------------------------------------------------ what is asked

    def since(self, place: int, most: int) -> Touched | None:
        """What was touched after a place, of rows at most so many; None if that place is not, or no longer, known."""
        if not self.floor <= place <= self.at:
            return None
        rows: list[JobId] = []
        until = self.at
        for at in range(bisect_right(self._places, place), len(self._places)):
            if self._row_at[self._ids[at]] == self._places[at]:
                if len(rows) == most:
                    until = self._places[at] - 1
                    break
                rows.append(self._ids[at])
        nodes = [name for name, at in self._node_at.items() if place < at <= until]
        sampled = [name for name, at in self._sample_at.items() if place < at <= until]
        return Touched(until, until < self.at, rows, nodes, sampled, self._events_between(place, until))

    def latest_events(self, most: int) -> list[Event]:
        return [event for _, event in list(self._events)[-most:]]

    def elements(self, array: JobId) -> Mapping[JobState, int] | None:
        """How many elements of an array are in each state, those not made among them; None if it has no row."""
        return self._arrays.get(array)

    def node_version(self, name: NodeName) -> int:
        """Another number whenever what there is to show of a node may be another."""
        return max(self._node_at.get(name, 0), self._sample_at.get(name, 0))

    def _events_between(self, place: int, until: int) -> list[Event]:
        found: list[Event] = []
        for at, event in reversed(self._events):
            if at <= place:
                break
            if at <= until:
                found.append(event)
        return found[::-1]

    # ------------------------------------------------------------ rows

    def _put(self, job: Job, attempt: Attempt | None) -> None:
        kept = self.ended.pop(job.id, None)
        old = kept.job if kept is not None else self._view.job(job.id)
        if job.index is not None:
            self._recount(job.array_id, old, job)
            self._touch_row(job.array_id)
            return
        self._recount(job.id, old, job)
        self._touch_row(job.id)
        if job.state in FINAL:
            self.ended[job.id] = Ended(job, attempt if kept is None else kept.attempt)
            self._drop_surplus()

    def _recount(self, row: JobId, old: Job | None, new: Job) -> None:
        tally = self._arrays.get(row) if new.array is None else self._arrays.setdefault(row, Counter())
        for job, sign in ((old, -1), (new, 1)):
            for state, count in _own_counts(job).items():
                self.counts[state] += sign * count
                if tally is not None:
                    tally[state] += sign * count

    def _drop_surplus(self) -> None:
        while len(self.ended) > KEPT_ENDED:
            self._drop(next(iter(self.ended)))

    def _drop(self, id: JobId) -> None:
        state = self.ended.pop(id).job.state
        self.counts.subtract(self._arrays.pop(id, Counter({state: 1})))
        self._touch_row(id)

    def _touch_row(self, id: JobId) -> None:
        at = self._row_at[id] = self._next()
        self._places.append(at)
        self._ids.append(id)
        if len(self._places) >= KEPT_TOUCHES + _FORGOTTEN_AT_ONCE:
            self._forget_touches()

    def _forget_touches(self) -> None:
        for at, id in zip(self._places[:_FORGOTTEN_AT_ONCE], self._ids, strict=False):
            if self._row_at[id] == at:
                del self._row_at[id]
        self.floor = self._places[_FORGOTTEN_AT_ONCE - 1]
        del self._places[:_FORGOTTEN_AT_ONCE], self._ids[:_FORGOTTEN_AT_ONCE]

    # ------------------------------------------------------------ nodes

    def _touch_nodes_of(self, attempt: Attempt) -> None:
        for rank in attempt.ranks:
            self._touch_node(rank.node)

    def _touch_node(self, name: NodeName) -> None:
        self._node_at[name] = self._next()

    def _look_at(self, name: NodeName) -> None:
        state = self._view.node_state(name)
        if self._states.get(name) is not state:
            self._states[name] = state
            self._touch_node(name)

    def _next(self) -> int:
        self.at += 1
        self.moved = self.at
        return self.at


def _own_counts(job: Job | None) -> Mapping[JobState, int]:
    """What one record counts for: of an array only the elements that have no record of their own."""
    if job is None:
        return {}
    return {job.state: 1} if job.array is None else arrays.with_unmade(job, {})
