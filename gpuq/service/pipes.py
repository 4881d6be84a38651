"""The controller's part of streams: bytes that wait between a command and the agent of a job. In memory only, bounded.

Both ends keep what they sent until the other end has it. So nothing here has to be right for long: what is lost with
this process is sent again, from where the reader says that it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gpuq.errors import Conflict
from gpuq.model import JobId, NodeName
from gpuq.protocol import RESUME_SECONDS, STREAM_WINDOW, StreamAim, StreamKind, StreamOrder

MAX_STREAMS = 128  # at once; each may hold two windows, if nobody reads: 128 MiB in all
MAX_STREAMS_OF_ONE = 32  # a notebook in a browser has about ten
JOIN_SECONDS = 30.0  # for the agent to answer the first time: as long as it may be silent before its node is suspect
OVER_SECONDS = 60.0  # a stream that ended is known for so long, to tell its other end
_UNHEARD_SECONDS = 15.0  # an agent asks every 5 s; one that has not for so long is told of the stream again


class Pipe:
    """One direction: the bytes from where its reader stands on, as far as they have come."""

    def __init__(self) -> None:
        self.base: int | None = None  # the reader has all before; None: it has not said so yet
        self._data = bytearray()

    @property
    def end(self) -> int | None:
        """How far the bytes have come."""
        return None if self.base is None else self.base + len(self._data)

    def take(self, offset: int, piece: bytes) -> None:
        """Adds what of a piece is new and has room. One that begins too far ahead adds nothing."""
        end = self.end
        if end is not None and offset <= end:
            self._data += memoryview(piece)[end - offset :][: STREAM_WINDOW - len(self._data)]

    def read(self, offset: int, limit: int) -> bytes:
        """What there is from offset on; all before is let go of. Nothing for an offset that was passed already."""
        if self.base is None:
            self.base = offset
        if offset < self.base:
            return b""
        del self._data[: offset - self.base]
        self.base = offset
        return bytes(self._data[:limit])


@dataclass(eq=False, slots=True)
class Stream:
    """One stream. up goes to the job, down to the client; times are the controller's monotonic clock's.

    over says why it has ended: a line, empty where its client wanted it so; None while it has not.
    """

    order: StreamOrder
    job: JobId
    node: NodeName
    user: str
    opened_at: float
    client_at: float  # last heard of
    agent_at: float | None = None  # likewise; None: never
    due: bool = True  # whether the agent has to be told, or told again: it is another, or silent
    over: str | None = None
    over_at: float = 0.0
    up: Pipe = field(default_factory=Pipe)
    down: Pipe = field(default_factory=Pipe)
    waiting: set[Callable[[], None]] = field(default_factory=set)  # called when anything of this has changed

    def changed(self) -> None:
        waiting = list(self.waiting)
        self.waiting.clear()
        for wake in waiting:
            wake()

    def joined(self, now: float) -> None:
        """The agent asks for it, or says something of it."""
        self.agent_at, self.due = now, False

    def end(self, text: str, now: float) -> None:
        if self.over is None:
            self.over, self.over_at = text, now
            self.up = Pipe()
        self.changed()


_Port = tuple[str, JobId, int, int]  # user, job, rank, number


def _port(user: str, job: JobId, rank: int, aim: StreamAim) -> _Port:
    return user, job, rank, aim.port


class Streams:
    """All streams of this life of the controller."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._on: dict[NodeName, dict[str, Stream]] = {}  # the same: each node is asked about at each exchange
        self._ports: dict[_Port, float] = {}  # when each was last connected to
        self.closing = False

    def find(self, id: str) -> Stream | None:
        return self._streams.get(id)

    def check_room(self, user: str) -> None:
        """Raises Conflict if there is no room for another stream of this user."""
        streams = [stream for stream in self._streams.values() if stream.over is None]
        mine = sum(stream.user == user for stream in streams)
        if mine >= MAX_STREAMS_OF_ONE:
            raise Conflict(f"{user} has {mine} streams to jobs open, which is the most", "close one first")
        if len(streams) >= MAX_STREAMS:
            raise Conflict(f"{len(streams)} streams to jobs are open, which is the most", "try again later")

    def add(self, stream: Stream) -> None:
        self._streams[stream.order.id] = stream
        self._on.setdefault(stream.node, {})[stream.order.id] = stream
        if stream.order.aim.kind is StreamKind.PORT:
            self._ports[_port(stream.user, stream.job, stream.order.rank, stream.order.aim)] = stream.opened_at

    def is_one_of_many(self, user: str, job: JobId, rank: int, aim: StreamAim) -> bool:
        """Whether the user has lately connected to the same port: a page in a browser does so again and again."""
        return aim.kind is StreamKind.PORT and _port(user, job, rank, aim) in self._ports

    def due(self, node: NodeName) -> tuple[StreamOrder, ...]:
        """Those that the node's agent has to be told of."""
        streams = self._on.get(node)
        return tuple(s.order for s in streams.values() if s.due) if streams else ()

    def forgotten_by(self, node: NodeName) -> None:
        """The node has another agent now, which knows of none."""
        for stream in self._on.get(node, {}).values():
            stream.due = True

    def expire(self, now: float) -> None:
        """Ends those whose client is gone for good, forgets those that ended; a silent agent is to be told again."""
        for id, stream in list(self._streams.items()):
            if stream.agent_at is None and now - stream.opened_at > JOIN_SECONDS:
                stream.end(f"node {stream.node} did not answer in {JOIN_SECONDS:.0f} s; see gpuq nodes", now)
            if stream.agent_at is not None and now - stream.agent_at > _UNHEARD_SECONDS:
                stream.due = True
            if stream.agent_at is not None and now - stream.agent_at > RESUME_SECONDS:
                stream.end(f"node {stream.node} was silent for 10 minutes", now)
            if now - stream.client_at > RESUME_SECONDS:
                stream.end("its client was gone for 10 minutes", now)
            if stream.over is not None and now - stream.over_at > (RESUME_SECONDS if stream.due else OVER_SECONDS):
                del self._streams[id]
                del self._on[stream.node][id]
        self._ports = {port: at for port, at in self._ports.items() if now - at <= RESUME_SECONDS}

    def release_all(self) -> None:
        """Nobody waits any longer: the process is about to stop."""
        self.closing = True
        for stream in self._streams.values():
            stream.changed()
