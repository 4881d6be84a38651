"""A cluster that is driven decision by decision, with defaults for everything a test does not care about."""

from __future__ import annotations

from typing import Any

from gpuq.changes import AddEvent, PutAttempt, PutJob, PutNode
from gpuq.cluster import Cluster
from gpuq.model import Attempt, AttemptUid, EndReason, ExitRecord, Job, JobId, NodeName, Now, RankPhase, StopKind
from gpuq.node import Gpu, Inventory, Node
from gpuq.protocol import RankReport, Selection, Submission, SyncRequest
from gpuq.reasons import WaitReason
from gpuq.scheduler import explain
from gpuq.service.commands import (
    Actor,
    Cancel,
    Command,
    Hold,
    Release,
    Report,
    Requeue,
    Schedule,
    Silence,
    Submit,
    Tick,
    Update,
)
from gpuq.service.decide import decide
from gpuq.states import FINAL, JobState, NodeState
from gpuq.view import Policy

ADA, BOB, ROOT = Actor("ada", "user"), Actor("bob", "user"), Actor("root", "admin")
WALL = 1_700_000_000.0


def an_inventory(gpus: int = 4, cpus: int = 16, memory_gib: int = 64, kind: str = "NVIDIA H100 80GB") -> Inventory:
    devices = tuple(Gpu(i, f"GPU-{i}", kind, 80 << 30) for i in range(gpus))
    return Inventory("host", devices, cpus, memory_gib << 30, True, "test")


def a_node(name: str = "n1", **fields: Any) -> Node:
    hardware = {k: fields.pop(k) for k in ("gpus", "cpus", "memory_gib", "kind") if k in fields}
    fields.setdefault("boot_id", "boot-1")
    fields.setdefault("inventory", an_inventory(**hardware))
    return Node(NodeName(name), **fields)


def exited(code: int | None = 0, **fields: Any) -> ExitRecord:
    fields.setdefault("started_at", WALL)
    return ExitRecord(EndReason.EXITED, WALL + 50.0, code, **fields)


NEVER = ExitRecord(EndReason.NEVER_STARTED, WALL)
REQUEUED = exited(None, signal=15, stopped=StopKind.REQUEUE)


