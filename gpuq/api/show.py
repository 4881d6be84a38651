"""What goes out: jobs, attempts, nodes and events as JSON, and who sees which part of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from gpuq import arrays
from gpuq.api.calls import Call
from gpuq.api.lookup import commands_of, latest_attempts, shown_state
from gpuq.enforced import NOTHING, Enforced
from gpuq.gpu_use import ForeignUse, GpuProcess
from gpuq.model import Attempt, Cause, Job, JobId, NodeName
from gpuq.node import Gpu, GpuSample, Node, NodeSample
from gpuq.reasons import WaitReason
from gpuq.scheduler import Start
from gpuq.service.shares import beyond, stopped_after
from gpuq.service.verdict import telling_rank
from gpuq.states import FINAL, JobState
from gpuq.store import jobs as stored_jobs
from gpuq.store.events import Event
from gpuq.units import format_time

_LOOKED_UP = {"command": "specs", "cwd": "specs", "nodes": "attempts"}  # what a field costs a look into the store

_ASKED_FOR = {
    "priority",
    "time_limit_seconds",
    "expected_start",
}  # fields that only rows have, and only when they are named


class JobLens:
    """Jobs as one caller sees them. Made for one answer: what it shows is of the moment it was made for.

    Only reasons may be up to reasons_age seconds old. `prepare` fetches what the store has of many jobs at once; a
    getter then takes well under a microsecond.
    """

    def __init__(self, call: Call, reasons_age: float = 0.0) -> None:
        self._call = call
        self._view = call.controller.view
        self._commands: Mapping[JobId, tuple[tuple[str, ...], str | None]] = {}
        self._attempts: Mapping[JobId, Attempt] = {}
        self._times: dict[float | None, str | None] = {}
        explainer = call.controller.explainer(reasons_age)
        self._reason, self._start = explainer.reason, explainer.start
        self._reasons: dict[WaitReason | None, dict[str, str] | None] = {}
        # One function for each field, in the order they are shown. What stands on the record is read in C.
        self.getters: dict[str, Callable[[Job], Any]] = {
            "id": attrgetter("id"),
            "name": attrgetter("name"),
            "user": attrgetter("user"),
            "queue": attrgetter("queue"),
            "state": self.state,
            "reason": self.reason,
            "command": self.command,
            "cwd": self.cwd,
            "gpus": attrgetter("request.gpus"),
            "nodes": self.nodes,
            "attempt": attrgetter("attempt"),
            "exit_code": attrgetter("exit_code"),
            "signal": attrgetter("signal"),
            "cause": self.cause,
            "submitted_at": lambda job: self.time(job.submitted_at),
            "started_at": lambda job: self.time(job.started_at),
            "finished_at": lambda job: self.time(job.finished_at),
            "elements": self.elements,
            "priority": attrgetter("priority"),
            "time_limit_seconds": attrgetter("time_limit_seconds"),
            "expected_start": self.expected_start,
        }

    def prepare(self, jobs: Sequence[Job], fields: Iterable[str] = _LOOKED_UP) -> None:
        controller = self._call.controller
        wanted = {_LOOKED_UP.get(field) for field in fields}
        if "specs" in wanted:
            self._commands = commands_of(controller, [job for job in jobs if self._call.owns(job.user)])
        if "attempts" in wanted:
            ended = [job.id for job in jobs if job.state in FINAL and job.attempt]
            kept = controller.board.ended
            known = {id: attempt for id in ended if id in kept and (attempt := kept[id].attempt) is not None}
            self._attempts = known | latest_attempts(controller, [id for id in ended if id not in known])

    def rows(self, jobs: Sequence[Job], fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """The values of these fields, one tuple for each job."""
        self.prepare(jobs, fields)
        return list(zip(*(map(self.getters[field], jobs) for field in fields), strict=True))

    def item(self, job: Job) -> dict[str, Any]:
        """A job as DESIGN section 7 has it; an array also has 'elements'."""
        shown = {field: getter(job) for field, getter in self.getters.items() if field not in _ASKED_FOR}
        if job.array is None:
            del shown["elements"]
        return shown

    def state(self, job: Job) -> JobState:
        return job.state if job.array is None else shown_state(self._call.controller, job)

    def reason(self, job: Job) -> dict[str, str] | None:
        if self.state(job) is not JobState.QUEUED:
            return None
        reason = self._reason(job)
        try:
            return self._reasons[reason]
        except KeyError:
            shown = self._reasons[reason] = show_reason(reason)
            return shown

    def expected_start(self, job: Job) -> dict[str, Any] | None:
        return show_start(self._start(job) if job.state is JobState.QUEUED else None)

    def nodes(self, job: Job) -> list[dict[str, Any]]:
        """Where it runs, or ran last; empty while it waits."""
        if job.state is JobState.QUEUED:
            return []
        attempt = self._attempts.get(job.id) if job.state in FINAL else self._view.attempt_of(job.id)
        return [] if attempt is None else show_ranks(attempt)

    def elements(self, job: Job) -> dict[str, Any] | None:
        if job.array is None:
            return None
        return {"size": job.array.size, "counts": self.counts(job)}

    def counts(self, job: Job) -> dict[str, int]:
        """How many elements of an array are in each state."""
        return {state.value: n for state, n in element_counts(self._call, job).items() if n}

    def cause(self, job: Job) -> dict[str, str] | None:
        if job.cause is None:
            return None
        return show_cause(job.cause, self._call.owns(job.user))

    def command(self, job: Job) -> list[str] | None:
        known = self._commands.get(job.id)
        return None if known is None else list(known[0])

    def cwd(self, job: Job) -> str | None:
        known = self._commands.get(job.id)
        return None if known is None else known[1]

    def time(self, wall: float | None) -> str | None:
        """Jobs submitted together share their times: formatting each once is half the cost of a long list."""
        try:
            return self._times[wall]
        except KeyError:
            shown = self._times[wall] = format_time(wall)
            return shown


def element_counts(call: Call, array: Job) -> Mapping[JobState, int]:
    """Elements by state, of an array that lives or has ended."""
    known = call.controller.board.elements(array.id)
    if known is not None:
        return known
    return arrays.with_unmade(array, stored_jobs.element_counts(call.controller.store.reader, array.id))


def show_reason(reason: WaitReason | None) -> dict[str, str] | None:
    return None if reason is None else {"code": reason.code.value, "text": reason.text}


def show_start(start: Start | None) -> dict[str, Any] | None:
    """by_limits: it is no later than that, for time limits alone say so; else predictions have a part in it."""
    return None if start is None else {"at": format_time(start.at), "by_limits": start.bounded}


def show_cause(cause: Cause | None, owner: bool) -> dict[str, str] | None:
    """The text may quote paths and commands, which only the owner sees; the code says the kind to everyone."""
    if cause is None:
        return None
    return {"code": cause.code.value, "text": cause.text if owner else cause.code.value.replace("_", " ")}


def show_ranks(attempt: Attempt) -> list[dict[str, Any]]:
    return [{"node": rank.node, "gpus": list(rank.gpus)} for rank in attempt.ranks]


def show_rank_ends(attempt: Attempt) -> list[dict[str, Any]]:
    """How far each rank has come, in rank order; exit code and signal are null until it has ended."""
    return [
        {
            "node": rank.node,
            "phase": rank.phase.value,
            "exit_code": None if rank.exit is None else rank.exit.exit_code,
            "signal": None if rank.exit is None else rank.exit.signal,
            "stopped": None if rank.exit is None or rank.exit.stopped is None else rank.exit.stopped.value,
        }
        for rank in attempt.ranks
    ]


def show_attempt(attempt: Attempt, log_bytes: int | None, owner: bool, now: float) -> dict[str, Any]:
    """One run of a job; now is wall time. Exit code and signal are those of the rank that says why it ended."""
    told = telling_rank(attempt).exit
    started = [rank.started_at for rank in attempt.ranks if rank.started_at is not None]
    return {
        "number": attempt.number,
        "uid": attempt.uid,
        "nodes": show_ranks(attempt),
        "ranks": show_rank_ends(attempt),
        "granted_at": format_time(attempt.granted_at),
        "started_at": format_time(min(started, default=None)),
        "ended_at": format_time(attempt.ended_at),
        "stop": None
        if attempt.stop is None
        else {"kind": attempt.stop.kind.value, "by": attempt.stop.by, "text": attempt.stop.text},
        "exit_code": None if told is None else told.exit_code,
        "signal": None if told is None else told.signal,
        "cause": show_cause(attempt.cause, owner),
        "log_bytes": log_bytes,
        "gpu_usage": _show_usage(attempt, now),
    }


def _show_usage(attempt: Attempt, now: float) -> dict[str, Any] | None:
    """What an attempt made of its GPUs, None without any. Beyond GPU-hours it is known from the end on.

    Of several ranks the mean, each with the weight of its GPUs; peaks are of one GPU.
    """
    gpus = sum(len(rank.gpus) for rank in attempt.ranks)
    if not gpus:
        return None
    until = now if attempt.ended_at is None else attempt.ended_at
    receipts = [(len(r.gpus), r.exit.gpu_receipt) for r in attempt.ranks if r.exit is not None and r.exit.gpu_receipt]
    peaks = [receipt.memory_peak_bytes for _, receipt in receipts if receipt.memory_peak_bytes is not None]
    energies = [receipt.energy_joules for _, receipt in receipts if receipt.energy_joules is not None]
    weights = [n * receipt.observed_seconds for n, receipt in receipts]
    busy = [(n * r.observed_seconds, r.utilization_percent) for n, r in receipts if r.utilization_percent is not None]
    weight = sum(w for w, _ in busy)
    return {
        "gpus": gpus,
        "gpu_hours": round(gpus * max(0.0, until - attempt.granted_at) / 3600, 4),
        "observed_seconds": round(sum(weights) / gpus, 1) if receipts else None,
        "idle_seconds": round(sum(n * r.idle_seconds for n, r in receipts) / gpus, 1) if receipts else None,
        "utilization_percent": round(sum(w * percent for w, percent in busy) / weight, 1) if weight else None,
        "memory_peak_bytes": max(peaks, default=None),
        "energy_joules": round(sum(energies)) if energies else None,
        "curves": [
            {
                "node": rank.node,
                "point_seconds": known.point_seconds,
                "busy_percent": list(known.busy_percent),
                "memory_mib": list(known.memory_mib),
            }
            for rank in attempt.ranks
            if rank.exit is not None and (known := rank.exit.gpu_receipt) is not None
        ],
    }


def show_node(call: Call, node: Node) -> dict[str, Any]:
    """A node as DESIGN section 7 has it. What has not been reported is null, never zero."""
    controller = call.controller
    inventory = node.inventory
    sample = controller.sample(node.name) or NodeSample()
    readings = {reading.index: reading for reading in sample.gpus}
    holders = _holders(call, node.name)
    return {
        "name": node.name,
        "state": controller.view.node_state(node.name).value,
        "cordoned": node.cordoned,
        "draining": node.draining,
        "cordon_text": node.cordon_text,
        "simulated": inventory.simulated if inventory else False,
        "gpus": [
            _show_gpu(gpu, readings.get(gpu.index), holders[gpu.index]) for gpu in (inventory.gpus if inventory else ())
        ],
        "jobs": [attempt.job for attempt in controller.view.attempts_on(node.name)],
        "gpu_note": inventory.gpu_note if inventory else "",
        "trouble": inventory.trouble if inventory else "",
        "enforced": _show_enforced(inventory.enforced if inventory else NOTHING),
        "cpus": inventory.cpus if inventory else None,
        "cpu_percent": sample.cpu_percent,
        "memory_total_bytes": inventory.memory_total_bytes if inventory else None,
        "memory_used_bytes": sample.memory_used_bytes,
        "disk_total_bytes": sample.disk_total_bytes,
        "disk_used_bytes": sample.disk_used_bytes,
        "agent_version": inventory.agent_version if inventory else None,
        "last_seen_at": format_time(controller.last_seen(node.name)),
    }


def _show_enforced(enforced: Enforced) -> dict[str, Any]:
    """Whether jobs are held to what they reserve there, by which version of control groups, and why if not."""
    return {
        "cgroup": enforced.cgroup,
        "memory": enforced.memory,
        "cpus": enforced.cpus,
        "processes": enforced.processes,
        "note": enforced.note,
    }


def show_limits(call: Call, attempt: Attempt) -> list[dict[str, Any]]:
    """Whether each rank of an attempt is held to what it reserved, by its node's word; null where it reserved none."""
    nodes = call.controller.view.nodes
    shown = []
    for rank in attempt.ranks:
        node = nodes.get(rank.node)
        known = NOTHING if node is None or node.inventory is None else node.inventory.enforced
        memory = known.memory if rank.memory_bytes else None
        cpus = known.cpus if rank.cpus else None
        shown.append({"node": rank.node, "memory": memory, "cpus": cpus, "note": known.note})
    return shown


