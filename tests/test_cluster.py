"""Memory and disk agree: after any sequence of decisions, what a real store gives back is the cluster in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.actions import Accept, Drop, Sweep
from agent.directives import Directives
from agent.runs import RunEvent
from gpuq.changes import PutAttempt, PutJob, PutNode, PutToken
from gpuq.cluster import Cluster
from gpuq.errors import GpuqError
from gpuq.model import (
    AttemptUid,
    Dependency,
    DependencyKind,
    EndReason,
    ExitRecord,
    Job,
    JobId,
    NodeName,
    Now,
    OnLost,
    RankPhase,
    Request,
)
from gpuq.protocol import RunOrder, Selection, Submission, SyncReply
from gpuq.scheduler import Explainer, plan
from gpuq.service.commands import (
    AddUser,
    Cancel,
    ChangeSettings,
    Command,
    Cordon,
    DisableUser,
    Drain,
    EnableUser,
    EnrolNode,
    Hold,
    Release,
    RemoveNode,
    Report,
    Requeue,
    RevokeToken,
    Schedule,
    SetRole,
    Silence,
    StoreToken,
    Submit,
    Tick,
    Uncordon,
    Update,
)
from gpuq.service.decide import decide
from gpuq.service.nodes import as_ordered, orders
from gpuq.settings import ClusterSettings, Queue, Settings
from gpuq.states import FINAL, JobState, NodeState
from gpuq.store import Store, specs
from gpuq.view import Policy
from tests.service.builders import ADA, ROOT, WALL, Desk, a_node, an_inventory, exited
from tests.store.builders import RunningWriter

NODES = tuple(NodeName(f"n{i}") for i in range(3))


SETTINGS = [
    Settings(),
    Settings(cluster=ClusterSettings(default_priority=2, lost_after=100)),
    Settings(queues=(Queue("main", default=True, default_time=60), Queue("other"))),
]

AS_IF: list[dict[str, Any]] = [
    {},
    {"eligible_at": 1.0},
    {"held_by": "x"},
    {"scheduling_timeout_seconds": 5},
    {"waits_for": (Dependency(DependencyKind.AFTER_OK, JobId("1")),)},
]


class Agent:
    """The real decisions of an agent, without processes: runs are ended by hand."""

    def __init__(self, name: NodeName, boot: int) -> None:
        self.directives = Directives(name, f"boot-{boot}", boot, [])
        self.directives.set_inventory(an_inventory(gpus=4), "h")
        self.runs: dict[AttemptUid, RunOrder] = {}


class Life:
    """A cluster, three agents and a store, driven by one seed."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = random.Random(seed)
        self.store = Store.open(path)
        self.running = RunningWriter(self.store)
        self.cluster = Cluster(self)
        self.policy = Policy(retry_backoff=1.0)
        self.states: dict[NodeName, NodeState] = {}
        self.left: set[AttemptUid] = set()
        self.ended: set[AttemptUid] = set()
        self.wall, self.seq, self.settled, self.boots = WALL, 0, 0, 0
        self.agents: dict[NodeName, Agent] = {}
        for name in NODES:
            self.restart(name)
        self.write(tuple(PutNode(a_node(name, boot_id=None, inventory=None)) for name in NODES))

    def close(self) -> None:
        self.running.writer.close()
        self.store.close()

    def node_state(self, name: NodeName) -> NodeState:
        return self.states.get(name, NodeState.SUSPECT)

    def order_left(self, uid: AttemptUid) -> bool:
        return uid in self.left

    def write(self, changes: tuple[Any, ...]) -> None:
        if changes:
            self.seq += 1
            self.cluster.apply(changes)
            self.running.writer.enqueue(self.seq, changes)
            for change in changes:
                if isinstance(change, PutAttempt) and not change.attempt.live:
                    self.ended.add(change.attempt.uid)

    def do(self, command: Command) -> dict[str, Any]:
        try:
            decision = decide(self.cluster, command, Now(self.wall - WALL, self.wall), self.policy)
        except GpuqError:
            return {}
        self.write(decision.changes)
        return decision.reply

    def settle(self) -> None:
        if self.seq > self.settled:
            self.running.wait_durable(self.seq)
            self.settled = self.seq

    # what happens

    def step(self) -> None:
        self.wall += self.random.choice([0.0, 0.5, 1.0, 30.0])
        choice = self.random.random()
        if choice < 0.25:
            self.user()
        elif choice < 0.75:
            self.exchange(self.random.choice(NODES))
        elif choice < 0.80:
            name = self.random.choice(NODES)
            self.states[name] = NodeState.LOST
            self.do(Silence(name))
        elif choice < 0.83:
            self.restart(self.random.choice(NODES))
        elif choice < 0.91:
            self.do(Tick())
        else:
            self.do(Schedule(f"{self.random.getrandbits(80):020x}"))

    def user(self) -> None:
        pick, flip = self.random.choice, self.random.random
        live = [job.id for job in self.cluster.live_jobs()] or [JobId("1")]
        ids = tuple(pick(live) for _ in range(pick([1, 1, 2, 4])))
        some = Selection(ids + tuple(JobId(f"{id}_{pick(range(7))}") for id in ids if flip() < 0.3))
        commands: list[Command] = [
            Cancel(ROOT, some, force=flip() < 0.3),
            Cancel(ROOT, Selection(user="ada", state=pick(list(JobState)).value)),
            Hold(ROOT, some),
            Release(ROOT, some),
            Requeue(ROOT, some, force=flip() < 0.3),
            Update(ROOT, pick(some.ids), priority=pick([None, -1, 5]), comment="x", begin_at=self.wall + 5),
            Update(ROOT, pick(some.ids), time_limit_seconds=pick([60, 7_200])),
            Cordon(ROOT, pick(NODES)),
            Drain(ROOT, pick(NODES)),
            *[Uncordon(ROOT, pick(NODES))] * 2,
            self.people(pick, flip),
            ChangeSettings(ROOT, pick(SETTINGS), pick([None, None, self.cluster.settings.version, 3])),
        ]
        if flip() < 0.6:
            depends = tuple(
                Dependency(pick(list(DependencyKind)), pick([*live, JobId(f"{pick(live)}_3")]))
                for _ in range(pick([1, 2]))
            )
            gpus = pick([0, 1, 1, 2, 4, 9])
            shared = gpus > 0 and flip() < 0.3
            submission = Submission(
                command=("work", "\u00fc"),
                name=pick(["a", "b"]),
                nodes=pick([1, 2]) if gpus % 2 == 0 else 1,
                gpus=gpus,
                shared=shared,
                gpu_memory_bytes=pick([20, 35]) << 30 if shared else None,
                exclusive=flip() < 0.1,
                array=pick([None, None, "0-6", "0-6%2", "1,3,5-20:3"]),
                dependencies=depends if flip() < 0.3 else (),
                begin_at=self.wall + 10 if flip() < 0.2 else None,
                scheduling_timeout_seconds=60 if flip() < 0.2 else None,
                time_limit_seconds=pick([None, None, 600, 3_600]),
                hold=flip() < 0.1,
                max_retries=pick([0, 1, 3]),
                requeue=flip() < 0.7,
                on_lost=pick(list(OnLost)),
                priority=pick([0, 0, -3]),
            )
            self.do(Submit(ADA, submission))
        else:
            self.do(pick(commands))

    def people(self, pick: Any, flip: Any) -> Command:
        name, other = pick([("ada", "bob"), ("bob", "ada")])
        token = f"{pick(range(9)):012x}"
        role = pick(["user", "node"])
        node = pick(NODES)
        stored = PutToken(token, token, role, name, node if role == "node" else None, self.wall, None)
        command: Command = pick(
            [
                AddUser(ROOT, name, "user"),
                SetRole(ROOT, name, pick(["viewer", "admin"])),
                DisableUser(ROOT, name, cancel_jobs=flip() < 0.2),
                DisableUser(ROOT, name, give_jobs_to=other),
                EnableUser(ROOT, name),
                StoreToken(ROOT, stored),
                RevokeToken(ROOT, token),
                RemoveNode(ROOT, node, force=flip() < 0.5),
                EnrolNode(ROOT, node, replace(stored, role="node", node=node)),
            ]
        )
        return command

    def restart(self, name: NodeName) -> None:
        """The machine goes down and comes up again, with nothing in its journal."""
        self.boots += 1
        self.agents[name] = Agent(name, self.boots)

    def exchange(self, name: NodeName) -> None:
        agent = self.agents[name]
        for uid in [uid for uid in agent.runs if self.random.random() < 0.5]:
            self._progress(agent, uid)
        request = agent.directives.request(0.0)
        known = frozenset(uid for uid in request.holds if uid in self.ended)
        self.do(Report(request, known))
        due = orders(self.cluster, name, request, known)
        self.states[name] = NodeState.SUSPECT if due.unexplained else NodeState.UP
        if self.random.random() < 0.2:
            return  # the answer is lost
        self.left |= {attempt.uid for attempt, _ in due.run}
        self.settle()
        runs = []
        for attempt, rank in due.run:
            job = self.cluster.job(attempt.job)
            assert job is not None
            spec = specs.spec(self.store.reader, job.id) or specs.spec(self.store.reader, job.array_id)
            assert spec is not None, "an order can always be written out"
            granted = as_ordered(attempt, job)
            assert granted is not None
            attempt, job = granted
            uuids = tuple(f"GPU-{index}" for index in attempt.ranks[rank].gpus)
            runs.append(
                RunOrder(
                    attempt.uid,
                    job,
                    spec,
                    attempt.number,
                    rank,
                    attempt.ranks,
                    uuids,
                    attempt.granted_at,
                    attempt.port,
                )
            )
        reply = SyncReply(
            1,
            self.seq,
            request.incarnation,
            request.sequence,
            tuple(runs),
            due.stop,
            due.extend,
            due.forget,
            due.describe,
            40.0,
            go=due.go,
        )
        for action in agent.directives.answered(reply, self.wall, self.wall):
            if isinstance(action, Accept):
                agent.runs[action.order.uid] = action.order
            elif isinstance(action, Sweep):
                agent.directives.swept(action.uid, self.wall)
            elif isinstance(action, Drop):
                agent.runs.pop(action.uid, None)

    def _progress(self, agent: Agent, uid: AttemptUid) -> None:
        rank = agent.runs[uid].rank
        started = self.random.random() < 0.5
        end = self.random.choice(
            [exited(0), exited(1), exited(None, signal=9), ExitRecord(EndReason.SETUP_FAILED, self.wall)]
        )
        event = (
            RunEvent(uid=uid, rank=rank, phase=RankPhase.RUNNING, started_at=self.wall)
            if started
            else RunEvent(uid=uid, rank=rank, phase=RankPhase.ENDED, exit=end)
        )
        agent.directives.observed(event)

    # what must hold

    def check(self) -> Cluster:
        self.settle()
        loaded = Cluster.load(self.store.load(), self)
        assert loaded == self.cluster
        self._same_answers(loaded)
        return loaded

    def _same_answers(self, other: Cluster) -> None:
        """Equal clusters look equal through every window of a ClusterView."""
        mine = self.cluster
        now = Now(0.0, self.wall)
        assert plan(mine, now, self.policy) == plan(other, now, self.policy)
        reasons = Explainer(mine, now, self.policy), Explainer(other, now, self.policy)
        for job in mine.live_jobs():
            assert other.job(job.id) == job
            assert reasons[0].reason(job) == reasons[1].reason(job)
            assert mine.attempt_of(job.id) == other.attempt_of(job.id)
            assert list(mine.elements(job.id)) == list(other.elements(job.id))
            assert mine.element_counts(job.id) == other.element_counts(job.id)
            assert mine.running_elements(job.id) == other.running_elements(job.id)
            assert {d.id for d in mine.dependents(job.id)} == {d.id for d in other.dependents(job.id)}
        assert {j.id for j in mine.timed()} == {j.id for j in other.timed()}
        assert mine.limited() == other.limited() == sorted(self.ends(limited=True))
        assert mine.unlimited() == other.unlimited() == sorted(self.ends(limited=False))
        ready = [{lane: [j.id for j in g] for lanes in c.ready().values() for lane, g in lanes} for c in (mine, other)]
        assert ready[0] == ready[1]
        fronts = {lane: [each.id for each in g] for lanes in mine.fronts().values() for lane, g in lanes.items()}
        assert fronts == ready[0]
        for name in NODES:
            assert mine.free_gpus(name) == other.free_gpus(name)
            assert mine.free_shares(name) == other.free_shares(name)
            assert mine.taken_alone(name) == other.taken_alone(name)
            assert mine.free_cpus(name) == other.free_cpus(name)
            assert mine.free_memory_bytes(name) == other.free_memory_bytes(name)
            assert mine.ranks_on(name) == other.ranks_on(name)
            assert {a.uid for a in mine.attempts_on(name)} == {a.uid for a in other.attempts_on(name)}
        assert mine.demand() == other.demand()
        assert mine.next_number == other.next_number

    def ends(self, limited: bool) -> Iterator[tuple[float, AttemptUid]]:
        for attempt in self.cluster.attempts.values():
            job = self.cluster.job(attempt.job)
            limit = None if job is None else job.time_limit_seconds
            if (limit is not None) == limited:
                yield attempt.granted_at + (limit or 0), attempt.uid

    def nothing_waits_for_the_dead(self) -> None:
        """Every dependency is on something that lives, or it would be waited for without end."""
        for job in self.cluster.live_jobs():
            for dependency in job.waits_for:
                assert self.cluster.job(dependency.job) is not None, f"{job.id} waits for {dependency.job}"


