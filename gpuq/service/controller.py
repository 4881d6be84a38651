"""The controller without a clock, thread or socket: commands and syncs in, answers out through callbacks.

`live.py` runs it in an event loop with the real store; the deterministic simulation runs the very same class in
virtual time. Every answer goes through `Commit.when_durable`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gpuq import arrays
from gpuq.cluster import Cluster, Snapshot
from gpuq.errors import Conflict, GpuqError, Incompatible, InvalidRequest, NoSpace, NotFound, Unavailable
from gpuq.model import (
    AttemptUid,
    Change,
    Job,
    JobId,
    JobSpec,
    NodeName,
    NodeSample,
    Now,
    PutAttempt,
    PutJob,
    PutNode,
    PutReply,
    WaitReason,
)
from gpuq.protocol import MAX_DESCRIBED, POLL_SECONDS, PROTOCOL, RunOrder, Submission, SyncReply, SyncRequest
from gpuq.scheduler import Explainer, explain, plan, shortfalls
from gpuq.service.bounds import check_report
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
    UserCommand,
)
from gpuq.service.commit import Commit, Writer
from gpuq.service.decide import decide
from gpuq.service.liveness import Liveness
from gpuq.service.nodes import Orders, orders
from gpuq.states import FINAL, JobState, NodeState
from gpuq.view import Placement, Policy

logger = logging.getLogger(__name__)

_ASKED = "gpuq-asked"  # the key, in a stored answer, of what was asked; no answer has it
_LOGGED = 8  # attempts named in one line of the log; the others are counted

Answer = Callable[[dict[str, Any] | GpuqError], None]
SyncAnswer = Callable[[SyncReply | GpuqError], None]


class Lookup(Protocol):
    """What the store knows beyond the cluster. Only ever asked for things that are durable."""

    def job(self, id: JobId) -> Job | None: ...

    def spec(self, id: JobId) -> JobSpec | None: ...

    def ended_attempts(self, uids: Iterable[AttemptUid]) -> set[AttemptUid]: ...

    def reply(self, request_id: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a submission would meet now: where it would start, or why it would wait."""

    placement: Placement | None
    reason: WaitReason | None


@dataclass(slots=True)
class _Poll:
    """A sync whose answer is held until there are orders or its time is up.

    unknown are those it holds of which there is no record. Whatever else it holds and the view does not has ended.
    """

    request: SyncRequest
    unknown: frozenset[AttemptUid]
    answer: SyncAnswer
    deadline: float
    answering: bool = False


@dataclass(slots=True)
class _Peer:
    """What this life of the controller knows of one agent."""

    incarnation: int = -1
    sequence: int = -1
    poll: _Poll | None = None
    generation_sent: int = -1
    delivered: frozenset[tuple[str, str]] = frozenset()  # urgent orders of the last answer
    described: set[AttemptUid] = field(default_factory=set)  # asked for, until all that are wanted had their turn
    sample: NodeSample | None = None
    heard_at: float | None = None  # wall
    inventory_hash: str | None = None


@dataclass(slots=True)
class _Life:
    """Implements cluster.Volatile for one life of the controller."""

    liveness: Liveness
    ordered: set[AttemptUid] = field(default_factory=set)

    def node_state(self, name: NodeName) -> NodeState:
        return self.liveness.state(name)

    def order_left(self, uid: AttemptUid) -> bool:
        return uid in self.ordered


