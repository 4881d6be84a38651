"""The agents of the simulation: real Directives, and what the daemon does with their actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import TYPE_CHECKING

from agent.actions import Accept, Action, Bar, Connect, Drop, Extend, Go, Pardon, RecordEnd, Stop, Sweep
from agent.directives import Directives
from agent.holding import Held
from agent.runs import RunEvent
from agent.shares import Shares
from agent.tenants import Tenancy
from gpuq.model import AttemptUid, EndReason, ExitRecord, RankPhase
from gpuq.node import Gpu, GpuHealth, Inventory
from gpuq.protocol import POLL_SECONDS, RunOrder, SyncReply
from tests.simulation.clock import WALL_ZERO
from tests.simulation.processes import Process, event_of

if TYPE_CHECKING:
    from tests.simulation.machines import Machine

GPUS = 4
GPU_BYTES = 80 << 30
XID = "Xid 79"


@dataclass
class Journal:
    incarnation: int = 0
    epoch: int = 0
    held: dict[AttemptUid, Held] = field(default_factory=dict)
    barred: dict[AttemptUid, None] = field(default_factory=dict)


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
                process.taken = process.exit is not None
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
            if process is not None:
                process.taken = event.exit is not None
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
