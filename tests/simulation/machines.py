"""The node side of the simulation: machines, supervisors that outlive agents, and agents that run real Directives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Protocol

from agent.actions import Accept, Action, Bar, Connect, Drop, Extend, Go, Pardon, RecordEnd, Stop, Sweep
from agent.directives import Directives
from agent.holding import Held
from agent.runs import RunEvent
from agent.shares import Shares
from agent.tenants import Tenancy
from gpuq.gpu_use import GpuProcess
from gpuq.model import AttemptUid, EndReason, ExitRecord, JobId, NodeName, OnLost, RankPhase, StopKind
from gpuq.node import Gpu, GpuHealth, GpuSample, Inventory
from gpuq.protocol import POLL_SECONDS, RunOrder, StreamOrder, SyncReply, SyncRequest
from tests.simulation.clock import WALL_ZERO, Clock

GPUS = 4
LOOK_SECONDS = 5.0  # between an agent's looks at its GPUs, at most
PROBE_SECONDS = 300.0  # until a GPU with a fault is found clean
XID = "Xid 79"
OUT_OF_MEMORY = 3  # what a job would have exited with that the kernel kills for lack of memory
GPU_BYTES = 80 << 30


class Uplink(Protocol):
    """The agent's way to the controller: reply is called with the answer, or None if the connection broke."""

    def sync(self, node: NodeName, request: SyncRequest, reply: Callable[[SyncReply | None], None]) -> None: ...

    def join(self, node: NodeName, order: StreamOrder, there: bool) -> None: ...


@dataclass
class Process:
    """A rank's process tree and its supervisor, as they really are on a machine."""

    machine: Machine
    order: RunOrder
    deadline: float | None  # lease, on the machine's CLOCK_BOOTTIME; virtual time here
    alive: bool = True
    supervised: bool = True
    phase: RankPhase = RankPhase.ACCEPTED
    was_ready: bool = False
    begun_whole: bool = False  # it was looked at once it ran: all of its gang were ready
    started_at: float | None = None
    stopping: StopKind | None = None
    exit: ExitRecord | None = None  # on the machine's disk once set
    crashed: bool = False  # it failed because its GPU did
    seen: bool = False  # the agent was there to see that
    faults: int = 0  # that GPUs of its had when it was launched, or since
    greedy: tuple[float, float] = (0.0, 0.0)  # from when to when it has more memory of its GPUs than its share

    def __setattr__(self, name: str, value: object) -> None:
        """Counts every change, by whomever it is made: what the checks may leave out hangs on it."""
        object.__setattr__(self, name, value)
        self.machine.touched += 1

    @property
    def gpus(self) -> tuple[int, ...]:
        return self.order.ranks[self.order.rank].gpus

    @property
    def share(self) -> int | None:
        return self.order.ranks[self.order.rank].gpu_share_bytes

    @property
    def uid(self) -> AttemptUid:
        return self.order.uid

    @property
    def job(self) -> JobId:
        return self.order.job.id


@dataclass
class Journal:
    incarnation: int = 0
    epoch: int = 0
    held: dict[AttemptUid, Held] = field(default_factory=dict)
    barred: dict[AttemptUid, None] = field(default_factory=dict)


