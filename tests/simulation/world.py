"""The simulated cluster: one real Controller in crashing lives, five machines, two users, and the faults between them.

`run(seed)` plays one history and checks the invariants of DESIGN section 8 after every step; the same seed replays
exactly. A breach is raised as Broken, with the seed in its text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuq.changes import PutNode, PutSettings
from gpuq.errors import GpuqError, Unavailable
from gpuq.model import Dependency, DependencyKind, JobId, NodeName, OnLost
from gpuq.node import Node
from gpuq.protocol import Selection, StreamOrder, Submission, SyncReply, SyncRequest
from gpuq.service.commands import Actor, Cancel, Cordon, Drain, Hold, Release, Requeue, Submit, Uncordon, UserCommand
from gpuq.service.controller import Controller
from gpuq.settings import ClusterSettings, Queue, Settings
from gpuq.states import FINAL, JobState
from gpuq.view import Policy
from tests.simulation.agents import GPUS
from tests.simulation.clock import Clock, Faults, Network
from tests.simulation.disk import Disk, DiskWriter
from tests.simulation.machines import Machine
from tests.simulation.processes import Process
from tests.simulation.streams import Streams

NODES = 5
TROUBLE_SECONDS = 600.0  # faults happen until here; afterwards everything must come to an end
PATIENCE_SECONDS = 4_000.0
# Some of the work yields to the rest, and soon again.
SETTINGS = Settings(
    cluster=ClusterSettings(preempt_again_after=60, shared_gpu_memory_grace=10),
    queues=(Queue("main", default=True), Queue("spare", priority=-10, preemptible=True)),
)
ALICE, ADMIN = Actor("alice", "user"), Actor("root", "admin")


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Host:
    """The machine the controller runs on: its disk, and the life that runs now, if any."""

    disk: Disk
    controller: Controller | None = None
    writer: DiskWriter | None = None
    life: int = 0


@dataclass
class Told:
    """What clients were told: the promises that must be kept."""

    submitted: dict[str, JobId] = field(default_factory=dict)  # by the client's name for it
    canceled: set[JobId] = field(default_factory=set)


class World:
    def __init__(self, seed: int, faults: Faults | None = None, policy: Policy | None = None) -> None:
        self.seed = seed
        self.clock = Clock(seed)
        self.faults = faults or Faults()
        self.network = Network(self.clock, self.faults)
        self.policy = policy or Policy()
        self.host = Host(Disk())
        self.told = Told()
        self.outstanding: set[str] = set()
        self.tried = 0
        self.host.disk.write(0, (PutSettings(SETTINGS),))
        self.streams = Streams(self.clock, self.network, self.host)
        for number in range(NODES):
            self.host.disk.write(0, (PutNode(Node(NodeName(f"n{number}"))),))
        self.start_controller()
        self.machines = [Machine(NodeName(f"n{i}"), self.clock, self) for i in range(NODES)]
        self._schedule_users()
        self._schedule_faults()

    # ------------------------------------------------------------ the controller's lives

    def start_controller(self) -> None:
        host = self.host
        if host.controller is not None:
            return
        host.life += 1
        life = host.life

        def confirmed(number: int) -> None:
            if host.life == life and host.controller is not None:
                host.controller.commit.confirmed(number)

        def full() -> None:
            if host.life == life and host.controller is not None:
                host.controller.pause("disk full")
                self.clock.after(self.clock.random.uniform(0.5, 30.0), self._alive_in(life, self._disk_has_room))

        host.writer = DiskWriter(self.clock, host.disk, self.faults.disk_busy, confirmed, full)
        host.controller = Controller(
            load=lambda: host.disk,
            writer=host.writer,
            lookup=host.disk,
            policy=self.policy,
            clock=self.clock.now,
            seed=lambda: f"{self.clock.random.getrandbits(80):020x}",
            soon=lambda act: self.clock.after(0.0, self._alive_in(life, act)),
        )
        self._tick(life)

    def _alive_in(self, life: int, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: act() if self.host.life == life and self.host.controller is not None else None

    def _tick(self, life: int) -> None:
        if self.host.life == life and self.host.controller is not None:
            self.host.controller.tick()
            self.clock.after(1.0, lambda: self._tick(life))

    def crash_controller(self) -> None:
        if self.host.writer is not None:
            self.host.writer.crash()
        self.host.controller = self.host.writer = None
        self.host.life += 1
        self.clock.after(self.clock.random.uniform(0.5, 40.0), self.start_controller)

    # ------------------------------------------------------------ the wire

    def sync(self, node: NodeName, request: SyncRequest, reply: Callable[[SyncReply | None], None]) -> None:
        """machines.Uplink: a request on its way to whatever life of the controller is there when it arrives."""

        def back(answer: SyncReply | GpuqError) -> None:
            value = answer if isinstance(answer, SyncReply) else None
            self.network.send("controller", node, lambda: reply(value))

        def arrive() -> None:
            if self.host.controller is not None:
                self.host.controller.sync(node, request, back)

        self.network.send(node, "controller", arrive)

    def join(self, node: NodeName, order: StreamOrder, there: bool) -> None:
        """machines.Uplink: an agent asks for bytes of a stream, or says that what it leads to is not there."""
        self.streams.join(node, order, there)

    # ------------------------------------------------------------ users

    def _schedule_users(self) -> None:
        at = 0.0
        while at < TROUBLE_SECONDS * 0.8:
            at += self.clock.random.expovariate(1 / 12.0)
            self.clock.after(at, self._user_acts)

    def _user_acts(self) -> None:
        random = self.clock.random
        live = list(self.told.submitted.values())
        if not live or random.random() < 0.6:
            self.tried += 1
            self._ask(Submit(ALICE, self._submission(f"job-{self.tried}", live)), self._submitted(f"job-{self.tried}"))
            return
        choice = Selection(ids=(random.choice(live),))
        node = NodeName(f"n{random.randrange(NODES)}")
        if random.random() < 0.3:
            self.streams.open(random.choice(live))
        possible: list[UserCommand] = [
            Cancel(ALICE, choice),
            Cancel(ALICE, choice),
            Requeue(ALICE, choice),
            Hold(ALICE, choice),
            Release(ALICE, choice),
            Cordon(ADMIN, node),
            Drain(ADMIN, node, requeue=True),
            Uncordon(ADMIN, node),
        ]
        command = random.choice(possible)
        self._ask(command, lambda body: self._canceled(command, body))

    def _submission(self, name: str, live: list[JobId]) -> Submission:
        random = self.clock.random
        dependencies: tuple[Dependency, ...] = ()
        if live and random.random() < 0.15:
            dependencies = (Dependency(random.choice(list(DependencyKind)), random.choice(live)),)
        yields = random.random() < 0.3
        return Submission(
            command=("work",),
            name=name,
            queue="spare" if yields else None,
            **self._places(),
            array="0-5%3" if random.random() < 0.15 else None,
            on_lost=random.choice([OnLost.KEEP, OnLost.FENCE]),
            max_retries=random.choice([0, 0, 2]),
            requeue=yields or random.random() < 0.75,
            time_limit_seconds=random.choice([None, None, 30]),
            begin_at=self.clock.now().wall + 20 if random.random() < 0.1 else None,
            scheduling_timeout_seconds=300 if random.random() < 0.1 else None,
            grace_seconds=10,
            dependencies=dependencies,
        )

    def _places(self) -> dict[str, Any]:
        """Single jobs, gangs, shares of GPUs, and jobs that want a node for themselves."""
        random = self.clock.random
        if random.random() < 0.25:
            return {"nodes": random.choice([2, 2, 3]), "gpus_per_node": random.choice([0, 1, 4])}
        if random.random() < 0.2:
            return {
                "gpus": random.choice([1, 2]),
                "shared": True,
                "gpu_memory_bytes": random.choice([20, 30, 50]) << 30,
            }
        return {"gpus": random.choice([0, 1, 1, 2, 4]), "exclusive": random.random() < 0.05}

    def _ask(self, command: UserCommand, then: Callable[[dict[str, Any]], None]) -> None:
        """A client that repeats its request, with the same request id, until it has an answer."""
        request_id = f"r{self.clock.random.getrandbits(64):016x}"
        self.outstanding.add(request_id)

        def answered(answer: dict[str, Any] | GpuqError) -> None:
            if request_id not in self.outstanding or isinstance(answer, Unavailable):
                return
            self.outstanding.discard(request_id)
            if isinstance(answer, dict):
                then(answer)

        def arrive() -> None:
            controller = self.host.controller
            if controller is not None:
                back = lambda a: self.network.send("controller", "user", lambda: answered(a))  # noqa: E731
                controller.execute(command, request_id, back, repr(command))

        def attempt() -> None:
            if request_id in self.outstanding:
                self.network.send("user", "controller", arrive)
                self.clock.after(self.clock.random.uniform(2.0, 15.0), attempt)

        attempt()

    def _submitted(self, name: str) -> Callable[[dict[str, Any]], None]:
        def told(body: dict[str, Any]) -> None:
            self.told.submitted[name] = JobId(body["id"])

        return told

    def _canceled(self, command: UserCommand, body: dict[str, Any]) -> None:
        if isinstance(command, Cancel):
            self.told.canceled.update(item["id"] for item in body["items"] if item["outcome"] == "done")

    # ------------------------------------------------------------ faults

    def _schedule_faults(self) -> None:
        faults, random = self.faults, self.clock.random

        def often(rate: float, act: Callable[[], None]) -> None:
            at = 0.0
            while rate > 0:
                at += random.expovariate(rate)
                if at > TROUBLE_SECONDS:
                    return
                self.clock.after(at, act)

        often(faults.crash_controller, self.crash_controller)
        often(faults.disk_full, self._fill_disk)
        for machine in self.machines:
            often(faults.crash_agent, lambda m=machine: self._agent_dies(m))  # type: ignore[misc]
            often(faults.crash_node, lambda m=machine: self._node_dies(m))  # type: ignore[misc]
            often(faults.kill_supervisor, lambda m=machine: self._supervisor_dies(m))  # type: ignore[misc]
            often(faults.partition, lambda m=machine: self._partition(m))  # type: ignore[misc]
            often(faults.gpu, lambda m=machine: m.fail_gpu(random.randrange(GPUS)))  # type: ignore[misc]

    def _fill_disk(self) -> None:
        if self.host.writer is not None:
            self.host.writer.fail_next = True

    def _disk_has_room(self) -> None:
        if self.host.controller is not None:
            self.host.controller.resume()

    def _agent_dies(self, machine: Machine) -> None:
        machine.kill_agent()
        self.clock.after(self.clock.random.choice([0.5, 10.0, 200.0]), machine.start_agent)

    def _node_dies(self, machine: Machine) -> None:
        machine.power_off()
        self.clock.after(self.clock.random.choice([5.0, 60.0, 300.0]), machine.start_agent)

    def _supervisor_dies(self, machine: Machine) -> None:
        running = [p for p in machine.processes.values() if p.alive and p.supervised]
        if running:
            machine.kill_supervisor(self.clock.random.choice(running))

    def _partition(self, machine: Machine) -> None:
        cuts = {(machine.name, "controller"), ("controller", machine.name)}
        chosen = self.clock.random.choice([cuts, {min(cuts)}, {max(cuts)}])
        self.network.silent |= chosen
        length = self.clock.random.choice([20.0, 120.0, 400.0])
        self.clock.after(length, lambda: self.network.silent.difference_update(chosen))

    def calm(self) -> None:
        """The end of all trouble: everything is switched on and connected."""
        self.network.faults = Faults(drop=0, duplicate=0, slow=0)
        self.network.silent.clear()
        self.start_controller()
        self.clock.after(100.0, self.streams.open_all)
        for machine in self.machines:
            machine.start_agent()
            self.clock.after(0.0, lambda n=machine.name: self._ask(Uncordon(ADMIN, n), lambda _: None))  # type: ignore[misc]
            for gpu in machine.faults:
                pardon = Uncordon(ADMIN, machine.name, gpu)
                self.clock.after(30.0, lambda p=pardon: self._ask(p, lambda _: None))  # type: ignore[misc]

    # ------------------------------------------------------------ what really is

    def processes(self) -> list[Process]:
        """Every process tree that lives now, on any machine, supervised or not."""
        return [p for machine in self.machines for p in machine.ended if p.alive]

    def unfinished(self) -> list[str]:
        jobs = self.host.disk.all_jobs
        return [name for name, id in self.told.submitted.items() if jobs[id].state not in FINAL]


def release_held(world: World) -> None:
    """Lets go of what users held, so that every job can come to an end."""
    ids = tuple(job.id for job in world.host.disk.jobs if job.held_by and job.state is JobState.QUEUED)
    if ids:
        world._ask(Release(ADMIN, Selection(ids=ids)), lambda _: None)
