"""The machines of the simulation: supervisors that outlive agents, GPUs that fail, power that goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replaced
from typing import Protocol

from gpuq.gpu_use import GpuProcess
from gpuq.model import AttemptUid, EndReason, ExitRecord, NodeName, RankPhase, StopKind
from gpuq.node import GpuSample
from gpuq.protocol import RunOrder, StreamOrder, SyncReply, SyncRequest
from tests.simulation.agents import Agent, Journal
from tests.simulation.clock import WALL_ZERO, Clock
from tests.simulation.processes import Process, event_of

LOOK_SECONDS = 5.0  # between an agent's looks at its GPUs, at most
PROBE_SECONDS = 300.0  # until a GPU with a fault is found clean
OUT_OF_MEMORY = 3  # what a job would have exited with that the kernel kills for lack of memory


class Uplink(Protocol):
    """The agent's way to the controller: reply is called with the answer, or None if the connection broke."""

    def sync(self, node: NodeName, request: SyncRequest, reply: Callable[[SyncReply | None], None]) -> None: ...

    def join(self, node: NodeName, order: StreamOrder, there: bool) -> None: ...


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
        """A fault, of which some programs die at once; the agent sees it when it looks next.

        A driver may tell of it only after the program has died of it. So a fault that comes before an end was taken
        may be its reason, for all that anyone can know.
        """
        self._faults += 1
        self.faults[index] = number = self._faults
        for process in [p for p in self.processes.values() if not p.taken and index in p.gpus]:
            process.faults += 1
            if process.alive and process.supervised and not process.stopping and self.clock.chance(0.5):
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