class Machine:
    """One node: its disk (journal, exit records), its processes, and its agent while that runs."""

    def __init__(self, name: NodeName, clock: Clock, uplink: Uplink) -> None:
        self.name, self.clock, self.uplink = name, clock, uplink
        self.boot = 1
        self.journal = Journal()
        self.processes: dict[AttemptUid, Process] = {}
        self.ended: list[Process] = []  # every process there ever was, for the checks
        self.touched = 0  # how often anything about a process of its has changed
        self.agent: Agent | None = None
        self.faults: dict[int, int] = {}  # GPUs that have one, and its number
        self._faults = 0
        self.start_agent()

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boot}"

    def start_agent(self) -> None:
        if self.agent is None:
            self.agent = Agent(self)

    def kill_agent(self) -> None:
        """SIGKILL of the agent. That it and a supervisor die at once is the one double fault left out: then nobody
        on the machine is left to end a leased attempt in time (docs/reliability says so).
        """
        if self.agent is not None:
            for process in [p for p in self.processes.values() if p.alive and not p.supervised]:
                self.agent.reap(process)
            self.agent.dead = True
            self.agent = None

    def power_off(self) -> None:
        """Everything in memory is gone; the disk stays."""
        self.kill_agent()
        for process in self.processes.values():
            process.alive = process.supervised = False
        self.boot += 1
        self.faults.clear()

    # ------------------------------------------------------------ GPUs

    def fail_gpu(self, index: int) -> None:
        """A fault, of which some programs die at once; the agent sees it when it looks next."""
        self._faults += 1
        self.faults[index] = number = self._faults
        for process in [p for p in self.processes.values() if p.alive and index in p.gpus]:
            process.faults += 1
            if process.supervised and not process.stopping and self.clock.chance(0.5):
                self.clock.after(self.clock.random.uniform(0.0, 1.0), lambda p=process: self._crash(p))  # type: ignore[misc]
        if self.agent is not None:
            self.clock.after(self.clock.random.uniform(0.0, LOOK_SECONDS), self.agent.look)
        self.clock.after(PROBE_SECONDS, lambda: self.mend_gpu(f"{self.name}-gpu{index}", number))

    def mend_gpu(self, uuid: str, number: int) -> None:
        """A probe found it clean, or an admin said so."""
        for index in [i for i, n in self.faults.items() if (f"{self.name}-gpu{i}", n) == (uuid, number)]:
            del self.faults[index]
        if self.agent is not None:
            self.agent.look()

    def _crash(self, process: Process) -> None:
        if process.phase is RankPhase.RUNNING and not process.stopping and process.exit is None:
            process.crashed = True
            self._end(process, EndReason.EXITED, 1)

    # ------------------------------------------------------------ supervisors

    def launch(self, order: RunOrder, deadline: float | None) -> None:
        process = Process(self, order, deadline)
        process.faults = sum(index in self.faults for index in process.gpus)
        self.processes[order.uid] = process
        random = self.clock.random
        if deadline is not None and self.clock.time >= deadline:
            # As the real one: it looks at its lease before it starts anything.
            self._end(process, EndReason.EXITED, stopped=StopKind.FENCE, never=True)
            return
        self.ended.append(process)
        if deadline is not None:
            self._watch_lease(process)
        if random.random() < 0.05:
            reason = random.choice([EndReason.SETUP_FAILED, EndReason.LAUNCH_FAILED])
            self.clock.after(random.uniform(0.01, 3.0), lambda: self._end(process, reason))
        else:
            self.clock.after(random.uniform(0.01, 3.0), lambda: self._ready(process))

    def _ready(self, process: Process) -> None:
        process.was_ready = True
        if len(process.order.ranks) == 1:
            self._running(process)
        elif process.alive and process.supervised and not process.stopping:
            process.phase = RankPhase.READY
            self._tell(process)

    def go(self, uid: AttemptUid) -> None:
        process = self.processes.get(uid)
        if process is not None and process.phase is RankPhase.READY:
            self._running(process)

    def _running(self, process: Process) -> None:
        if not (process.alive and process.supervised) or process.stopping:
            return
        process.phase, process.started_at = RankPhase.RUNNING, self._wall()
        self._tell(process)
        code = 0 if self.clock.chance(0.8) else self.clock.random.randint(1, 3)
        life = self.clock.random.choice([0.05, 1.0, 10.0, 60.0, 200.0])
        limit = process.order.job.time_limit_seconds
        if limit is not None and limit < life:
            self.clock.after(limit, lambda: self.stop(process.uid, StopKind.TIME_LIMIT, 5))
        self.clock.after(life, lambda: self._main_ended(process, code))
        if process.share is not None and self.clock.chance(0.5):
            start = self.clock.time + self.clock.random.uniform(0.0, 10.0)
            process.greedy = (start, start + self.clock.random.choice([8.0, 30.0, 120.0]))
            self._look_at(process)

    def _look_at(self, process: Process) -> None:
        """The agent's regular looks, as long as they may show that this process is beyond its share, or no more."""
        if self.agent is not None:
            self.agent.look()
        if process.alive and self.clock.time < process.greedy[1]:
            self.clock.after(LOOK_SECONDS, lambda: self._look_at(process))

    def memory_of(self, index: int) -> GpuSample:
        """What the driver says of a GPU: who shares it has its share to the last byte, or more."""
        using = [p for p in self.processes.values() if p.alive and index in p.gpus and p.share is not None]
        more = [int(p.greedy[0] <= self.clock.time < p.greedy[1]) for p in using]
        told = (GpuProcess(1, (p.share or 0) + extra, job=p.job) for p, extra in zip(using, more, strict=True))
        return GpuSample(index, processes=tuple(told))

    def _main_ended(self, process: Process, code: int) -> None:
        """The main process is through; what it left behind takes a while to die."""
        if not (process.alive and process.supervised) or process.stopping or process.exit:
            return
        if self.clock.chance(0.2):
            process.phase = RankPhase.RUNNING
            self._tell(process, stopping=True)
            self.clock.after(self.clock.random.uniform(0.0, 8.0), lambda: self._end_by_itself(process, code))
        else:
            self._end_by_itself(process, code)

    def _end_by_itself(self, process: Process, code: int) -> None:
        if code == OUT_OF_MEMORY:
            self._end(process, EndReason.EXITED, signal=9, oom_kills=1)
        else:
            self._end(process, EndReason.EXITED, code)

    def stop(self, uid: AttemptUid, kind: StopKind, grace: int) -> None:
        process = self.processes.get(uid)
        if process is None or process.exit or not process.supervised or process.stopping:
            return
        process.stopping = kind
        self._tell(process, stopping=True)
        if process.phase is RankPhase.READY:
            self._end(process, EndReason.NEVER_STARTED, stopped=kind)
            return
        delay = self.clock.random.uniform(0.0, min(grace, 10))
        self.clock.after(delay, lambda: self._end(process, EndReason.EXITED, signal=15, stopped=kind))

    def _watch_lease(self, process: Process) -> None:
        assert process.deadline is not None
        if process.exit or not process.supervised:
            return
        if self.clock.time >= process.deadline:
            self.stop(process.uid, StopKind.FENCE, process.order.job.grace_seconds)
        else:
            self.clock.after(process.deadline - self.clock.time, lambda: self._watch_lease(process))

    def _end(
        self,
        process: Process,
        reason: EndReason,
        code: int | None = None,
        signal: int | None = None,
        stopped: StopKind | None = None,
        never: bool = False,
        oom_kills: int = 0,
    ) -> None:
        if process.exit or not process.supervised or not (process.alive or never):
            return
        process.alive = False
        end = ExitRecord(reason, self._wall(), code, signal, stopped, started_at=process.started_at)
        process.exit = replaced(end, oom_kills=oom_kills)
        process.phase = RankPhase.ENDED
        self._tell(process)

    def kill_supervisor(self, process: Process) -> None:
        """The supervisor alone dies: its processes live on until the agent has killed them."""
        if self.agent is not None:
            process.supervised = False
            agent = self.agent
            self.clock.after(self.clock.random.uniform(0.01, 2.0), lambda: agent.reap(process))

    def _tell(self, process: Process, stopping: bool = False) -> None:
        if self.agent is not None:
            agent = self.agent
            event = event_of(process, stopping)
            self.clock.after(self.clock.random.uniform(0.0005, 0.01), lambda: agent.observed(event))

    def _wall(self) -> float:
        return WALL_ZERO + self.clock.time