def show_overuse(call: Call, attempt: Attempt) -> list[dict[str, Any]]:
    """Which ranks of an attempt use more memory of a GPU than their share now, by their nodes' word."""
    shown = []
    for place in attempt.ranks:
        over = call.controller.overuse(place.node, attempt.uid)
        rank = None if over is None else beyond(attempt, place.node, over)
        if over is not None and rank is not None:
            shown.append(
                {
                    "node": rank.node,
                    "gpu": over.gpu,
                    "used_bytes": over.used_bytes,
                    "share_bytes": rank.gpu_share_bytes,
                    "seconds": round(over.seconds, 1),
                    "stopped_after_seconds": stopped_after(call.controller.view.settings.cluster),
                }
            )
    return shown


def show_sample(call: Call, node: Node) -> list[Any]:
    """What a sample says of a node, without names: a thousand nodes send one each every few seconds."""
    sample = call.controller.sample(node.name) or NodeSample()
    readings = {reading.index: reading for reading in sample.gpus}
    return [
        node.name,
        sample.cpu_percent,
        sample.memory_used_bytes,
        sample.disk_used_bytes,
        format_time(call.controller.last_seen(node.name)),
        [_show_reading(readings.get(gpu.index)) for gpu in (node.inventory.gpus if node.inventory else ())],
    ]


