"""What must always hold (DESIGN section 8), checked against what really is on the machines, not against records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from gpuq.cluster import Cluster
from gpuq.model import Attempt, AttemptUid, CauseCode, EndReason, ExitRecord, JobId, Now, OnLost, Rank, StopKind
from gpuq.scheduler import plan
from gpuq.states import FINAL, JobState
from gpuq.view import Plan
from tests.simulation.agents import GPU_BYTES
from tests.simulation.clock import WALL_ZERO
from tests.simulation.processes import Process
from tests.simulation.world import PATIENCE_SECONDS, SETTINGS, TROUBLE_SECONDS, Broken, World, release_held

A_DAY = 86_400.0
SLOWLY = 100  # steps from one look at the whole state to the next: fifty in a history


@dataclass(slots=True)
class Looked:
    """What the world was when it was checked last: a check whose matter is the same since would say the same."""

    machines: int = -1
    disk: int = -1
    told: int = -1
    memory: tuple[object, ...] = ()

    def at(self, world: World) -> tuple[bool, bool, bool]:
        """Looks again; whether processes, what is on disk or was told, and what the controller has in memory changed.

        Memory changes by commits and by being loaded anew, which gives another view; a commit's number may come again
        after that.
        """
        host = world.host
        commit = None if host.controller is None else host.controller.commit
        machines = sum([machine.touched for machine in world.machines])
        disk, told = host.disk.last_seq, len(world.told.submitted)
        memory = () if commit is None else (id(commit), id(commit.cluster), commit.last, commit.durable)
        changed = machines != self.machines, (disk, told) != (self.disk, self.told), memory != self.memory
        self.machines, self.disk, self.told, self.memory = machines, disk, told, memory
        return changed


def check(world: World, looked: Looked) -> None:
    """After every step, so it costs as little as it can. Numbers are those of section 8."""
    on_machines, on_record, in_memory = looked.at(world)
    if on_machines or on_record:
        processes = world.processes()
        _one_holder_a_gpu(processes)
        _one_live_attempt_a_job(processes)
        _gangs_begin_whole(world, processes)
        _held_until_gone(world, processes)
    if on_record or in_memory:
        _acknowledged_is_kept(world)
    if in_memory:
        _freed_for_one_is_no_others(world)
    _streams_lead_to_their_job(world)


def _one_holder_a_gpu(processes: list[Process]) -> None:  # 1
    whole: Counter[tuple[str, int]] = Counter()
    shared: Counter[tuple[str, int]] = Counter()
    for process in processes:
        rank = process.order.ranks[process.order.rank]
        for gpu in rank.gpus:
            if rank.gpu_share_bytes is None:
                whole[rank.node, gpu] += 1
            else:
                shared[rank.node, gpu] += rank.gpu_share_bytes
    for (node, gpu), count in whole.items():
        if count > 1 or shared[node, gpu]:
            raise Broken(f"1: GPU {gpu} of {node} has {count} holders and {shared[node, gpu]} bytes given to others")
    for (node, gpu), held in shared.items():
        if held > GPU_BYTES:
            raise Broken(f"1: of GPU {gpu} of {node} {held} bytes are given away, it has {GPU_BYTES}")


def _one_live_attempt_a_job(processes: list[Process]) -> None:  # 3
    alive: dict[JobId, AttemptUid] = {}
    ranks: set[tuple[AttemptUid, int]] = set()
    for process in processes:
        uid, rank = process.uid, process.order.rank
        if (uid, rank) in ranks:
            raise Broken(f"3: rank {rank} of {uid} runs twice at once")
        ranks.add((uid, rank))
        if alive.setdefault(process.job, uid) != uid:
            raise Broken(f"3: job {process.job} runs twice at once")


def _gangs_begin_whole(world: World, processes: list[Process]) -> None:  # 5
    for process in processes:
        if process.started_at is not None and not process.begun_whole:
            nodes = {rank.node for rank in process.order.ranks}
            ready = {p.machine.name for m in world.machines for p in m.ended if p.uid == process.uid and p.was_ready}
            if ready != nodes:
                raise Broken(f"5: {process.uid} runs, but only {sorted(ready)} of {sorted(nodes)} were ready")
            process.begun_whole = True


def _held_until_gone(world: World, processes: list[Process]) -> None:  # 6
    attempts = world.host.disk.all_attempts
    for process in processes:
        record = attempts.get(process.uid)
        if record is None:
            raise Broken(f"8: {process.uid} runs, but its grant is not on disk")
        if not record.live:
            raise Broken(f"6: {process.uid} of job {process.job} lives, but its GPUs are given back")


def _acknowledged_is_kept(world: World) -> None:  # 2
    """It is on disk; and at no moment may a running controller not know a job, not between its end and that end's
    commit either.
    """
    jobs, controller = world.host.disk.all_jobs, world.host.controller
    for name, id in world.told.submitted.items():
        job = jobs.get(id)
        if job is None or job.name != name:
            raise Broken(f"2: {name} was acknowledged as {id} and is lost")
        if job.state in FINAL or controller is None:
            continue
        if controller.view.job(id) is None and controller.ended_job(id) is None:
            raise Broken(f"2: job {id} is unknown to its controller")


def _freed_for_one_is_no_others(world: World) -> None:  # 7
    """GPUs that others were stopped for are free, or held by those, until the one they were freed for has them."""
    controller = world.host.controller
    if controller is None:
        return
    for job in controller.view.claims():
        for rank in job.claim:
            for attempt in controller.view.attempts_on(rank.node):
                if attempt.stop is None and _takes(attempt, rank):
                    raise Broken(f"7: GPUs of {rank.node} are kept for {job.id}, and {attempt.job} was given some")


def _takes(attempt: Attempt, rank: Rank) -> bool:
    shared = rank.gpu_share_bytes is not None
    return any(
        other.node == rank.node
        and not set(other.gpus).isdisjoint(rank.gpus)
        and not (shared and other.gpu_share_bytes is not None)
        for other in attempt.ranks
    )


def _streams_lead_to_their_job(world: World) -> None:
    """An agent is told of a stream only to a rank that was granted its node."""
    while world.streams.joined:
        node, order = world.streams.joined.pop()
        attempt = world.host.disk.all_attempts.get(order.uid)
        if attempt is None or attempt.ranks[order.rank].node != node:
            raise Broken(f"a stream to {order.uid} rank {order.rank} was asked of {node}")


def check_slowly(world: World) -> None:
    """Now and then: checks that cost as much as the whole state."""
    controller, writer = world.host.controller, world.host.writer
    if controller is None or writer is None:
        return
    if writer.idle and Cluster.load(world.host.disk, controller.view.volatile) != controller.view:  # 8
        raise Broken("8: memory and disk disagree")
    now = world.clock.now()
    planned = plan(controller.view, now, world.policy)
    if planned != plan(controller.view, now, world.policy):  # 10
        raise Broken("10: the same view gave two plans")
    later = Now(now.monotonic + A_DAY, now.wall + A_DAY)
    if planned.lasts and plan(controller.view, later, world.policy) != Plan(lasts=True):
        raise Broken("10: a plan that was to last did not")
    names = Counter(job.name for job in world.host.disk.all_jobs.values() if job.index is None)
    if any(count > 1 for count in names.values()):
        raise Broken("2: one submit made two jobs")


def check_at_end(world: World) -> None:
    """When the trouble is over and everything has had time to end."""
    if world.unfinished() or world.outstanding:
        raise Broken(f"2: never ended: {world.unfinished()[:5]}; never answered: {len(world.outstanding)}")
    if world.processes():
        raise Broken("6: processes live on after every job has ended")
    if world.streams.unheard:
        raise Broken(f"streams to jobs that ran on were never joined: {world.streams.unheard}")
    _ends_are_true(world)


def _ends_are_true(world: World) -> None:  # 4
    """Every attempt's recorded end is what really happened to its process, and every job's that of its last attempt."""
    real = {(p.uid, p.order.rank): p for machine in world.machines for p in machine.ended}
    disk = world.host.disk
    last: dict[JobId, Attempt] = {}
    for attempt in disk.all_attempts.values():
        last[attempt.job] = max(attempt, last.get(attempt.job, attempt), key=lambda a: a.number)
        for number, rank in enumerate(attempt.ranks):
            _is_true(attempt, rank.exit, real.get((attempt.uid, number)))
        _was_beyond_its_share(attempt, [p for p in real.values() if p.uid == attempt.uid])
        if (
            attempt.cause is not None
            and attempt.cause.code is CauseCode.PREEMPTED
            and not disk.all_jobs[attempt.job].requeue
        ):
            raise Broken(f"7: attempt {attempt.uid} was preempted, and may not run again")
    for job in disk.all_jobs.values():
        if (job.id in last and job.state is JobState.SUCCEEDED) or job.exit_code is not None:
            codes = [rank.exit.exit_code if rank.exit else None for rank in last[job.id].ranks]
            true = codes == [0] * len(codes) if job.state is JobState.SUCCEEDED else job.exit_code in codes
            if not true:
                raise Broken(f"4: job {job.id} shows {job.state.value} {job.exit_code}, its ranks ended with {codes}")
        if job.cause is not None and job.cause.code is CauseCode.OOM:
            if not any(rank.exit and rank.exit.oom_kills for rank in last[job.id].ranks):
                raise Broken(f"4: job {job.id} is said to have run out of memory, and no kernel said so")
        elif job.signal == 9 and job.cause is not None and job.cause.code is CauseCode.SIGNAL:
            raise Broken(f"4: job {job.id} was killed for lack of memory, and that is not said")


def _is_true(attempt: Attempt, recorded: ExitRecord | None, process: Process | None) -> None:
    end = None if process is None else process.exit
    if recorded is None:
        raise Broken(f"4: attempt {attempt.uid} has no end on record")
    if end is not None and process is not None:
        _is_blamed_rightly(process, recorded)
        recorded = replace(recorded, gpu_fault="")
    proven = attempt.on_lost is OnLost.FENCE and recorded.reason is EndReason.NODE_LOST  # before anyone could tell
    if end is not None and not proven and recorded != end:
        raise Broken(f"4: attempt {attempt.uid} is recorded as {recorded}, its process ended as {end}")
    if end is None and recorded.reason is EndReason.EXITED and recorded.stopped is not StopKind.FENCE:
        raise Broken(f"4: attempt {attempt.uid} is recorded as {recorded}, but no such process ended")


def _was_beyond_its_share(attempt: Attempt, processes: list[Process]) -> None:
    """Who is stopped for its neighbours' sake had more than its share for the whole grace, by the machine's clock."""
    stop = attempt.stop
    if stop is None or stop.kind is not StopKind.GPU_MEMORY:
        return
    seconds = [min(p.greedy[1], stop.at - WALL_ZERO) - p.greedy[0] for p in processes if p.share is not None]
    if max(seconds, default=0.0) < SETTINGS.cluster.shared_gpu_memory_grace:
        raise Broken(f"4: attempt {attempt.uid} is stopped for memory it had for {seconds} s")


def _is_blamed_rightly(process: Process, recorded: ExitRecord) -> None:
    if recorded.gpu_fault and not process.faults:
        raise Broken(f"4: attempt {process.uid} is said to have ended by a fault of a GPU, and there was none")
    if process.crashed and process.seen and recorded.reason is EndReason.EXITED and not recorded.gpu_fault:
        raise Broken(f"4: attempt {process.uid} is blamed for what its GPU did")


def run(seed: int, world: World | None = None) -> World:
    """One whole history; raises Broken with the seed. Gives the world for a look at it afterwards."""
    world = world or World(seed)
    looked = Looked()
    steps = 0
    calm = False
    try:
        while world.clock.time < PATIENCE_SECONDS and world.clock.step():
            steps += 1
            check(world, looked)
            if steps % SLOWLY == 0:
                check_slowly(world)
            if not calm and world.clock.time > TROUBLE_SECONDS:
                calm = True
                world.calm()
                world.clock.after(60.0, lambda: release_held(world))
            if calm and steps % 50 == 0 and not world.outstanding and not world.unfinished() and not world.processes():
                break
        check_at_end(world)
    except Broken as broken:
        raise Broken(f"{broken} (seed {seed}, {world.clock.time:.3f} s, step {steps})") from None
    return world
