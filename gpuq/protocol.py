"""Every message between client, controller and agent, and the limits both ends keep.

PROTOCOL rises when an older peer would misread a message; a peer with another number is told so (Incompatible).

The exchange between agent and controller (`SyncRequest` -> `SyncReply`) is written for messages that are lost,
repeated, reordered and late:

- a report carries (incarnation, sequence); the controller ignores one that is not newer than the last it took;
- an answer carries (epoch, generation) and echoes the request's (incarnation, sequence); the agent ignores one older
  than the last it applied, by either pair;
- every order is repeated until a report shows that it was carried out, and carrying it out twice changes nothing;
- nothing follows from something being absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gpuq.model import (
    AttemptUid,
    Dependency,
    ExitRecord,
    Job,
    JobId,
    JobSpec,
    NodeName,
    OnLost,
    Rank,
    RankPhase,
    StopKind,
    WarningSignal,
)
from gpuq.node import Inventory, NodeSample
from gpuq.wire import API_PREFIX as API_PREFIX
from gpuq.wire import POLL_SECONDS as POLL_SECONDS
from gpuq.wire import PROTOCOL as PROTOCOL
from gpuq.wire import PROTOCOL_HEADER as PROTOCOL_HEADER
from gpuq.wire import REQUEST_ID_HEADER as REQUEST_ID_HEADER
from gpuq.wire import RESUME_SECONDS as RESUME_SECONDS
from gpuq.wire import STREAM_WINDOW as STREAM_WINDOW
from gpuq.wire import TLS_NAME as TLS_NAME

MAX_BODY_BYTES = 4 << 20  # a submit: kernel limits leave 2 MiB for arguments and environment together
MAX_ARGUMENT_BYTES = 128 << 10  # Linux' MAX_ARG_STRLEN, one argument or variable
MAX_COMMAND_BYTES = 1 << 20  # all arguments, or a script
MAX_ENVIRONMENT_BYTES = 1 << 20
MAX_NAME = 128  # job names, queue names, node names
MAX_DEPENDENCIES = 1000  # of a job
MAX_HOLDS = 10_000  # attempts named in one sync: far more than a node can have, few enough to look each up
MAX_REPORTS = 256  # attempts detailed in one sync; the rest follow in the next
MAX_DESCRIBED = 64  # attempts one answer asks to be described; the rest follow in the next
MAX_GPUS = 1024  # of one node; also above every index
MAX_SYNC_BYTES = 8 << 20
MAX_LOG_POST_BYTES = 4 << 20
MAX_PAGE = 10_000  # items of one page of a list
MAX_STREAM_COMMAND_BYTES = 8 << 10  # of a shell: with it, an order fits a line of the supervisor's socket
MAX_AHEAD_SECONDS = 86_400  # how far a node's clock may be ahead of the controller's: incarnations are taken from it


@dataclass(frozen=True, slots=True)
class Submission:
    """A submit as the client sends it. Numbers are checked by the API; see the OpenAPI page for bounds.

    gpus counts the whole job; gpus_per_node, if given, counts one node and must agree. array is text ('0-99%8').
    environment None means the account's login environment on the node.
    """

    command: tuple[str, ...] = ()
    script: str | None = None
    cwd: str | None = None
    environment: Mapping[str, str] | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    venv: str | None = None
    conda_env: str | None = None
    name: str | None = None
    queue: str | None = None
    priority: int | None = None  # the cluster's default_priority
    nodes: int = 1
    gpus: int | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    gpu_memory_bytes: int | None = None
    shared: bool = False  # of each GPU gpu_memory_bytes, beside other such jobs
    constraint: str = ""
    exclusive: bool = False
    cpus: int = 0
    memory_bytes: int = 0
    only_nodes: tuple[NodeName, ...] = ()
    not_nodes: tuple[NodeName, ...] = ()
    time_limit_seconds: int | None = None
    scheduling_timeout_seconds: int | None = None
    grace_seconds: int | None = None
    warning: WarningSignal | None = None
    output: str | None = None
    error: str | None = None
    append: bool = False  # to output and error
    dependencies: tuple[Dependency, ...] = ()
    singleton: bool = False  # after all live jobs of its user and name
    array: str | None = None
    begin_at: float | None = None
    hold: bool = False
    max_retries: int = 0
    requeue: bool = True
    on_lost: OnLost = OnLost.KEEP
    comment: str = ""
    pty: str = ""  # rows and columns, such as '24x80', for `run --pty`, which then has it to itself


@dataclass(frozen=True, slots=True)
class RunOrder:
    """Run this rank. Holds all an agent, or a controller that forgot (after a restore), needs to know of it.

    gpu_uuids runs beside ranks[rank].gpus: an agent whose GPU at that index has another uuid refuses to start.
    seal is the controller's own mark, by which it knows an order again that it has forgotten.
    """

    uid: AttemptUid
    job: Job
    spec: JobSpec
    number: int  # of the attempt
    rank: int
    ranks: tuple[Rank, ...]
    gpu_uuids: tuple[str, ...] = ()
    granted_at: float = 0.0
    port: int | None = None  # leased on the first rank's node; a gang's ranks find each other by it
    address: str = ""  # of the first rank's node
    log_cap_bytes: int = 0  # of its log, kept at the beginning and the end; 0: all is kept
    seal: str = ""


@dataclass(frozen=True, slots=True)
class StopOrder:
    """End this attempt's rank here; if it has not started, never start it."""

    uid: AttemptUid
    kind: StopKind
    grace_seconds: int