@pytest.fixture
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Life]:
    life = Life(request.param, tmp_path / "c.db")
    yield life
    life.close()


@pytest.mark.parametrize("life", range(25), indirect=True)
def test_what_the_store_gives_back_is_the_cluster_in_memory(life: Life) -> None:
    for step in range(400):
        life.step()
        life.nothing_waits_for_the_dead()
        if step % 40 == 39:
            life.check()


@pytest.mark.parametrize("life", range(3), indirect=True)
def test_a_cluster_that_goes_on_from_what_was_loaded_stays_in_step(life: Life) -> None:
    for _ in range(10):
        for _ in range(40):
            life.step()
        life.cluster = life.check()
        life.left |= set(life.cluster.attempts)


@pytest.mark.parametrize("life", range(5), indirect=True)
def test_what_is_asked_as_if_leaves_no_trace(life: Life) -> None:
    for _ in range(20):
        for _ in range(15):
            life.step()
        number = life.cluster.next_number
        for request in (Request(), Request(gpus_per_node=1), Request(cpus=3, only_nodes=(NodeName("n1"),))):
            for more in AS_IF:
                job = Job(
                    JobId(str(number)), number, None, "n", "u", "main", 0, request, JobState.QUEUED, 0.0, 0.0, **more
                )
                with life.cluster.as_if(job):
                    assert life.cluster.job(job.id) == job
        with pytest.raises(RuntimeError), life.cluster.as_if(job):
            raise RuntimeError
        life.check()