def _show_reading(reading: GpuSample | None) -> list[Any]:
    if reading is None:
        return [None] * 4
    return [reading.utilization_percent, reading.memory_used_bytes, reading.temperature_c, reading.power_w]


def _holders(call: Call, name: NodeName) -> Mapping[int, list[str]]:
    """Ids of the jobs on each GPU of a node."""
    holders: defaultdict[int, list[str]] = defaultdict(list)
    for attempt in call.controller.view.attempts_on(name):
        for rank in attempt.ranks:
            if rank.node == name:
                for index in rank.gpus:
                    holders[index].append(attempt.job)
    return holders


def _show_gpu(gpu: Gpu, reading: GpuSample | None, jobs: list[str]) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_total_bytes": gpu.memory_total_bytes,
        "memory_used_bytes": reading.memory_used_bytes if reading else None,
        "utilization_percent": reading.utilization_percent if reading else None,
        "temperature_c": reading.temperature_c if reading else None,
        "power_w": reading.power_w if reading else None,
        "health": gpu.health.value,
        "health_text": gpu.health_text,
        "foreign": _show_foreign(gpu.foreign),
        "fault": gpu.fault != 0,
        "jobs": jobs,
    }


def show_node_in_detail(call: Call, node: Node) -> dict[str, Any]:
    """A node with all that was read of its GPUs, which is too much to send of every node to every dashboard."""
    shown = show_node(call, node)
    sample = call.controller.sample(node.name) or NodeSample()
    readings = {reading.index: reading for reading in sample.gpus}
    for gpu in shown["gpus"]:
        gpu |= _show_details(readings.get(gpu["index"]))
    return shown


