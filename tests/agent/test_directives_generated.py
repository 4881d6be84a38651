"""Generated cases against the exchange: a network that drops, repeats and reorders, and an agent that restarts.

The controller here is the smallest one that keeps the protocol's promises: it takes no report that is not newer than
the last, never orders an attempt again whose end it has on record, and says forget only then.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.actions import Accept, Action, Bar, Drop, Extend, RecordEnd, Stop, Sweep
from agent.directives import Directives
from agent.holding import Held
from agent.runs import RunEvent
from gpuq.model import AttemptUid, EndReason, ExitRecord, OnLost, RankPhase
from gpuq.protocol import StopOrder, SyncReply, SyncRequest
from tests.agent.orders import NODE, exited, reply_to, run_order, stop_order, uid

LOG_SIZE = 10
PICK = st.integers(0, 50)


class Exchange(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # controller
        self.generation = 1
        self.taken = (0, 0)
        self.granted: list[AttemptUid] = []
        self.accepted: set[AttemptUid] = set()
        self.stopped: dict[AttemptUid, StopOrder] = {}
        self.on_record: dict[AttemptUid, ExitRecord] = {}
        # network
        self.requests: list[SyncRequest] = []
        self.replies: list[SyncReply] = []
        # node: the journal, the processes, what ever happened
        self.incarnation = 1
        self.journal: dict[AttemptUid, Held] = {}
        self.barred: set[AttemptUid] = set()
        self.live: list[AttemptUid] = []
        self.ever_started: set[AttemptUid] = set()
        self.ever_barred: set[AttemptUid] = set()
        self.true_ends: dict[AttemptUid, ExitRecord] = {}
        self.agent = Directives(NODE, "boot1", self.incarnation, ())

    # ---------------- controller

    @rule()
    def grant(self) -> None:
        self.granted.append(uid(f"u{len(self.granted)}"))
        self.generation += 1

    @precondition(lambda self: self.granted)
    @rule(pick=PICK)
    def stop(self, pick: int) -> None:
        name = self.granted[pick % len(self.granted)]
        self.stopped[name] = stop_order(name)
        self.generation += 1

    @precondition(lambda self: self.requests)
    @rule(pick=PICK, keep=st.booleans())
    def request_arrives(self, pick: int, keep: bool) -> None:
        request = self.requests[pick % len(self.requests)]
        if not keep:
            self.requests.remove(request)
        self.take(request)

    def take(self, request: SyncRequest) -> None:
        if (request.incarnation, request.sequence) <= self.taken:
            self.replies.append(replace(reply_to(request, self.generation), superseded=True))
            return
        self.taken = (request.incarnation, request.sequence)
        for report in request.reports:
            self.accepted.add(report.uid)
            if report.exit is not None and report.uid not in self.on_record:
                self.on_record[report.uid] = report.exit
                self.generation += 1
        open_ = [u for u in self.granted if u not in self.on_record]
        self.replies.append(
            reply_to(
                request,
                self.generation,
                run=tuple(self.order(u) for u in open_ if u not in self.accepted and u not in self.stopped),
                stop=tuple(self.stopped[u] for u in open_ if u in self.stopped),
                extend=tuple(open_),
                forget=tuple(u for u in request.holds if u in self.on_record),
                describe=tuple(u for u in request.holds if u not in self.granted),
                lease_seconds=40.0,
            )
        )

    # ---------------- network

    @precondition(lambda self: self.requests)
    @rule(pick=PICK)
    def request_is_lost(self, pick: int) -> None:
        self.requests.pop(pick % len(self.requests))

    @precondition(lambda self: self.replies)
    @rule(pick=PICK, keep=st.booleans())
    def reply_arrives(self, pick: int, keep: bool) -> None:
        reply = self.replies[pick % len(self.replies)]
        if not keep:
            self.replies.remove(reply)
        self.carry_out(self.agent.answered(reply, 100.0))

    @rule(keep=st.booleans())
    def exchange_goes_well(self, keep: bool) -> None:
        """keep leaves a copy of the answer in the network, to arrive again when all has moved on."""
        self.send()
        self.take(self.requests.pop())
        self.carry_out(self.agent.answered(self.replies[-1], 100.0))
        if not keep:
            self.replies.pop()

    # ---------------- node

    @rule()
    def send(self) -> None:
        request = self.agent.request(5.0)
        assert len(set(request.holds)) == len(request.holds)
        assert {r.uid for r in request.reports} <= set(request.holds)
        self.requests.append(request)

    @precondition(lambda self: self.live)
    @rule(pick=PICK, code=st.integers(0, 3), size=st.sampled_from([0, LOG_SIZE]))
    def process_ends(self, pick: int, code: int, size: int) -> None:
        name = self.live.pop(pick % len(self.live))
        self.true_ends[name] = exited(code, size)
        self.carry_out(self.agent.observed(RunEvent(name, 0, RankPhase.ENDED, exit=self.true_ends[name])))

    @precondition(lambda self: self.live)
    @rule(pick=PICK, stopping=st.booleans())
    def process_is_seen(self, pick: int, stopping: bool) -> None:
        seen = RunEvent(self.live[pick % len(self.live)], 0, RankPhase.RUNNING, stopping, started_at=2.0)
        self.carry_out(self.agent.observed(seen))

    @precondition(lambda self: self.ever_started)
    @rule(pick=PICK, size=st.sampled_from([LOG_SIZE - 1, LOG_SIZE]))
    def log_is_shipped(self, pick: int, size: int) -> None:
        name = sorted(self.ever_started)[pick % len(self.ever_started)]
        self.carry_out(self.agent.log_shipped(name, 0, size))

    @rule()
    def agent_restarts(self) -> None:
        self.incarnation += 1
        self.agent = Directives(NODE, "boot1", self.incarnation, list(self.journal.values()), sorted(self.barred))

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Accept(order, deadline):
                    assert order.uid not in self.ever_started, "an attempt was launched twice"
                    assert order.uid not in self.ever_barred, "a barred attempt was launched"
                    assert deadline == (140.0 if order.job.on_lost is OnLost.FENCE else None)
                    self.ever_started.add(order.uid)
                    self.live.append(order.uid)
                    self.journal[order.uid] = Held(order, "boot1")
                case Bar(u, _):
                    assert u not in self.live, "a live attempt was barred"
                    self.ever_barred.add(u)
                    self.barred.add(u)
                case Sweep(u):
                    assert u not in self.live, "a live attempt was swept"
                    self.carry_out(self.agent.swept(u))
                case RecordEnd(u, _, end):
                    self.journal[u] = replace(self.journal[u], exit=end)
                case Drop(u, _):
                    assert u in self.on_record, "an end was dropped before the controller had it"
                    self.journal.pop(u, None)
                    self.barred.discard(u)
                case Stop(u, _, _, grace):
                    assert u in self.stopped
                    assert grace == self.stopped[u].grace_seconds
                case Extend(u, _, until):
                    assert self.order(u).job.on_lost is OnLost.FENCE
                    assert until == 140.0

    @staticmethod
    def order(u: AttemptUid):
        return run_order(u, OnLost.FENCE if u.endswith(("0", "1")) else OnLost.KEEP)

    # ---------------- what always holds

    @invariant()
    def no_end_is_lost_and_none_is_invented(self) -> None:
        for u, end in self.true_ends.items():
            assert self.on_record.get(u, end) == end
            assert u in self.on_record or u in self.agent.holds
        for u, end in self.on_record.items():
            assert end == self.true_ends.get(u) or (
                end.reason is EndReason.NEVER_STARTED and u not in self.ever_started
            )

    @invariant()
    def every_live_process_is_held(self) -> None:
        assert set(self.live) <= set(self.agent.holds)


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