class Controller:
    """See the module's docstring. All methods are called from one thread; callbacks come on that thread.

    load reads what the store has now; clock gives both clocks; seed gives 20 fresh random hex characters; soon runs a
    function after the current one.
    """

    def __init__(
        self,
        load: Callable[[], Snapshot],
        writer: Writer,
        lookup: Lookup,
        policy: Policy,
        clock: Callable[[], Now],
        seed: Callable[[], str],
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        snapshot = load()
        self.policy, self.epoch = policy, snapshot.epoch
        self.liveness = Liveness(policy, clock().monotonic)
        self._life = _Life(self.liveness)
        self._load, self._lookup, self._clock, self._seed, self._soon = load, lookup, clock, seed, soon
        cluster = Cluster.load(snapshot, self._life)
        self._life.ordered.update(cluster.attempts)  # an earlier life may have sent these
        self.commit = Commit(cluster, writer, snapshot.last_seq)
        self._peers: dict[NodeName, _Peer] = {}
        self._plan_due = False
        self._paused: Unavailable | None = None  # the disk is full: nothing can be decided
        self._stopping = False

    @property
    def view(self) -> Cluster:
        return self.commit.cluster

    # ------------------------------------------------------------ commands of users

    def execute(self, command: UserCommand, request_id: str, answer: Answer, asked: str = "") -> None:
        """Decides, applies, and answers when durable. The same request id of the same user gets the same answer.

        asked is a digest of what was asked: a request id that comes back with another is refused with Conflict, for
        the first one's answer would be taken as this one's.
        """
        if self._paused is not None:
            answer(self._paused)
            return
        key = f"{command.actor.user}/{request_id}"
        stored = self.commit.reply(key) or self._lookup.reply(key)
        if stored is not None:
            self._answer_at(self.commit.last, answer, _repeated(stored, request_id, asked))
            return
        now = self._clock()
        try:
            decision = decide(self.view, self._informed(command), now, self.policy)
        except GpuqError as error:
            self._answer_at(self.commit.last, answer, error)
            return
        kept = json.dumps({**decision.reply, _ASKED: asked} if asked else decision.reply)
        reply = PutReply(key, command.actor.user, now.wall, kept)
        self._answer_at(self._apply((*decision.changes, reply)), answer, decision.reply)

    def _informed(self, command: UserCommand) -> UserCommand:
        """The command with what the store knows of the ids it names and the view does not hold."""
        match command:
            case Submit():
                ids = [d.job for d in command.submission.dependencies]
                return replace(command, ended={id: job.state for id, job in self._ended(ids).items()})
            case Cancel() | Hold() | Release() | Requeue():
                return replace(command, known=self._ended(command.selection.ids))
            case Update():
                return replace(command, known=self._ended([command.id]))
            case _:
                return command

    def _ended(self, ids: Iterable[JobId]) -> dict[JobId, Job]:
        found = {}
        for id in ids:
            if self.view.job(id) is None:
                job = self.ended_job(id) or self._dropped(id)
                if job is not None:
                    found[id] = job
        return found

    def _dropped(self, id: JobId) -> Job | None:
        """An element that ended before it was made, as it would have been; None for any other."""
        element = arrays.element(id)
        row = None if element is None else self.view.job(element[0]) or self.ended_job(element[0])
        if element is None or row is None or row.array is None or not arrays.contains(row.array.ranges, element[1]):
            return None
        if arrays.contains(row.array.waiting, element[1]):
            return None
        return replace(row, id=id, index=element[1], array=None, state=arrays.dropped_state(row))

    def ended_job(self, id: JobId) -> Job | None:
        """A job that has ended, durable or not; None if there is none, or it lives."""
        job = self.commit.ended_job(id)
        if job is None and self.view.job(id) is None:
            job = self._lookup.job(id)
        return job if job is not None and job.state in FINAL else None

    def _answer_at(self, number: int, answer: Answer, body: dict[str, Any] | GpuqError) -> None:
        self.commit.when_durable(number, lambda error: answer(body if error is None else error))

    # ------------------------------------------------------------ deciding and what follows

    def _apply(self, changes: tuple[Change, ...]) -> int:
        number = self.commit.apply(changes)
        if any(isinstance(change, (PutJob, PutAttempt, PutNode)) for change in changes):
            self._follow_up()
        return number

    def _follow_up(self) -> None:
        """Plans, then answers the polls that have orders now: once for all decisions of this turn."""
        if not self._plan_due:
            self._plan_due = True
            self._soon(self._plan_and_push)

    def _plan_and_push(self) -> None:
        self._plan_due = False
        if self._paused is not None:
            return
        if self.view.ready():
            self.commit.apply(self._decide(Schedule(self._seed())))
        for name, peer in self._peers.items():
            if peer.poll is not None:
                self._answer_poll(name, peer, only_if_urgent=True)

    def _decide(self, command: Command) -> tuple[Change, ...]:
        return decide(self.view, command, self._clock(), self.policy).changes

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """Due every second: silences, begin times and time-outs, and polls whose time is up."""
        now = self._clock()
        if self._paused is not None:
            self.liveness.pause(now.monotonic)
            return
        for name in self.liveness.newly_lost(self.view.nodes, now.monotonic):
            logger.warning("node.lost node=%s", name)
            self._apply(self._decide(Silence(name)))
        self._apply(self._decide(Tick()))
        self._life.ordered.intersection_update(self.view.attempts)
        if self.view.ready():
            self._follow_up()  # a node may have come up, or a suspect one returned, without a change of its own
        for name, peer in self._peers.items():
            if peer.poll is not None and now.monotonic >= peer.poll.deadline:
                self._answer_poll(name, peer, only_if_urgent=False)

    # ------------------------------------------------------------ the exchange

    def sync(self, name: NodeName, request: SyncRequest, answer: SyncAnswer) -> None:
        """Takes a report and answers with orders, held up to request.wait_seconds while there are none."""
        if request.protocol != PROTOCOL:
            answer(Incompatible(f"this controller speaks protocol {PROTOCOL}, the agent {request.protocol}"))
            return
        if self.view.nodes.get(name) is None or request.node != name:
            answer(NotFound(f"node {request.node} is not part of this cluster"))
            return
        peer = self._peers.setdefault(name, _Peer())
        if self._paused is not None:
            answer(self._paused)
            return
        now = self._clock()
        try:
            check_report(request, now.wall)
        except InvalidRequest as error:
            answer(error)
            return
        if (request.incarnation, request.sequence) <= (peer.incarnation, peer.sequence):
            answer(self._superseded(request, peer))
            return
        self._release(peer)
        if request.incarnation != peer.incarnation or request.generation < peer.generation_sent:
            peer.delivered = frozenset()  # the last answer was never applied: say it all again
            peer.described.clear()
        peer.incarnation, peer.sequence = request.incarnation, request.sequence
        wait = 0.0 if self._stopping else min(max(request.wait_seconds, 0.0), POLL_SECONDS)
        poll = _Poll(request, self._take(request), answer, now.monotonic + wait)
        was_up = self.liveness.state(name) is NodeState.UP
        self.liveness.now = max(self.liveness.now, now.monotonic)
        unexplained = self._orders(name, poll).unexplained
        if unexplained and name not in self.liveness.unexplained:
            first = ",".join(unexplained[:_LOGGED])
            logger.warning("node.unexplained node=%s count=%d first=%s", name, len(unexplained), first)
        self.liveness.heard(name, now.monotonic, explained=not unexplained)
        peer.heard_at, peer.sample = now.wall, request.sample or peer.sample
        if request.inventory is not None:
            peer.inventory_hash = request.inventory_hash
        if not was_up:
            self._follow_up()
        peer.poll = poll
        self._answer_poll(name, peer, only_if_urgent=wait > 0)

    def _release(self, peer: _Peer) -> None:
        if peer.poll is not None:
            poll, peer.poll = peer.poll, None
            poll.answer(self._superseded(poll.request, peer))

    def release_all(self) -> None:
        """Answers every held poll, and holds no other, for a controller that is about to stop."""
        self._stopping = True
        for peer in self._peers.values():
            self._release(peer)

    def _superseded(self, request: SyncRequest, peer: _Peer) -> SyncReply:
        return SyncReply(
            self.epoch,
            self.commit.durable,
            request.incarnation,
            request.sequence,
            superseded=True,
            known_incarnation=peer.incarnation,
        )

    def _take(self, request: SyncRequest) -> frozenset[AttemptUid]:
        """Takes a report's word; gives those it names of which there is no record, looked up once."""
        named = dict.fromkeys((*request.holds, *(word.uid for word in request.reports)))
        gone = [uid for uid in named if self.view.attempt(uid) is None]
        ended = {uid for uid in gone if self.commit.ended_attempt(uid)}
        if len(ended) < len(gone):
            ended |= self._lookup.ended_attempts(uid for uid in gone if uid not in ended)
        self._apply(self._decide(Report(request, frozenset(ended))))
        strangers = (uid for uid in gone if uid not in ended and not self.commit.ended_attempt(uid))
        return frozenset(uid for uid in strangers if self.view.attempt(uid) is None)

    def _orders(self, name: NodeName, poll: _Poll) -> Orders:
        held = poll.request.holds
        ended = frozenset(uid for uid in held if uid not in poll.unknown and self.view.attempt(uid) is None)
        return orders(self.view, name, poll.request, ended)

    def _to_describe(self, peer: _Peer, wanted: tuple[AttemptUid, ...], again: bool) -> tuple[AttemptUid, ...]:
        """At most MAX_DESCRIBED of those wanted: all have their turn before any is, if it may be, asked for again."""
        fresh = [uid for uid in wanted if uid not in peer.described]
        if again and not fresh:
            peer.described.clear()
            fresh = list(wanted)
        return tuple(fresh[:MAX_DESCRIBED])

    def _answer_poll(self, name: NodeName, peer: _Peer, only_if_urgent: bool) -> None:
        """Starts the answer of a held poll: what it says is fixed now and leaves when this state is durable."""
        poll = peer.poll
        if poll is None or poll.answering:
            return
        due = self._orders(name, poll)
        due = replace(due, describe=self._to_describe(peer, due.describe, again=not only_if_urgent))
        urgent = due.urgent()
        wants_inventory = peer.inventory_hash != poll.request.inventory_hash
        if only_if_urgent and not wants_inventory and urgent <= peer.delivered:
            return
        poll.answering = True
        self._life.ordered.update(attempt.uid for attempt, _ in due.run)
        number = self.commit.last

        def leave(error: Unavailable | None) -> None:
            if peer.poll is not poll:
                return  # superseded meanwhile
            peer.poll = None
            if error is not None:
                poll.answer(error)
                return
            peer.delivered, peer.generation_sent = urgent, number
            peer.described.update(due.describe)
            poll.answer(self._reply(poll.request, due, number, wants_inventory))

        self.commit.when_durable(number, leave)

    def _reply(self, request: SyncRequest, due: Orders, number: int, wants_inventory: bool) -> SyncReply:
        runs = []
        for attempt, rank in due.run:
            job = self.view.job(attempt.job)
            if job is None or job.state is not JobState.ALLOCATED or self.view.attempt(attempt.uid) is None:
                continue  # stopped or given up since: the next answer says so
            spec = self._lookup.spec(job.id) or self._lookup.spec(job.array_id)
            if spec is None:
                continue
            node = self.view.nodes[attempt.ranks[rank].node]
            by_index = {gpu.index: gpu.uuid for gpu in node.inventory.gpus} if node.inventory else {}
            uuids = tuple(by_index.get(index, "") for index in attempt.ranks[rank].gpus)
            order = RunOrder(attempt.uid, job, spec, attempt.number, rank, attempt.ranks, uuids, attempt.granted_at)
            runs.append(order)
        return SyncReply(
            self.epoch,
            number,
            request.incarnation,
            request.sequence,
            tuple(runs),
            due.stop,
            due.extend,
            due.forget,
            due.describe,
            self.policy.lease,
            wants_inventory,
        )

    # ------------------------------------------------------------ for people

    def explainer(self) -> Explainer:
        """Why queued jobs wait, as of now; for one answer, not to be kept."""
        return Explainer(self.view, self._clock(), self.policy)

    def why(self, job: Job) -> list[tuple[NodeName, bool, str]]:
        """For each node by name: whether the job fits there now, and what is short."""
        return shortfalls(self.view, job, self.policy)

    def dry_run(self, actor: Actor, submission: Submission) -> DryRun:
        """What would become of this submission now, from the same checks and plan; raises as a submit would."""
        now = self._clock()
        changes = decide(self.view, self._informed(Submit(actor, submission)), now, self.policy).changes
        number = JobId(str(self.view.next_number))
        job = next(change.job for change in changes if isinstance(change, PutJob) and change.job.id == number)
        with self.view.as_if(job):
            placements = plan(self.view, now, self.policy).placements
            placement = next((p for p in placements if p.job == job.id), None)
            return DryRun(placement, None if placement else explain(self.view, job, now, self.policy))

    def sample(self, name: NodeName) -> NodeSample | None:
        peer = self._peers.get(name)
        return None if peer is None else peer.sample

    def last_seen(self, name: NodeName) -> float | None:
        """Wall time of the last sync in this life."""
        peer = self._peers.get(name)
        return None if peer is None else peer.heard_at

    # ------------------------------------------------------------ faults of the store

    def pause(self, why: str) -> None:
        """The store undid what was not durable and can write nothing more: memory follows, whoever waits is told.

        Until `resume` every command and report is refused; agents keep what they have to say, and jobs go on.
        """
        hint = "nothing was changed; repeat the request when there is space again"
        self._paused = NoSpace(why, hint)
        cluster = Cluster.load(self._load(), self._life)
        self._life.ordered.update(cluster.attempts)
        self.commit.rolled_back(cluster, self._paused)
        for peer in self._peers.values():
            if peer.poll is not None:
                poll, peer.poll = peer.poll, None
                poll.answer(self._paused)

    def resume(self) -> None:
        """The store can write again. Every node gets a full grace: what it said meanwhile was not heard."""
        self._paused = None
        self._follow_up()


def _repeated(stored: str, request_id: str, asked: str) -> dict[str, Any] | GpuqError:
    """The answer to a request that was answered before; Conflict if it was another that had this id."""
    body: dict[str, Any] = json.loads(stored)
    if body.pop(_ASKED, asked) != asked:
        return Conflict(f"request id {request_id} was used for another request", "make a new one for each request")
    return body
