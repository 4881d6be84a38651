"""The controller without a clock, thread or socket: commands and syncs in, answers out through callbacks.

`live.py` runs it in an event loop with the real store; the deterministic simulation runs the very same class in
virtual time. Every answer goes through `Commit.when_durable`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpuq.changes import Change, PutAttempt, PutJob, PutNode, PutReply, PutSettings
from gpuq.cluster import Cluster, Snapshot
from gpuq.errors import Conflict, GpuqError, NoSpace
from gpuq.model import AttemptUid, Job, JobId, NodeName, Now
from gpuq.node import NodeSample
from gpuq.protocol import Overuse, Submission, SyncRequest
from gpuq.reasons import WaitReason
from gpuq.scheduler import Explainer, NodeAnswer, Start, by_node, instead, plan, would_stop
from gpuq.service.commands import Actor, Command, Schedule, Silence, Submit, Tick, UserCommand
from gpuq.service.commit import Commit, Writer
from gpuq.service.decide import decide
from gpuq.service.exchange import Exchange, Life, SyncAnswer
from gpuq.service.liveness import Liveness
from gpuq.service.pipes import Stream, Streams
from gpuq.service.records import Lookup, Records
from gpuq.states import NodeState
from gpuq.view import Placement, Policy

logger = logging.getLogger(__name__)

_ASKED = "gpuq-asked"  # the key, in a stored answer, of what was asked; no answer has it

Answer = Callable[[dict[str, Any] | GpuqError], None]
_From = tuple[int, dict[NodeName, NodeState]]


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a submission would meet now: where it would start, or why it would wait."""

    placement: Placement | None
    reason: WaitReason | None
    start: Start | None
    instead: tuple[str, ...]


