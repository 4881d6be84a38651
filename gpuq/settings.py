"""The cluster's settings: the names, kinds, bounds, defaults and meanings of all. How they are written: document.py."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from gpuq.errors import InvalidRequest
from gpuq.units import MAX_SECONDS, parse_duration, parse_size

DAY = 86_400
# Policy.lease + fence_grace + kill_margin: a fenced attempt is surely gone before its node counts as lost.
LEAST_LOST_AFTER = 80
LEAST_SUSPECT_AFTER = 15  # three exchanges of at most 5 s: one that is late says nothing
MOST = 1_000_000  # of jobs, GPUs, a priority: more is a typing error
MAX_NAME = 128  # characters, as in protocol.py
_UNITS = (("d", DAY), ("h", 3_600), ("m", 60), ("s", 1))


class Visibility(str, Enum):
    PRIVATE = "private"
    OPEN = "open"


class SharedGpuMemory(str, Enum):
    WARN = "warn"
    STOP = "stop"


# ---------------------------------------------------------------- kinds of values


@dataclass(frozen=True, slots=True)
class Duration:
    """Text in a document, seconds in the settings."""

    low: int = 1
    high: int = MAX_SECONDS

    def read(self, value: object) -> int:
        # A bare number would mean minutes, as it does behind -t; here nobody expects that.
        if not isinstance(value, str) or len(value) > MAX_NAME or value.strip().isdigit():
            raise InvalidRequest('must be text with units, such as "90s" or "2h30m"')
        seconds = parse_duration(value)
        if not self.low <= seconds <= self.high:
            raise InvalidRequest(f"must be from {span(self.low)} to {span(self.high)}")
        return seconds

    def plain(self, value: int) -> str:
        return span(value)


@dataclass(frozen=True, slots=True)
class Number:
    low: int = 0
    high: int = MOST

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidRequest("must be a whole number")
        if not self.low <= value <= self.high:
            raise InvalidRequest(f"must be from {self.low} to {self.high}")
        return value

    def plain(self, value: int) -> int:
        return value


@dataclass(frozen=True, slots=True)
class Size:
    """Text in a document, bytes in the settings."""

    low: int = 0
    high: int = 1 << 50

    def read(self, value: object) -> int:
        if not isinstance(value, str) or len(value) > MAX_NAME or value.strip().isdigit():
            raise InvalidRequest('must be text with a unit, such as "500M" or "2G"')
        size = parse_size(value)
        if not self.low <= size <= self.high:
            raise InvalidRequest(f"must be from {_size(self.low)} to {_size(self.high)}")
        return size

    def plain(self, value: int) -> str:
        return _size(value)


@dataclass(frozen=True, slots=True)
class Flag:
    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise InvalidRequest("must be true or false")
        return value

    def plain(self, value: bool) -> bool:
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    words: type[Enum]

    def read(self, value: object) -> Enum:
        known = {word.value: word for word in self.words}
        if not isinstance(value, str) or value not in known:
            raise InvalidRequest(f"must be one of {', '.join(map(toml, known))}")
        return known[value]

    def plain(self, value: Enum) -> str:
        return str(value.value)


@dataclass(frozen=True, slots=True)
class Names:
    """A list of users in a document; in the settings sorted, each once."""

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(is_name(name) for name in value):
            raise InvalidRequest('must be a list of users, such as ["ann", "bob"]')
        return tuple(sorted(set(value)))

    def plain(self, value: tuple[str, ...]) -> list[str]:
        return list(value)


Kind = Duration | Number | Size | Flag | Choice | Names


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one name. acts: whether this version does what the setting says; else it only keeps it."""

    name: str
    kind: Kind
    default: Any  # None: not set
    meaning: str
    acts: bool

    def plain(self, value: Any) -> Any:
        """The value as a document has it."""
        return None if value is None else self.kind.plain(value)


def _about(kind: Kind, meaning: str, acts: bool = True) -> dict[str, Any]:
    """What a field of the tables below carries, for `settings_in`."""
    return {"setting": (kind, meaning, acts)}


