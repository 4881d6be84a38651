"""Streams in the simulation: clients that open them and come again, agents that join, controllers that forget.

No bytes: what the exchange has to bring about is that the right agent is told, again and again, until it has joined.
"""

from __future__ import annotations

from typing import Protocol

from gpuq.errors import GpuqError
from gpuq.model import JobId, NodeName
from gpuq.protocol import StreamAim, StreamKind, StreamOrder
from gpuq.service.commands import Actor, OpenStream
from gpuq.service.controller import Answer, Controller
from gpuq.service.pipes import Stream
from gpuq.states import JobState
from tests.simulation.clock import Clock, Network

ALICE = Actor("alice", "user")
AGAIN_SECONDS = 5.0  # between two requests of one client
VISITS = 5  # of a client, before it goes away without a word
TOLD_SECONDS = 60.0  # without trouble, every agent has been told by then


class Host(Protocol):
    """Where the controller runs."""

    controller: Controller | None


class Streams:
    def __init__(self, clock: Clock, network: Network, host: Host) -> None:
        self._clock, self._network, self._host = clock, network, host
        self._opened = 0
        self.joined: list[tuple[NodeName, StreamOrder]] = []  # not looked at yet
        self.heard = 0  # streams that an agent has joined, counted in each life
        self.unheard: list[str] = []  # that had all the time they needed, and were not

    def open(self, job: JobId) -> str:
        """A client that opens a stream, and asks for it now and then; gives its id."""
        self._opened += 1
        id = f"stream-{self._opened:04}"
        self._ask(id, job, VISITS)
        return id

    def open_all(self) -> None:
        """To every job that runs, without trouble on the way: each must be joined in time."""
        controller = self._host.controller
        if controller is None:
            return
        for attempt in list(controller.view.attempts.values()):
            job = controller.view.job(attempt.job)
            if job is not None and job.state is JobState.RUNNING:
                id = self.open(job.id)
                self._clock.after(TOLD_SECONDS, lambda id=id, uid=attempt.uid: self._look(id, uid))  # type: ignore[misc]

    def _look(self, id: str, uid: str) -> None:
        controller = self._host.controller
        stream = None if controller is None else controller.streams.find(id)
        attempt = None if controller is None else controller.view.attempts.get(uid)  # type: ignore[call-overload]
        if stream is not None and attempt is not None and attempt.stop is None and stream.agent_at is None:
            self.unheard.append(id)

    def _ask(self, id: str, job: JobId, visits: int) -> None:
        if visits:
            self._network.send("user", "controller", lambda: self._arrive(id, job))
            self._clock.after(AGAIN_SECONDS, lambda: self._ask(id, job, visits - 1))

    def _arrive(self, id: str, job: JobId) -> None:
        """As gpuq/api/streams.py: one that is known is asked for, any other opened, again if need be."""
        controller = self._host.controller
        if controller is None:
            return
        stream = controller.streams.find(id)
        if stream is not None:
            stream.client_at = self._clock.now().monotonic
            return
        command = OpenStream(ALICE, job, 0, StreamAim(StreamKind.SHELL))
        controller.execute(command, id, self._add(controller, id), repr(command))

    def _add(self, controller: Controller, id: str) -> Answer:
        def added(reply: dict[str, object] | GpuqError) -> None:
            if isinstance(reply, GpuqError) or controller.streams.find(id) is not None:
                return
            now = self._clock.now().monotonic
            aim = StreamAim(StreamKind.SHELL)
            order = StreamOrder(id, reply["uid"], reply["rank"], aim)  # type: ignore[arg-type]
            controller.add_stream(
                Stream(order, JobId(str(reply["job"])), NodeName(str(reply["node"])), "alice", now, now)
            )

        return added

    def join(self, node: NodeName, order: StreamOrder, there: bool) -> None:
        self.joined.append((node, order))

        def arrive() -> None:
            controller = self._host.controller
            stream = None if controller is None else controller.streams.find(order.id)
            if stream is None:
                return
            now = self._clock.now().monotonic
            self.heard += stream.agent_at is None
            stream.joined(now)
            if not there:
                stream.end("it is not there", now)

        self._network.send(node, "controller", arrive)
