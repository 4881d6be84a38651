"""A whole controller with one agent's word, a disk that writes when told to, and a clock that moves when told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuq.changes import Change, PutNode
from gpuq.errors import GpuqError
from gpuq.model import JobId, NodeName, Now
from gpuq.protocol import RankReport, Submission, SyncReply, SyncRequest
from gpuq.service.commands import Submit, UserCommand
from gpuq.service.controller import Controller
from gpuq.view import Policy
from tests.service.builders import ADA, WALL, a_node, an_inventory
from tests.simulation.disk import Disk

N1 = NodeName("n1")


class Machine:
    """A controller with a disk that writes when told to, and a clock that moves when told to."""

    def __init__(self, disk: Disk | None = None, time: float = 0.0) -> None:
        self.time = time
        self.disk = disk or Disk()
        if disk is None:
            self.disk.write(0, (PutNode(a_node("n1", boot_id=None, inventory=None)),))
        self.queue: list[tuple[int, tuple[Change, ...]]] = []
        self.later: list[Callable[[], None]] = []
        self.seeds = self.asked = 0
        self.sequence = 0
        self.controller = Controller(
            load=lambda: self.disk,
            writer=self,
            lookup=self.disk,
            policy=Policy(),
            clock=lambda: Now(self.time, WALL + self.time),
            seed=self._seed,
            soon=self.later.append,
        )

    def _seed(self) -> str:
        self.seeds += 1
        return f"{self.seeds + int(self.time * 1000):020x}"

    def enqueue(self, seq: int, changes: tuple[Change, ...]) -> None:
        self.queue.append((seq, changes))

    def turn(self) -> None:
        """What the event loop has to do now, without any disk."""
        while self.later:
            self.later.pop(0)()

    def write(self) -> None:
        """Everything decided becomes durable, with what follows from it."""
        self.turn()
        while self.queue:
            seq, changes = self.queue.pop(0)
            self.disk.write(seq, changes)
            self.controller.commit.confirmed(seq)
            self.turn()

    def tick(self, seconds: float = 1.0) -> None:
        until = self.time + seconds
        while self.time < until:
            self.time = min(self.time + 1.0, until)
            self.controller.tick()
            self.turn()

    def ask(self, command: UserCommand, id: str = "") -> list[dict[str, Any] | GpuqError]:
        answers: list[dict[str, Any] | GpuqError] = []
        self.asked += 1
        self.controller.execute(command, id or f"request-{self.time}-{self.asked}", answers.append)
        return answers

    def submit(self, **fields: Any) -> JobId:
        fields.setdefault("command", ("true",))
        answers = self.ask(Submit(ADA, Submission(**fields)))
        self.write()
        (answer,) = answers
        assert isinstance(answer, dict)
        return JobId(answer["id"])

    def sync(self, *words: RankReport, wait: float = 0.0, **fields: Any) -> list[SyncReply | GpuqError]:
        """One request of the agent, with its inventory; the list fills when it is answered."""
        self.sequence = fields.pop("sequence", self.sequence + 1)
        fields.setdefault("holds", tuple(word.uid for word in words))
        fields.setdefault("inventory", an_inventory())
        fields.setdefault("generation", self.controller.commit.durable)
        request = SyncRequest(
            1, N1, "boot-1", fields.pop("incarnation", 1), self.sequence, reports=words, wait_seconds=wait,
            inventory_hash="h", **fields,
        )  # fmt: skip
        answers: list[SyncReply | GpuqError] = []
        self.controller.sync(N1, request, answers.append)
        return answers

    def answered(self, *words: RankReport, **fields: Any) -> SyncReply:
        answers = self.sync(*words, **fields)
        self.write()
        (answer,) = answers
        assert isinstance(answer, SyncReply)
        return answer