# ---------------------------------------------------------------- the settings


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    visibility: Visibility = field(
        default=Visibility.PRIVATE,
        metadata=_about(
            Choice(Visibility),
            'who sees the command, folder and output of a job: "private", its owner and admins; "open", everyone',
        ),
    )
    suspect_after: int = field(
        default=30, metadata=_about(Duration(LEAST_SUSPECT_AFTER, 3_600), "silence after which a node gets no new work")
    )
    lost_after: int = field(
        default=90,
        metadata=_about(
            Duration(LEAST_LOST_AFTER, DAY), "silence after which the jobs of a node are LOST; above suspect_after"
        ),
    )
    default_priority: int = field(
        default=0,
        metadata=_about(Number(-MOST), "of a job that asks for none; more than this only an admin may ask for"),
    )
    predict_run_times: bool = field(
        default=True,
        metadata=_about(
            Flag(), "whether run times learned from this cluster's jobs decide on the order of the queue and its gaps"
        ),
    )
    max_bypass: int = field(
        default=DAY,
        metadata=_about(
            Duration(1, 366 * DAY),
            "how long jobs without a time limit may fill room kept for another, and 1.5 times the backlog longer",
        ),
    )
    preempt_again_after: int = field(
        default=1_800,
        metadata=_about(Duration(), "how long a job that was preempted, or lost its node, runs before it can be again"),
    )
    # To stop it is the default: the memory beyond its share is that of its neighbours, and without this they fail for
    # it, with an error that blames nobody.
    shared_gpu_memory: SharedGpuMemory = field(
        default=SharedGpuMemory.STOP,
        metadata=_about(
            Choice(SharedGpuMemory),
            'what becomes of a --shared job with more of a GPU than its --gpu-mem: "warn", that is said; "stop", it is '
            "said, and the job stopped if it goes on",
        ),
    )
    shared_gpu_memory_grace: int = field(
        default=60, metadata=_about(Duration(), "how long it goes on, without a break, before the job is stopped")
    )
    log_cap: int = field(
        default=1 << 30,
        metadata=_about(
            Size(1 << 20), "of one job's log on a node: of a longer one the first and the last half of that are kept"
        ),
    )
    keep_history: int | None = field(
        default=None,
        metadata=_about(Duration(DAY), "how long ended jobs and events are kept; not set: for ever", acts=False),
    )
    keep_logs: int | None = field(
        default=None, metadata=_about(Duration(DAY), "how long the output of ended jobs is kept; not set: for ever")
    )
    log_space: int | None = field(
        default=None,
        metadata=_about(
            Size(10 << 20),
            "most disk that logs, the daemon's among them, may take on the controller: the oldest of ended jobs go; not"
            " set: all there is",
        ),
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """What -p names. Time limits are those of jobs: what is asked for with -t."""

    name: str
    default: bool = field(
        default=False, metadata=_about(Flag(), "where a job without -p goes; of several queues exactly one is")
    )
    members: tuple[str, ...] | None = field(
        default=None, metadata=_about(Names(), "who may submit to it, besides admins; not set: everyone")
    )
    default_time: int | None = field(
        default=None, metadata=_about(Duration(), "time limit of a job without -t; not set: max_time")
    )
    max_time: int | None = field(default=None, metadata=_about(Duration(), "longest time limit a job may have"))
    max_gpus_per_job: int | None = field(default=None, metadata=_about(Number(), "most GPUs one job may ask for"))
    max_jobs_per_user: int | None = field(
        default=None, metadata=_about(Number(), "most jobs of one user that run at once")
    )
    max_gpus_per_user: int | None = field(
        default=None, metadata=_about(Number(), "most GPUs one user may hold at once")
    )
    priority: int = field(default=0, metadata=_about(Number(-MOST), "jobs of a queue with a higher one come first"))
    preemptible: bool = field(
        default=False,
        metadata=_about(
            Flag(), "whether its jobs are stopped, and queued again, to make room for queues that go before"
        ),
    )


@dataclass(frozen=True, slots=True)
class Quota:
    """What one user may have, over all queues."""

    user: str
    jobs: int | None = field(default=None, metadata=_about(Number(), "most jobs that run at once"))
    gpus: int | None = field(default=None, metadata=_about(Number(), "most GPUs held at once"))
    gpu_hours: int | None = field(default=None, metadata=_about(Number(), "most GPU-hours in any 30 days"))


MAIN = Queue("main", default=True)  # the one queue where none is configured


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it, of one cluster. version rises by one with each change; queues and quotas are by name."""

    version: int = 0
    cluster: ClusterSettings = ClusterSettings()
    queues: tuple[Queue, ...] = ()
    quotas: tuple[Quota, ...] = ()

    @property
    def known_queues(self) -> tuple[Queue, ...]:
        return self.queues or (MAIN,)

    def queue(self, name: str) -> Queue | None:
        return next((queue for queue in self.known_queues if queue.name == name), None)

    @property
    def default_queue(self) -> Queue:
        queues = self.known_queues
        return next((queue for queue in queues if queue.default), queues[0])


def settings_in(table: type) -> tuple[Setting, ...]:
    """What may stand in [cluster] (ClusterSettings), a queue (Queue) or a quota (Quota), in the order it is shown."""
    described = ((f, f.metadata["setting"]) for f in fields(table) if "setting" in f.metadata)
    return tuple(Setting(f.name, kind, f.default, meaning, acts) for f, (kind, meaning, acts) in described)


# ---------------------------------------------------------------- text


def toml(value: object) -> str:
    """A value in TOML, which for these types is how JSON has it."""
    return json.dumps(value, ensure_ascii=False)


def span(seconds: int) -> str:
    """'2h30m': what `parse_duration` reads, in the fewest units."""
    parts = []
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts)


def _size(size: int) -> str:
    """'2G': what `parse_size` reads, exactly."""
    for unit in "TGMK":
        width = 1 << 10 * (1 + "KMGT".index(unit))
        if size >= width and size % width == 0:
            return f"{size // width}{unit}"
    return f"{size}B"


def is_name(text: object) -> bool:
    """Whether this may name a user."""
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME and text.isprintable() and text == text.strip()