UNKNOWN_RANK = -1  # in a report on an attempt whose order never came: the reporting node's rank, whichever that is


@dataclass(frozen=True, slots=True)
class RankReport:
    """What an agent knows of a rank it holds. order is sent only when asked for (`SyncReply.describe`)."""

    uid: AttemptUid
    rank: int
    phase: RankPhase
    stopping: bool = False
    started_at: float | None = None
    exit: ExitRecord | None = None
    log_size: int = 0
    order: RunOrder | None = None


@dataclass(frozen=True, slots=True)
class Overuse:
    """That the processes of a rank have more memory of a GPU than its share. Of several GPUs the one longest so.

    seconds is for how long, without a break, as of the last reading: on the agent's monotonic clock, so that neither a
    cut network nor a controller that starts again makes it less.
    """

    uid: AttemptUid
    gpu: int
    used_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Heartbeat and report of one agent.

    holds names every attempt the agent has (accepted, running, ended but not acknowledged, barred), at most
    MAX_HOLDS; reports details at most MAX_REPORTS of them, those with news first. epoch and generation are of the last
    answer applied.
    """

    protocol: int
    node: NodeName
    boot_id: str
    incarnation: int  # rises with each start of this agent
    sequence: int  # rises with each request of this incarnation
    epoch: int = 0
    generation: int = 0
    holds: tuple[AttemptUid, ...] = ()
    reports: tuple[RankReport, ...] = ()
    inventory: Inventory | None = None  # when it differs from what the controller last confirmed
    inventory_hash: str = ""
    sample: NodeSample | None = None
    wait_seconds: float = 0.0  # how long the controller may hold the answer while it has no orders
    overuse: tuple[Overuse, ...] = ()  # at most MAX_REPORTS, each attempt once; of whom it is not said, it is not known


@dataclass(frozen=True, slots=True)
class GpuPardon:
    """An admin's word that this fault of a GPU is none, or not any more."""

    uuid: str
    fault: int


class StreamKind(str, Enum):
    SHELL = "shell"  # a process of its own, beside the job
    PORT = "port"  # of the node's loopback, where the job listens
    TERMINAL = "terminal"  # the job's own, of `run --pty`


@dataclass(frozen=True, slots=True)
class StreamAim:
    """What a stream leads to. port is for PORT; the rest is for SHELL: without a command, the account's shell."""

    kind: StreamKind
    port: int = 0
    command: tuple[str, ...] = ()
    pty: str = ""  # as in a Submission
    term: str = ""  # TERM, where there is a pty


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """Open this stream to a rank that runs here, or take it up again. Repeated until the agent asks for its bytes."""

    id: str
    uid: AttemptUid
    rank: int
    aim: StreamAim


@dataclass(frozen=True, slots=True)
class SyncReply:
    """Orders as of one durable change number.

    superseded marks an answer to a request that was not newer than one already taken: it carries no orders, and
    known_incarnation is the highest one taken, so that an agent can tell when its own is too low ever to be heard.
    """

    epoch: int
    generation: int
    incarnation: int
    sequence: int
    run: tuple[RunOrder, ...] = ()
    stop: tuple[StopOrder, ...] = ()
    extend: tuple[AttemptUid, ...] = ()  # lease runs lease_seconds from when the agent sent the request answered here
    forget: tuple[AttemptUid, ...] = ()  # the end is on record
    describe: tuple[AttemptUid, ...] = ()  # unknown here: send their orders
    lease_seconds: float = 0.0
    want_inventory: bool = False
    superseded: bool = False
    known_incarnation: int = 0
    pardon: tuple[GpuPardon, ...] = ()
    go: tuple[AttemptUid, ...] = ()  # all ranks of the gang are ready: start the job
    streams: tuple[StreamOrder, ...] = ()


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Header of one piece of log in a shipment; the bytes of all pieces follow the JSON line, in order.

    Bytes from hole_start to hole_end were given back by the log's cap: they are not shipped, nor kept where they are.
    """

    uid: AttemptUid
    rank: int
    offset: int
    length: int
    hole_start: int = 0
    hole_end: int = 0


@dataclass(frozen=True, slots=True)
class LogAck:
    """size: bytes of this log the controller has on disk, fsynced. The agent goes on from there."""

    uid: AttemptUid
    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class LogShipment:
    """packed: how many bytes those of all pieces become again by zlib; 0 if they are as they were written."""

    chunks: tuple[LogChunk, ...]
    packed: int = 0


@dataclass(frozen=True, slots=True)
class LogReply:
    acks: tuple[LogAck, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs a verb means: explicit ids, or filters that must all hold. Empty selects nothing."""

    ids: tuple[JobId, ...] = ()
    user: str | None = None
    queue: str | None = None
    state: str | None = None
    name: str | None = None