def _show_details(reading: GpuSample | None) -> dict[str, Any]:
    return {
        "clock_mhz": reading.clock_mhz if reading else None,
        "memory_clock_mhz": reading.memory_clock_mhz if reading else None,
        "throttled": list(reading.throttled) if reading and reading.throttled is not None else None,
        "ecc_corrected": reading.ecc_corrected if reading else None,
        "ecc_uncorrected": reading.ecc_uncorrected if reading else None,
        "rows_remapped": reading.rows_remapped if reading else None,
        "remap_pending": reading.remap_pending if reading else None,
        "remap_failed": reading.remap_failed if reading else None,
        "xid": reading.xid if reading else None,
        "processes": [_show_process(process) for process in reading.processes] if reading else [],
    }


def _show_process(process: GpuProcess) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "user": process.user,
        "command": process.command,
        "job": process.job,
        "memory_used_bytes": process.memory_used_bytes,
    }


def _show_foreign(use: ForeignUse | None) -> dict[str, Any] | None:
    if use is None:
        return None
    return {
        "since": format_time(use.since),
        "pid": use.pid,
        "user": use.user,
        "command": use.command,
        "job": use.job,
        "memory_used_bytes": use.memory_used_bytes,
    }


def show_event(call: Call, event: Event) -> dict[str, Any]:
    """An event's id is text, as all ids are, and the place in the stream to go on from.

    What is said of a job may quote its command, so only its owner and admins read the text.
    """
    said = event.event
    hidden = said.job is not None and not call.owns(said.user or "")
    return {
        "id": str(event.id),
        "at": format_time(said.at),
        "kind": said.kind,
        "text": "" if hidden else said.text,
        "job": said.job,
        "attempt": said.attempt,
        "node": said.node,
        "user": said.user,
        "address": said.address if call.actor.admin else None,
    }