def event_of(process: Process, stopping: bool = False) -> RunEvent:
    return RunEvent(
        uid=process.uid,
        rank=process.order.rank,
        phase=process.phase,
        stopping=stopping or process.stopping is not None,
        started_at=process.started_at,
        exit=process.exit,
    )


class Agent:
    """One life of an agent process around agent.directives.Directives, doing what the daemon does with its actions."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.clock = machine, machine.clock
        self.dead = False
        journal = machine.journal
        journal.incarnation += 1
        for uid, held in journal.held.items():
            process = machine.processes.get(uid)
            if held.exit is None and process is not None and process.exit is not None:
                journal.held[uid] = replaced(held, exit=process.exit)  # the supervisor's record, found on disk
        for uid in list(journal.barred):
            self._sweep(uid)
        self.directives = Directives(
            machine.name,
            machine.boot_id,
            journal.incarnation,
            list(journal.held.values()),
            list(journal.barred),
            epoch=journal.epoch,
            wall=WALL_ZERO + self.clock.time,
        )
        self._polls = 0
        self._shares = Shares()
        self._adopt()
        self._read_gpus()
        self.clock.after(0.0, self.look)  # once it is the machine's agent, and hears what becomes of those it stops
        self._beat()

    def look(self) -> None:
        """Reads the GPUs, as the daemon does every few seconds and before it takes an end that may be due to them."""
        if self.dead:
            return
        self._read_gpus()
        held = {p.uid: Tenancy(p.job, p.gpus, 0.0, p.share) for p in self.machine.processes.values() if p.alive}
        samples = [self.machine.memory_of(index) for index in range(GPUS)]
        self.directives.set_overuse(self._shares.observe(self.clock.time, held, samples))
        self._act(self.directives.gpus_failed(dict.fromkeys(self.machine.faults, XID)))
        self._hurry()

    def _read_gpus(self) -> None:
        faults = self.machine.faults
        well = [Gpu(i, f"{self.machine.name}-gpu{i}", "H100", GPU_BYTES) for i in range(GPUS)]
        gpus = tuple(
            replaced(gpu, health=GpuHealth.QUARANTINED, health_text=XID, fault=faults[gpu.index])
            if gpu.index in faults
            else gpu
            for gpu in well
        )
        inventory = Inventory(self.machine.name, gpus, 16, 64 << 30, True, "sim")
        self.directives.set_inventory(inventory, f"inventory {sorted(faults.items())}")

    def _adopt(self) -> None:
        """Looks at what it holds as the executor does at its start."""
        for uid, held in list(self.machine.journal.held.items()):
            process = self.machine.processes.get(uid)
            if held.boot_id != self.machine.boot_id:
                continue
            if process is not None and (process.exit or process.supervised):
                self._act(self.directives.observed(event_of(process)))
            else:
                self._lost(held.order, process)

    def _lost(self, order: RunOrder, process: Process | None) -> None:
        if process is not None:
            process.alive = False
        end = ExitRecord(EndReason.SUPERVISOR_LOST, WALL_ZERO + self.clock.time)
        self._act(self.directives.observed(RunEvent(uid=order.uid, rank=order.rank, phase=RankPhase.ENDED, exit=end)))

    def reap(self, process: Process) -> None:
        if not self.dead and process.exit is None:
            self._lost(process.order, process)

    def observed(self, event: RunEvent) -> None:
        if not self.dead:
            process = self.machine.processes.get(event.uid)
            if event.exit is not None and event.exit.exit_code != 0 and event.exit.stopped is None:
                self.look()
                if process is not None:
                    process.seen = True
            self._act(self.directives.observed(event))
            self._hurry()

    # ------------------------------------------------------------ the exchange

    def _beat(self) -> None:
        """A heartbeat, whatever else is under way: as the daemon's long poll comes back and goes out again."""
        if not self.dead:
            self._sync(POLL_SECONDS if self.clock.chance(0.8) else 0.0)
            self.clock.after(POLL_SECONDS + 1.0, self._beat)

    def _hurry(self) -> None:
        if self.directives.has_news and self._polls < 3:
            self._sync(POLL_SECONDS)

    def _sync(self, wait: float) -> None:
        request = self.directives.request(wait)
        sent_at = self.clock.time
        self._polls += 1

        def answered(reply: SyncReply | None) -> None:
            if self.dead:
                return
            self._polls = max(0, self._polls - 1)
            if reply is not None:
                self._act(self.directives.answered(reply, sent_at, WALL_ZERO + self.clock.time))
                self.machine.journal.epoch = self.directives.applied[0]
                self._hurry()

        self.machine.uplink.sync(self.machine.name, request, answered)

    def _act(self, actions: list[Action]) -> None:
        machine, journal = self.machine, self.machine.journal
        for action in actions:
            match action:
                case Accept(order, deadline):
                    journal.held[order.uid] = Held(order, machine.boot_id)
                    if self.clock.chance(0.01):
                        machine.kill_agent()  # journaled, not launched
                        self.clock.after(2.0, machine.start_agent)
                        return
                    machine.launch(order, deadline)
                case Stop(uid, _, kind, grace):
                    machine.stop(uid, kind, grace)
                case Go(uid, _):
                    machine.go(uid)
                case Extend(uid, _, deadline):
                    process = machine.processes.get(uid)
                    if process is not None and process.deadline is not None:
                        process.deadline = max(process.deadline, deadline)
                case Bar(uid, _):
                    journal.barred[uid] = None
                case Sweep(uid):
                    self._sweep(uid)
                    self._act(self.directives.swept(uid, WALL_ZERO + self.clock.time))
                case RecordEnd(uid, _, end):
                    if uid in journal.held:
                        journal.held[uid] = replaced(journal.held[uid], exit=end)
                case Connect(stream):
                    process = machine.processes.get(stream.uid)
                    machine.uplink.join(machine.name, stream, process is not None and process.alive)
                case Pardon(uuid, fault):
                    machine.mend_gpu(uuid, fault)
                case Drop(uid, _):
                    journal.held.pop(uid, None)
                    journal.barred.pop(uid, None)
                    machine.processes.pop(uid, None)

    def _sweep(self, uid: AttemptUid) -> None:
        process = self.machine.processes.get(uid)
        if process is not None:
            process.alive = process.supervised = False


__all__ = ["GPUS", "Agent", "Machine", "OnLost", "Process"]