class Controller:
    """See the module's docstring. All methods are called from one thread; callbacks come on that thread.

    load reads what the store has now; policy holds where the cluster's settings say nothing; clock gives both clocks;
    seed gives 20 fresh random hex characters; soon runs a function after the current one.
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
        self._given = policy
        self.policy = policy.under(snapshot.settings)
        self._load, self._clock, self._seed, self._soon = load, clock, seed, soon
        self.streams = Streams()
        self._liveness = Liveness(self.policy, clock().monotonic)
        self._life = Life(self._liveness, streams=self.streams)
        self.commit = Commit(self._cluster_of(snapshot), writer, snapshot.last_seq)
        self._records = Records(self.commit, lookup)
        self._plan_due = False
        self._exchange = Exchange(
            self.commit,
            self._records,
            self._life,
            policy,
            snapshot.epoch,
            clock,
            self._carry_out,
            self._follow_up,
            lambda: self._plan_due,
        )
        self._planned: _From | None = None  # what the last plan was made from, if it lasts
        # Once a second: whom to stop takes longer to find out than all else, and grace is counted in seconds anyway.
        self._preempts = True

    def _cluster_of(self, snapshot: Snapshot) -> Cluster:
        cluster = Cluster.load(snapshot, self._life)
        self._life.ordered.update(cluster.attempts)  # what was sent before this was loaded is not known
        return cluster

    @property
    def view(self) -> Cluster:
        return self.commit.cluster

    # ------------------------------------------------------------ commands of users

    def execute(self, command: UserCommand, request_id: str, answer: Answer, asked: str = "") -> None:
        """Decides, applies, and answers when durable. The same request id of the same user gets the same answer.

        asked is a digest of what was asked: a request id that comes back with another is refused with Conflict, for
        the first one's answer would be taken as this one's.
        """
        if self._life.paused is not None:
            answer(self._life.paused)
            return
        key = f"{command.actor.user}/{request_id}"
        stored = self._records.reply(key)
        if stored is not None:
            self._answer_at(self.commit.last, answer, _repeated(stored, request_id, asked))
            return
        now = self._clock()
        try:
            decision = decide(self.view, self._records.informed(command), now, self.policy)
        except GpuqError as error:
            self._answer_at(self.commit.last, answer, error)
            return
        kept = json.dumps({**decision.reply, _ASKED: asked} if asked else decision.reply)
        reply = PutReply(key, command.actor.user, now.wall, kept)
        self._answer_at(self._apply((*decision.changes, reply)), answer, decision.reply)

    def add_stream(self, stream: Stream) -> None:
        """A stream that may be opened: its node is told at once."""
        self.streams.add(stream)
        self._follow_up()

    def ended_job(self, id: JobId) -> Job | None:
        """A job that has ended, durable or not; None if there is none, or it lives."""
        return self._records.ended_job(id)

    def _answer_at(self, number: int, answer: Answer, body: dict[str, Any] | GpuqError) -> None:
        self.commit.when_durable(number, lambda error: answer(body if error is None else error))

    # ------------------------------------------------------------ deciding and what follows

    def _apply(self, changes: tuple[Change, ...]) -> int:
        number = self._commit(changes)
        if any(isinstance(change, PutSettings) for change in changes):
            self._follow_settings()
        if any(isinstance(change, (PutJob, PutAttempt, PutNode)) for change in changes):
            self._follow_up()
        return number

    def _commit(self, changes: tuple[Change, ...]) -> int:
        number = self.commit.apply(changes)
        self._exchange.note(changes)
        return number

    def _follow_settings(self) -> None:
        self.policy = self._liveness.policy = self._given.under(self.view.settings)

    def _follow_up(self) -> None:
        """Plans, then answers the polls that have orders now: once for all decisions of this turn."""
        if not self._plan_due:
            self._plan_due = True
            self._soon(self._plan_and_push)

    def _plan_and_push(self) -> None:
        self._plan_due = False
        if self._life.paused is not None:
            return
        try:
            if self.view.fronts():
                if not self._plan_lasts():
                    self._plan()
                self._preempts = False
        finally:
            self._exchange.push()  # a plan that fails must not keep from nodes what is due to them without it

    def _plan(self) -> None:
        decision = decide(self.view, Schedule(self._seed(), self._preempts), self._clock(), self.policy)
        self._commit(decision.changes)
        self._planned = self._planned_from() if decision.reply["lasts"] else None

    def _plan_lasts(self) -> bool:
        """Whether another plan would start and stop nobody either, however much time has passed: nothing changed."""
        known = self._planned
        return known is not None and known[0] == self.commit.last and known == self._planned_from()

    def _planned_from(self) -> _From:
        """All that an empty plan that lasts was made from."""
        return self.commit.last, {name: self.view.node_state(name) for name in self.view.nodes}

    def _carry_out(self, command: Command) -> None:
        self._apply(self._decide(command))

    def _decide(self, command: Command) -> tuple[Change, ...]:
        return decide(self.view, command, self._clock(), self.policy).changes

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """Due every second: silences, begin times and time-outs, and polls whose time is up."""
        now = self._clock()
        self.streams.expire(now.monotonic)
        if self._life.paused is not None:
            self._liveness.pause(now.monotonic)
            return
        for name in self._liveness.newly_lost(self.view.nodes, now.monotonic):
            logger.warning("node.lost node=%s", name)
            self._carry_out(Silence(name))
        self._carry_out(Tick())
        self._life.ordered.intersection_update(self.view.attempts)
        self._preempts = True
        if self.view.fronts():
            self._follow_up()  # a node may have come up, or a suspect one returned, without a change of its own
        self._exchange.expire(now)

    # ------------------------------------------------------------ the exchange

    def sync(self, name: NodeName, request: SyncRequest, answer: SyncAnswer) -> None:
        """Takes a report and answers with orders, held up to request.wait_seconds while there are none."""
        self._exchange.sync(name, request, answer)

    def release_all(self) -> None:
        """Answers whatever is held, and holds nothing more, for a controller that is about to stop."""
        self._exchange.release_all()
        self.streams.release_all()

    def sample(self, name: NodeName) -> NodeSample | None:
        return self._exchange.sample(name)

    def overuse(self, name: NodeName, uid: AttemptUid) -> Overuse | None:
        """What the node says of an attempt that is beyond its share of a GPU now."""
        return self._exchange.overuse(name, uid)

    def last_seen(self, name: NodeName) -> float | None:
        """Wall time of the last sync in this life."""
        return self._exchange.last_seen(name)

    # ------------------------------------------------------------ for people

    def explainer(self) -> Explainer:
        """Why queued jobs wait, as of now; for one answer, not to be kept."""
        return Explainer(self.view, self._clock(), self.policy)

    def why(self, job: Job) -> list[NodeAnswer]:
        """For each node by name: what the job is short of there, and who holds it."""
        return by_node(self.view, job, self._clock(), self.policy)

    def instead(self, job: Job) -> list[str]:
        """What would start now in place of what the job asks for."""
        return instead(self.view, job, self._clock(), self.policy)

    def dry_run(self, actor: Actor, submission: Submission) -> DryRun:
        """What would become of this submission now, from the same checks and plan; raises as a submit would."""
        now = self._clock()
        changes = decide(self.view, self._records.informed(Submit(actor, submission)), now, self.policy).changes
        number = JobId(str(self.view.next_number))
        job = next(change.job for change in changes if isinstance(change, PutJob) and change.job.id == number)
        with self.view.as_if(job):
            planned = plan(self.view, now, self.policy)
            placement = next((p for p in planned.placements if p.job == job.id), None)
            if placement is not None:
                return DryRun(placement, None, Start(now.wall, True), ())
            preemption = next((p for p in planned.preemptions if p.job == job.id), None)
            if preemption is not None:
                return DryRun(None, would_stop(self.view, preemption), None, ())
            explainer = Explainer(self.view, now, self.policy)
            other = tuple(instead(self.view, job, now, self.policy)) if job.ready else ()
            return DryRun(None, explainer.reason(job), explainer.start(job), other)

    # ------------------------------------------------------------ faults of the store

    def pause(self, why: str) -> None:
        """The store undid what was not durable and can write nothing more: memory follows, whoever waits is told.

        Until `resume` every command and report is refused; agents keep what they have to say, and jobs go on.
        """
        hint = "nothing was changed; repeat the request when there is space again"
        self._life.paused = error = NoSpace(why, hint)
        self.commit.rolled_back(self._cluster_of(self._load()), error)
        self._planned = None  # numbers are given out again
        self._follow_settings()
        self._exchange.refuse_all(error)

    def resume(self) -> None:
        """The store can write again. Every node gets a full grace: what it said meanwhile was not heard."""
        self._life.paused = None
        self._follow_up()


def _repeated(stored: str, request_id: str, asked: str) -> dict[str, Any] | GpuqError:
    """The answer to a request that was answered before; Conflict if it was another that had this id."""
    body: dict[str, Any] = json.loads(stored)
    if body.pop(_ASKED, asked) != asked:
        return Conflict(f"request id {request_id} was used for another request", "make a new one for each request")
    return body
