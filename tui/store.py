"""What the dashboard knows: the jobs, nodes and events of one cluster, kept current by snapshot and changes.

Plain data: no widget, no input or output. `take_dirty` says what to paint anew.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tui.job_row import JobRow as JobRow
from tui.spark import History
from tui.tally import Tally
from tui.text import seconds_of

KEPT_EVENTS = 2_000  # what one scrolls back over; `gpuq events` has the rest
_USER, _QUEUE, _STATE, _NODES, _REASON, _CAUSE = map(
    JobRow._fields.index, ("user", "queue", "state", "nodes", "reason", "cause")
)
_NOTHING: list[Any] = []  # shared by all the rows whose list is empty: 100,000 of them would take 5 MB


Watcher = Callable[[Iterable[str], bool], None]  # ids of jobs, or everything


class You(NamedTuple):
    user: str
    role: str


class Link(NamedTuple):
    """How the connection is. Times are those of the store's monotonic clock."""

    state: Literal["connecting", "live", "offline"] = "connecting"
    latency_ms: float | None = None
    since: float = 0.0  # in this state
    retry_at: float | None = None  # when the next try is made, while offline
    slow: bool = False  # the terminal or the network cannot keep up: less is painted
    said: str = ""  # why it is offline, in one line


@dataclass
class Dirty:
    """What has changed since it was last painted."""

    jobs: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    events: int = 0  # how many have come
    order: bool = False  # rows came or went
    all: bool = False  # draw everything

    def add(self, other: Dirty) -> None:
        self.jobs |= other.jobs
        self.nodes |= other.nodes
        self.events += other.events
        self.order |= other.order
        self.all |= other.all

    def __bool__(self) -> bool:
        return bool(self.jobs or self.nodes or self.events or self.order or self.all)


