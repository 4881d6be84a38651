"""The controller's side of the exchange: reports are taken, orders answered, polls held while there are none.

An answer says what the view said when it was begun, and leaves when that is durable. Orders are worked out anew each
time, from the view and what the agent last said (`nodes.orders`), so nothing here has to survive the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from gpuq.changes import Change, DropNode, PutAttempt, PutJob, PutNode
from gpuq.cluster import Cluster
from gpuq.errors import GpuqError, Incompatible, InvalidRequest, NotFound, Unavailable
from gpuq.model import AttemptUid, NodeName, Now
from gpuq.node import NodeSample
from gpuq.protocol import MAX_DESCRIBED, POLL_SECONDS, PROTOCOL, Overuse, RunOrder, SyncReply, SyncRequest
from gpuq.service.bounds import check_report
from gpuq.service.commands import Report
from gpuq.service.commit import Commit
from gpuq.service.liveness import Liveness
from gpuq.service.nodes import Orders, as_ordered, orders
from gpuq.service.pipes import Streams
from gpuq.service.records import Records
from gpuq.states import NodeState
from gpuq.view import Policy

logger = logging.getLogger(__name__)

_LOGGED = 8  # attempts named in one line of the log; the others are counted

SyncAnswer = Callable[[SyncReply | GpuqError], None]


@dataclass(slots=True)
class Life:
    """What one life of the controller knows and no store does: implements cluster.Volatile.

    ordered: attempts whose run order may have left; paused: why nothing can be decided now.
    """

    liveness: Liveness
    ordered: set[AttemptUid] = field(default_factory=set)
    paused: Unavailable | None = None
    streams: Streams = field(default_factory=Streams)

    def node_state(self, name: NodeName) -> NodeState:
        return self.liveness.state(name)

    def order_left(self, uid: AttemptUid) -> bool:
        return uid in self.ordered


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
    overuse: dict[AttemptUid, Overuse] = field(default_factory=dict)  # of the last report
    heard_at: float | None = None  # wall
    inventory_hash: str | None = None


class Exchange:
    """All agents of one controller, in one life of it. Called from the controller's thread, as its callbacks are.

    take decides on a report and applies what follows; came_up is called when a node may have become fit for work;
    push_follows says whether a plan is due in this turn, and `push` behind it.
    """

    def __init__(
        self,
        commit: Commit,
        records: Records,
        life: Life,
        policy: Policy,
        epoch: int,
        clock: Callable[[], Now],
        take: Callable[[Report], object],
        came_up: Callable[[], None],
        push_follows: Callable[[], bool],
    ) -> None:
        self._commit, self._records, self._life = commit, records, life
        self._policy, self._epoch, self._clock = policy, epoch, clock
        self._take, self._came_up, self._push_follows = take, came_up, push_follows
        self._peers: dict[NodeName, _Peer] = {}
        self._touched: set[NodeName] = set()  # what they are to be told may have changed since the last push
        self._stopping = False

    @property
    def _view(self) -> Cluster:
        return self._commit.cluster

    # ------------------------------------------------------------ in

    def sync(self, name: NodeName, request: SyncRequest, answer: SyncAnswer) -> None:
        """Takes a report and answers with orders, held up to request.wait_seconds while there are none."""
        now = self._clock()
        refusal = self._refusal(name, request, now)
        if refusal is not None:
            answer(refusal)
            return
        peer = self._peers.setdefault(name, _Peer())
        if (request.incarnation, request.sequence) <= (peer.incarnation, peer.sequence):
            answer(self._superseded(request, peer))
            return
        self._release(peer)
        if request.incarnation != peer.incarnation or request.generation < peer.generation_sent:
            peer.delivered = frozenset()  # the last answer was never applied: say it all again
            peer.described.clear()
        if request.incarnation != peer.incarnation:
            self._life.streams.forgotten_by(name)
        peer.incarnation, peer.sequence = request.incarnation, request.sequence
        wait = 0.0 if self._stopping else min(max(request.wait_seconds, 0.0), POLL_SECONDS)
        poll = _Poll(request, self._unknown_after(peer, request), answer, now.monotonic + wait)
        due = self._orders(name, poll)
        self._heard(name, peer, poll, now, due.unexplained)
        peer.poll = poll
        if wait > 0 and self._push_follows():
            self._touched.add(name)  # what starts where this report has made room travels with what was due before
        else:
            self._answer(name, peer, due, only_if_urgent=wait > 0)

    def _refusal(self, name: NodeName, request: SyncRequest, now: Now) -> GpuqError | None:
        """Why nothing of a request is taken, if so."""
        if request.protocol != PROTOCOL:
            return Incompatible(f"this controller speaks protocol {PROTOCOL}, the agent {request.protocol}")
        if self._view.nodes.get(name) is None or request.node != name:
            return NotFound(f"node {request.node} is not part of this cluster")
        if self._life.paused is not None:
            return self._life.paused
        try:
            check_report(request, now.wall)
        except InvalidRequest as error:
            return error
        return None

    def _unknown_after(self, peer: _Peer, request: SyncRequest) -> frozenset[AttemptUid]:
        """Takes a report's word; gives those it names of which there is no record, looked up once."""
        named = dict.fromkeys((*request.holds, *(word.uid for word in request.reports)))
        gone = [uid for uid in named if self._view.attempt(uid) is None]
        ended = self._records.ended_attempts(gone)
        self._take(Report(request, frozenset(ended), frozenset(peer.overuse)))
        peer.overuse = {over.uid: over for over in request.overuse}
        strangers = (uid for uid in gone if uid not in ended and not self._commit.unwritten.has_ended(uid))
        return frozenset(uid for uid in strangers if self._view.attempt(uid) is None)

    def _heard(self, name: NodeName, peer: _Peer, poll: _Poll, now: Now, unexplained: tuple[AttemptUid, ...]) -> None:
        """Notes that the node lives and what it says of itself."""
        liveness, request = self._life.liveness, poll.request
        was_up = liveness.state(name) is NodeState.UP
        liveness.now = max(liveness.now, now.monotonic)
        if unexplained and name not in liveness.unexplained:
            first = ",".join(unexplained[:_LOGGED])
            logger.warning("node.unexplained node=%s count=%d first=%s", name, len(unexplained), first)
        liveness.heard(name, now.monotonic, explained=not unexplained)
        peer.heard_at, peer.sample = now.wall, request.sample or peer.sample
        if request.inventory is not None:
            peer.inventory_hash = request.inventory_hash
        if not was_up:
            self._came_up()

    def sample(self, name: NodeName) -> NodeSample | None:
        peer = self._peers.get(name)
        return None if peer is None else peer.sample

    def overuse(self, name: NodeName, uid: AttemptUid) -> Overuse | None:
        """What the node said last of an attempt that is beyond its share of a GPU; None unless it was heard lately."""
        peer = self._peers.get(name)
        up = self._life.liveness.state(name) is NodeState.UP
        return peer.overuse.get(uid) if peer is not None and up else None

    def last_seen(self, name: NodeName) -> float | None:
        """Wall time of the last sync in this life."""
        peer = self._peers.get(name)
        return None if peer is None else peer.heard_at

    # ------------------------------------------------------------ out

    def note(self, changes: Iterable[Change]) -> None:
        """Takes note of changes that were applied, so that `push` looks at the nodes they concern and at no others."""
        for change in changes:
            if isinstance(change, PutAttempt):
                self._touched.update([rank.node for rank in change.attempt.ranks])
            elif isinstance(change, PutJob):
                attempt = self._view.attempt_of(change.job.id)
                if attempt is not None:
                    self._touched.update([rank.node for rank in attempt.ranks])
            elif isinstance(change, PutNode):
                self._touched.add(change.node.name)
            elif isinstance(change, DropNode):
                self._touched.add(change.name)

    def push(self) -> None:
        """Answers the held polls for which there are orders now.

        Each was looked at when it came, so only what was touched since is; and what holds attempts that are not on
        record, for what is said of those hangs on other nodes' as well.
        """
        touched, self._touched = self._touched | self._life.liveness.unexplained, set()
        for name, peer in self._peers.items():
            if peer.poll is not None and (name in touched or self._life.streams.due(name)):
                self._answer(name, peer, self._orders(name, peer.poll), only_if_urgent=True)

    def expire(self, now: Now) -> None:
        """Answers the held polls whose time is up; forgets nodes that were removed, after a last answer."""
        for gone in self._peers.keys() - self._view.nodes.keys():
            self._release(self._peers.pop(gone))
        for name, peer in self._peers.items():
            if peer.poll is not None and now.monotonic >= peer.poll.deadline:
                self._answer(name, peer, self._orders(name, peer.poll), only_if_urgent=False)

    def release_all(self) -> None:
        """Answers every held poll, and holds no other, for a controller that is about to stop."""
        self._stopping = True
        for peer in self._peers.values():
            self._release(peer)

    def refuse_all(self, error: Unavailable) -> None:
        """Answers every held poll with this error."""
        for peer in self._peers.values():
            peer.overuse = {}  # that it was said may be among what was undone: it is said again
            if peer.poll is not None:
                poll, peer.poll = peer.poll, None
                poll.answer(error)

    def _release(self, peer: _Peer) -> None:
        if peer.poll is not None:
            poll, peer.poll = peer.poll, None
            poll.answer(self._superseded(poll.request, peer))

    def _superseded(self, request: SyncRequest, peer: _Peer) -> SyncReply:
        return SyncReply(
            self._epoch,
            self._commit.durable,
            request.incarnation,
            request.sequence,
            superseded=True,
            known_incarnation=peer.incarnation,
        )

    def _orders(self, name: NodeName, poll: _Poll) -> Orders:
        held = poll.request.holds
        ended = frozenset(uid for uid in held if uid not in poll.unknown and self._view.attempt(uid) is None)
        found = orders(self._view, name, poll.request, ended)
        streams = self._life.streams.due(name)
        return replace(found, streams=streams) if streams else found

    def _to_describe(self, peer: _Peer, wanted: tuple[AttemptUid, ...], again: bool) -> tuple[AttemptUid, ...]:
        """At most MAX_DESCRIBED of those wanted: all have their turn before any is, if it may be, asked for again."""
        fresh = [uid for uid in wanted if uid not in peer.described]
        if again and not fresh:
            peer.described.clear()
            fresh = list(wanted)
        return tuple(fresh[:MAX_DESCRIBED])

    def _answer(self, name: NodeName, peer: _Peer, due: Orders, only_if_urgent: bool) -> None:
        """Starts the answer of a held poll: what it says is fixed now and leaves when this state is durable."""
        poll = peer.poll
        if poll is None or poll.answering:
            return
        if due.describe:
            due = replace(due, describe=self._to_describe(peer, due.describe, again=not only_if_urgent))
        urgent = due.urgent()
        node = self._view.nodes.get(name)
        # A node may have been removed and added again since it said what it has.
        known = None if node is None or node.inventory is None else peer.inventory_hash
        wants_inventory = known != poll.request.inventory_hash
        if only_if_urgent and not wants_inventory and urgent <= peer.delivered:
            return
        poll.answering = True
        self._life.ordered.update(attempt.uid for attempt, _ in due.run)
        number = self._commit.last

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

        self._commit.when_durable(number, leave)

    def _reply(self, request: SyncRequest, due: Orders, number: int, wants_inventory: bool) -> SyncReply:
        runs = []
        for attempt, rank in due.run:
            order = self._run_order(attempt.uid, rank)
            if order is not None:  # else stopped or given up since: the next answer says so
                runs.append(order)
        return SyncReply(
            self._epoch,
            number,
            request.incarnation,
            request.sequence,
            tuple(runs),
            due.stop,
            due.extend,
            due.forget,
            due.describe,
            self._policy.lease,
            wants_inventory,
            pardon=due.pardon,
            go=due.go,
            streams=due.streams,
        )

    def _run_order(self, uid: AttemptUid, rank: int) -> RunOrder | None:
        attempt = self._view.attempt(uid)
        job = None if attempt is None else self._view.job(attempt.job)
        granted = None if attempt is None or job is None else as_ordered(attempt, job)
        spec = None if job is None else self._records.spec(job)
        if granted is None or spec is None:
            return None
        attempt, job = granted
        node, first = (self._view.nodes[attempt.ranks[number].node].inventory for number in (rank, 0))
        uuids = {gpu.index: gpu.uuid for gpu in node.gpus} if node else {}
        return RunOrder(
            uid,
            job,
            spec,
            attempt.number,
            rank,
            attempt.ranks,
            tuple(uuids.get(index, "") for index in attempt.ranks[rank].gpus),
            attempt.granted_at,
            attempt.port,
            "" if attempt.port is None or first is None else first.address or first.hostname,
            self._view.settings.cluster.log_cap,
        )