class Desk:
    """The cluster behind the decisions, and what a store would remember of it. Time stands still unless moved."""

    def __init__(self, *nodes: Node, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.cluster = Cluster(self)
        self.states: dict[NodeName, NodeState] = {}
        self.left: set[AttemptUid] = set()  # orders that have left
        self.wall = WALL
        self.jobs: dict[JobId, Job] = {}  # every job there ever was
        self.attempts: dict[AttemptUid, Attempt] = {}
        self.events: list[AddEvent] = []
        self._turn = 0
        for node in nodes or (a_node(),):
            self.cluster.apply([PutNode(node)])

    # cluster.Volatile

    def node_state(self, name: NodeName) -> NodeState:
        return self.states.get(name, NodeState.UP)

    def order_left(self, uid: AttemptUid) -> bool:
        return uid in self.left

    # deciding

    @property
    def now(self) -> Now:
        return Now(self.wall - WALL, self.wall)

    def do(self, command: Command) -> dict[str, Any]:
        decision = decide(self.cluster, command, self.now, self.policy)
        self.cluster.apply(decision.changes)
        for change in decision.changes:
            if isinstance(change, PutJob):
                self.jobs[change.job.id] = change.job
            elif isinstance(change, PutAttempt):
                self.attempts[change.attempt.uid] = change.attempt
            elif isinstance(change, AddEvent):
                self.events.append(change)
        return decision.reply

    # users

    def submit(self, actor: Actor = ADA, ended: dict[JobId, JobState] | None = None, **fields: Any) -> JobId:
        fields.setdefault("command", ("true",))
        return JobId(self.do(Submit(actor, Submission(**fields), ended or {}))["id"])

    def _ended(self, ids: tuple[str, ...]) -> dict[JobId, Job]:
        return {
            JobId(id): self.jobs[JobId(id)] for id in ids if id in self.jobs and self.cluster.job(JobId(id)) is None
        }

    def _outcome(self, reply: dict[str, Any]) -> list[str]:
        return [item["outcome"] for item in reply["items"]]

    def cancel(self, *ids: str, actor: Actor = ADA, force: bool = False, **filters: Any) -> list[str]:
        selection = Selection(tuple(map(JobId, ids)), **filters)
        return self._outcome(self.do(Cancel(actor, selection, self._ended(ids), force)))

    def hold(self, *ids: str, actor: Actor = ADA) -> list[str]:
        return self._outcome(self.do(Hold(actor, Selection(tuple(map(JobId, ids))), self._ended(ids))))

    def release(self, *ids: str, actor: Actor = ADA) -> list[str]:
        return self._outcome(self.do(Release(actor, Selection(tuple(map(JobId, ids))), self._ended(ids))))

    def requeue(self, *ids: str, actor: Actor = ADA, force: bool = False, **filters: Any) -> list[str]:
        selection = Selection(tuple(map(JobId, ids)), **filters)
        return self._outcome(self.do(Requeue(actor, selection, self._ended(ids), force)))

    def update(self, id: str, actor: Actor = ADA, **fields: Any) -> None:
        self.do(Update(actor, JobId(id), self._ended((id,)), **fields))

    # time and the plan

    def tick(self, seconds: float = 0.0) -> None:
        self.wall += seconds
        self.do(Tick())

    def plan(self, send: bool = True) -> None:
        """One pass of the scheduler; send: the orders leave at once."""
        self._turn += 1
        self.do(Schedule(f"{self._turn:020x}"))
        if send:
            self.left |= set(self.cluster.attempts)

    def silence(self, name: str = "n1") -> None:
        self.states[NodeName(name)] = NodeState.LOST
        self.do(Silence(NodeName(name)))

    # agents

    def attempt(self, id: str) -> Attempt:
        """The live attempt of a job, else its latest."""
        live = self.cluster.attempt_of(JobId(id))
        return live or max((a for a in self.attempts.values() if a.job == id), key=lambda a: a.number)

    def sync(
        self, name: str = "n1", *words: RankReport, holds: tuple[str, ...] | None = None, **fields: Any
    ) -> SyncRequest:
        """A report that holds all live attempts of the node that were accepted, if not told otherwise."""
        if holds is None:
            held = [
                a.uid
                for a in self.cluster.attempts_on(NodeName(name))
                if any(rank.node == name and rank.phase is not RankPhase.ORDERED for rank in a.ranks)
            ]
            holds = tuple(dict.fromkeys([*held, *(word.uid for word in words)]))
        fields.setdefault("boot_id", "boot-1")
        request = SyncRequest(1, NodeName(name), incarnation=1, sequence=1, holds=tuple(map(AttemptUid, holds)),
                              reports=words, **fields)  # fmt: skip
        gone = {uid for uid in holds if self.cluster.attempt(AttemptUid(uid)) is None and uid in self.attempts}
        self.do(Report(request, frozenset(map(AttemptUid, gone))))
        self.states[NodeName(name)] = NodeState.UP
        return request

    def word(self, id: str, phase: RankPhase, exit: ExitRecord | None = None, rank: int = 0, **fields: Any) -> None:
        attempt = self.attempt(id)
        report = RankReport(attempt.uid, rank, phase, exit=exit, **fields)
        self.sync(attempt.ranks[rank].node, report)

    def accept(self, id: str) -> None:
        self.word(id, RankPhase.ACCEPTED)

    def run(self, id: str) -> None:
        """Plans and brings the job to RUNNING."""
        if self.cluster.attempt_of(JobId(id)) is None:
            self.plan()
        self.word(id, RankPhase.RUNNING, started_at=self.wall)

    def end(self, id: str, exit: ExitRecord | None = None) -> None:
        self.word(id, RankPhase.ENDED, exit or exited())

    # looking

    def job(self, id: str) -> Job:
        return self.jobs[JobId(id)]

    def state(self, id: str) -> JobState:
        return self.job(id).state

    def states_of(self, *ids: str) -> list[str]:
        return [self.state(id).value for id in ids]

    def cause(self, id: str) -> tuple[str, str] | None:
        cause = self.job(id).cause
        return None if cause is None else (cause.code.value, cause.text)

    def reason(self, id: str) -> WaitReason | None:
        return explain(self.cluster, self.job(id), self.now, self.policy)

    def kinds(self, prefix: str = "") -> list[str]:
        return [event.kind for event in self.events if event.kind.startswith(prefix)]

    def live(self) -> list[JobId]:
        return [job.id for job in self.cluster.live_jobs()]

    def all_final(self) -> bool:
        return all(job.state in FINAL for job in self.jobs.values())


def ordered(desk: Desk) -> str:
    """A job whose order has left."""
    job = desk.submit()
    desk.plan()
    return job


def running(desk: Desk) -> str:
    job = desk.submit()
    desk.run(job)
    return job


def lost(desk: Desk) -> str:
    job = running(desk)
    desk.silence()
    return job