def test_nothing_is_kept_of_what_has_ended() -> None:
    """A controller lives for years: what ends must leave memory altogether."""
    desk = Desk()
    for _ in range(20):
        desk.submit(gpus=1)
        array = desk.submit(array="0-3%2", gpus=1, max_retries=1)
        desk.submit(dependencies=(Dependency(DependencyKind.AFTER_ANY, JobId(f"{array}_2")),))
        desk.submit(begin_at=desk.wall + 1, scheduling_timeout_seconds=100)
    for turn in range(300):
        desk.tick(6)
        desk.plan()
        for attempt in list(desk.cluster.attempts.values()):
            desk.end(attempt.job, exited(turn % 2))
        if not desk.live():
            break
    assert {job.state for job in desk.jobs.values()} <= FINAL
    fresh = Cluster(desk)
    fresh.apply(PutNode(node) for node in desk.cluster.nodes.values())
    for name, value in vars(desk.cluster).items():
        if name not in (
            "next_number",
            "_free",
            "_on_node",
            "run_times",
            "usage",
            "spent",
        ):  # the last three learn, within bounds
            assert value == vars(fresh)[name], name
    assert not any(vars(desk.cluster)["_on_node"].values())


def test_records_of_one_decision_may_come_in_any_order() -> None:
    """An array's record and its last elements end in one decision, whichever stands first."""
    for turn in range(6):
        desk = Desk()
        desk.submit(array="0-1")
        desk.cancel("1_0")
        desk.plan(send=False)
        decision = decide(desk.cluster, Cancel(ADA, Selection((JobId("1_1"),))), desk.now, desk.policy)
        changes = list(decision.changes)
        random.Random(turn).shuffle(changes)
        desk.cluster.apply(changes)
        assert desk.cluster == Cluster.load(_Empty(desk), desk)
        assert any(isinstance(change, PutJob) and change.job.array for change in changes)


class _Empty:
    """What a store has once everything has ended."""

    def __init__(self, desk: Desk) -> None:
        self.jobs: list[Job] = []
        self.element_counts: dict[JobId, dict[JobState, int]] = {}
        self.attempts: list[Any] = []
        self.past: list[Any] = []
        self.spent: list[Any] = []
        self.nodes = list(desk.cluster.nodes.values())
        self.users, self.tokens = list(desk.cluster.users.values()), list(desk.cluster.tokens.values())
        self.settings = desk.cluster.settings
        self.promised = desk.cluster.promised
        self.next_number, self.last_seq, self.epoch = 2, 0, 1