class Store:
    """The present of one cluster, as far as it has been told of.

    clock: monotonic seconds; `now` adds the offset at which the controller's wall clock was seen.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.jobs: dict[str, JobRow] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self.counts: dict[str, int] = {}
        self.you = You("", "viewer")
        self.cluster: dict[str, Any] = {}
        self.link = Link(since=clock())
        self.loaded = False  # a snapshot has come
        self.partial = False  # older jobs are still to come
        self.life = ""
        self.at = 0
        self.tally = Tally()
        self.history = History()
        self.node_versions: dict[str, int] = {}  # counts up with each change to a node, samples included
        self._offset = 0.0
        self._gone: set[str] = set()  # while pages come in: a page may be older than the news that a job is gone
        self._shared: dict[tuple[str, str], dict[str, str]] = {}
        self._dirty = Dirty(all=True)
        self._watchers: list[Watcher] = []

    def now(self) -> float:
        """Wall seconds at the controller."""
        return self.clock() + self._offset

    def watch(self, watcher: Watcher) -> None:
        """It is told of every job that comes, changes or goes, at once; `take_dirty` is for what is seen."""
        self._watchers.append(watcher)

    def load(self, snapshot: Mapping[str, Any]) -> None:
        """Replaces everything by a snapshot."""
        wall = seconds_of(snapshot["now"])
        self._offset = 0.0 if wall is None else wall - self.clock()
        self.life, self.at = snapshot["life"], snapshot["at"]
        self.cluster, self.you = dict(snapshot["cluster"]), You(snapshot["you"]["user"], snapshot["you"]["role"])
        self.counts = dict(snapshot["counts"])
        self._shared.clear()
        self._gone.clear()
        self.jobs = {}
        self.tally = Tally()
        for row in self._rows(snapshot["jobs"]):
            self._put(row)
        self.partial = snapshot["jobs"]["next"] is not None
        self.nodes = {node["name"]: node for node in snapshot["nodes"]}
        self.node_versions = {name: self.node_versions.get(name, 0) + 1 for name in self.nodes}
        self.events = deque(snapshot["events"], maxlen=KEPT_EVENTS)
        self.loaded = True
        self.history.note(self.nodes, self.now())
        self._dirty.add(Dirty(all=True, order=True))
        self._tell((), everything=True)

    def add_jobs(self, page: Mapping[str, Any]) -> None:
        """Adds a page of older jobs. What is known of a job already came later than the page was asked for."""
        dirty = Dirty(order=True)
        for row in self._rows(page):
            if row.id not in self.jobs and row.id not in self._gone:
                self._put(row)
                dirty.jobs.add(row.id)
        self.partial = page["next"] is not None
        if not self.partial:
            self._gone.clear()
        self._dirty.add(dirty)
        self._tell(dirty.jobs)

    def apply(self, changes: Mapping[str, Any]) -> Dirty:
        """Takes in what `GET /changes` answered, unless that was a reset; gives what of it is to be painted."""
        dirty = Dirty(events=len(changes["events"]))
        for row in self._rows(changes["jobs"]):
            dirty.order |= row.id not in self.jobs
            self._put(row)
            dirty.jobs.add(row.id)
        for id in changes["gone"]:
            old = self.jobs.pop(id, None)
            self.tally.replace(old, None)
            if old is not None:
                dirty.order = True
                dirty.jobs.add(id)
            if self.partial:
                self._gone.add(id)
        for node in changes["nodes"]:
            name = node["name"]
            dirty.order |= name not in self.nodes
            self.nodes[name] = node
            dirty.nodes.add(name)
        for name in changes["nodes_gone"]:
            dirty.order |= self.nodes.pop(name, None) is not None
        for sample in changes["samples"]:
            if self._take_sample(sample):
                dirty.nodes.add(sample[0])
        for name in dirty.nodes:
            self.node_versions[name] = self.node_versions.get(name, 0) + 1
        self.events.extend(changes["events"])
        self.counts = dict(changes["counts"])
        self.at = changes["at"]
        self.history.note(self.nodes, self.now())
        self._dirty.add(dirty)
        self._tell(dirty.jobs)
        return dirty

    def set_reasons(self, reasons: Iterable[tuple[str, dict[str, str] | None]]) -> None:
        """Why jobs wait, asked anew: a queued job's reason depends on others and does not come with the changes."""
        for id, reason in reasons:
            row = self.jobs.get(id)
            if row is not None and row.reason != reason:
                self._put(row._replace(reason=self._share(reason)))
                self._dirty.jobs.add(id)
                self._tell((id,))

    @property
    def pending(self) -> int:
        """How many changes wait for `take_dirty`."""
        dirty = self._dirty
        return len(dirty.jobs) + len(dirty.nodes) + dirty.events + dirty.order + dirty.all

    def take_dirty(self) -> Dirty:
        """What has changed since this was last asked."""
        taken, self._dirty = self._dirty, Dirty()
        return taken

    def _tell(self, changed: Iterable[str], everything: bool = False) -> None:
        for watcher in self._watchers:
            watcher(changed, everything)

    def _put(self, row: JobRow) -> None:
        self.tally.replace(self.jobs.get(row.id), row)
        self.jobs[row.id] = row

    def _rows(self, page: Mapping[str, Any]) -> list[JobRow]:
        fields: Sequence[str] = page["fields"]
        place = {name: at for at, name in enumerate(fields)}
        if tuple(fields) == JobRow._fields:
            return [self._row(row) for row in page["rows"]]
        order = [place.get(name) for name in JobRow._fields]  # a newer controller may say more, an older one less
        return [self._row([None if at is None else row[at] for at in order]) for row in page["rows"]]

    def _row(self, values: Sequence[Any]) -> JobRow:
        """A row whose often repeated parts are shared: 100,000 jobs take 60 MB less so."""
        row = list(values)
        row[_USER], row[_QUEUE], row[_STATE] = sys.intern(row[_USER]), sys.intern(row[_QUEUE]), sys.intern(row[_STATE])
        row[_REASON], row[_CAUSE] = self._share(row[_REASON]), self._share(row[_CAUSE])
        row[_NODES] = row[_NODES] or _NOTHING
        return JobRow._make(row)

    def _share(self, words: dict[str, str] | None) -> dict[str, str] | None:
        if words is None:
            return None
        return self._shared.setdefault((words["code"], words["text"]), words)

    def _take_sample(self, sample: Sequence[Any]) -> bool:
        """Lays a node's new figures over what is known of it; False for a node nobody has told of."""
        name, cpu_percent, memory_used, disk_used, last_seen, readings = sample
        node = self.nodes.get(name)
        if node is None:
            return False
        node.update(
            cpu_percent=cpu_percent,
            memory_used_bytes=memory_used,
            disk_used_bytes=disk_used,
            last_seen_at=last_seen,
        )
        for gpu, reading in zip(node["gpus"], readings, strict=False):
            gpu["utilization_percent"], gpu["memory_used_bytes"], gpu["temperature_c"], gpu["power_w"] = reading
        return True
