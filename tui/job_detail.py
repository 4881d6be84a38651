"""Everything about one job: what it asked for, why it waits node by node, where it runs, and what happened to it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuq.errors import NotFound
from gpuq.states import FINAL
from gpuq.units import plural
from tui.columns import how_it_ended
from tui.elements import element_lines, of_array
from tui.fields import Row, field, table
from tui.gpu_cells import memory_share
from tui.job_row import JobRow
from tui.line_pane import BLANK, Line, LinePane, Span, heading, line
from tui.node_detail import history
from tui.pane import Subject
from tui.spark import HOUR_SECONDS, bar, sparkline
from tui.store import Dirty, Store
from tui.text import HELD, UNKNOWN, clip, clock, duration, letter_of, reason_text, safe, seconds_of, size
from tui.theme import state_role

ASK_SECONDS = 5.0  # between two questions about a job that waits: what it waits for changes without it
LEAST_SECONDS = 1.0  # between two questions about an array: its elements may end many times a second
SETTLE_SECONDS = 0.15  # the cursor may be on its way past this job
EVENTS = 50
_NODES = 12  # in the table of why it waits; nodes with the same words share a line
_GPU_NODES = 8
_FINAL = frozenset(state.value for state in FINAL)
# What no node can change: a table of nodes that fit would contradict the reason.
_NOT_OF_NODES = frozenset({"held", "dependency", "begin", "backoff", "array_limit", "quota", "preempting"})
_WIDE = 96


@dataclass(frozen=True)
class Fetched:
    """What was asked of the controller about one job."""

    job: Mapping[str, Any]  # GET /jobs/{id}
    why: Mapping[str, Any] | None  # GET /jobs/{id}/why, while it waits
    events: Sequence[Mapping[str, Any]]  # oldest first
    elements: Sequence[JobRow] = ()  # of an array, some: see elements.py


def job_detail(store: Store, id: str, fetched: Fetched | None, width: int) -> list[Line]:
    """All lines. What the store knows shows at once, the rest when it is here."""
    row = present(store, id, fetched)
    if row is None:
        return [line((f"job {safe(id)}: asking the controller", "dim"))]
    lines = [*_head(store, row, width)]
    if row.state == "QUEUED":
        lines += [BLANK, *_why(row, fetched, width)]
    if row.nodes and row.state not in _FINAL:
        lines += [BLANK, *_use(store, row, width)]
        if fetched is not None:
            lines += [_overuse(over) for over in fetched.job.get("overuse", ())]
    if fetched is not None and fetched.elements:
        lines += [BLANK, *element_lines(row, fetched.elements, store.now(), width)]
    lines += [BLANK, *_facts(row, fetched, width)]
    if fetched is not None and fetched.job["attempts"]:
        lines += [BLANK, *_attempts(fetched.job["attempts"], width)]
    return [*lines, BLANK, *history(None if fetched is None else fetched.events, Subject("job", row.id))]


def present(store: Store, id: str, fetched: Fetched | None) -> JobRow | None:
    """The job as last told of: its row, or for an element of an array, which has none, what was fetched."""
    row = store.jobs.get(id)
    if row is None and fetched is not None:
        row = JobRow._make(fetched.job.get(name) for name in JobRow._fields)
    return row


def _head(store: Store, row: JobRow, width: int) -> Iterator[Line]:
    letter = letter_of(row)
    state = "HELD" if letter == HELD else row.state
    name = clip(f"{row.id}  {safe(row.name)}", max(12, width - 40))  # its state must not be pushed off the screen
    yield line(
        (f"{name}  ", "bold"), (f"{letter} {state}", state_role(letter)), f"  {_span(store, row)}"
    )  # fmt: skip
    if row.state in _FINAL and row.state != "SUCCEEDED":
        yield line((f"  {safe(how_it_ended(row))}", "bad" if row.state == "FAILED" else "dim"))
    if row.state == "LOST":
        yield line(("  its node is silent: the job may be alive there", "bad"))
    if row.elements is not None:
        counts = ", ".join(f"{n:,} {state.lower()}" for state, n in row.elements["counts"].items() if n)
        yield line(f"  {row.elements['size']:,} elements: {counts}")


def _span(store: Store, row: JobRow) -> str:
    """How long it waits, runs or ran. Of an array only its submit is known: each element has a time of its own."""
    submitted, started, finished = (seconds_of(at) for at in (row.submitted_at, row.started_at, row.finished_at))
    until = store.now() if finished is None else finished
    if row.elements is not None:
        return "" if submitted is None else f"{'after' if finished else 'for'} {duration(until - submitted)}"
    if row.state == "QUEUED" or started is None:
        return "" if submitted is None else f"waited {duration(until - submitted)}"
    text = f"{'ran' if finished else 'for'} {duration(until - started)}"
    if row.time_limit_seconds is not None and not finished:
        text += f" of {duration(row.time_limit_seconds)}"
    return text


# ---------------------------------------------------------------- why it waits


def _why(row: JobRow, fetched: Fetched | None, width: int) -> Iterator[Line]:
    why = None if fetched is None else fetched.why
    reason = why["reason"] if why is not None else row.reason
    yield heading("WHY IT WAITS")
    yield from field("", _reason(reason), width, "warn")
    if why is None:
        yield line(("  asking about each node", "dim"))
    elif why["nodes"] and reason is not None and reason["code"] not in _NOT_OF_NODES:
        yield from table(["NODES", "FITS", "WHY NOT"], _node_rows(why["nodes"]), width)


def _reason(reason: Mapping[str, str] | None) -> str:
    return "its elements wait, each for reasons of its own" if reason is None else reason_text(reason)


def _node_rows(nodes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Nodes with the same words together; those that fit first, then those alone with what they lack."""
    alike: dict[tuple[bool, str], list[str]] = {}
    for node in nodes:
        alike.setdefault((not node["fits"], node["text"]), []).append(node["node"])
    ordered = sorted(alike.items(), key=lambda item: (item[0][0], len(item[1])))
    rows = [
        Row([_some(names), ("no", "warn") if unfit else ("yes", "good"), text or "-"], Subject("node", names[0]))
        for (unfit, text), names in ordered[:_NODES]
    ]
    if more := sum(len(names) for _, names in ordered[_NODES:]):
        rows.append(Row([f"and {more:,} more", ("no", "dim"), ("each for a reason of its own", "dim")]))
    return rows


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2:,} more"


# ---------------------------------------------------------------- what it does


def _use(store: Store, row: JobRow, width: int) -> Iterator[Line]:
    """What its GPUs do, node by node."""
    started = seconds_of(row.started_at)
    ran = HOUR_SECONDS if started is None else store.now() - started
    seconds = store.history.span(store.now(), min(HOUR_SECONDS, ran))
    places = [(node["node"], index) for node in row.nodes for index in node["gpus"]]
    if not places:
        yield heading("RUNS ON", ", ".join(safe(node["node"]) for node in row.nodes[:_GPU_NODES]) + "  without GPUs")
        return
    cells = max(10, min(60, width - 24))
    span = f"last {seconds / 60:.0f} min"
    yield heading("GPU USE", f"{len(places)} {plural(len(places), 'GPU')}, {span}")
    yield line("  all   ", (sparkline(store.history.gpus(places, cells, store.now(), seconds)), "good"))
    titles = [
        "NODE",
        "GPU",
        "UTIL",
        *([""] if width >= _WIDE else []),
        "MEMORY",
        *([""] if width >= _WIDE else []),
        "TEMP",
    ]
    rows = [made for node in row.nodes[:_GPU_NODES] for made in _gpu_rows(store, node, width >= _WIDE)]
    yield from table(titles, rows, width, right=("GPU", "UTIL", "MEMORY", "TEMP"))
    if len(row.nodes) > _GPU_NODES:
        yield line((f"and {len(row.nodes) - _GPU_NODES} more nodes", "dim"))


def _overuse(over: Mapping[str, Any]) -> Line:
    """A rank beyond its share of a GPU, and what becomes of it."""
    text = f"uses {size(over['used_bytes'])} of GPU {over['gpu']} of {safe(over['node'])}"
    text += f", asked for {size(over['share_bytes'])}"
    end = over["stopped_after_seconds"]
    return line((text if end is None else f"{text}: stopped after {duration(end)} of that", "bad"))


def _gpu_rows(store: Store, place: Mapping[str, Any], wide: bool) -> Iterator[Row]:
    node = store.nodes.get(place["node"])
    known = {gpu["index"]: gpu for gpu in node["gpus"]} if node is not None and node["state"] == "up" else {}
    for index in place["gpus"]:
        gpu = known.get(index)
        subject = Subject("node", place["node"])
        if gpu is None:
            yield Row(
                [
                    place["node"],
                    str(index),
                    UNKNOWN,
                    *([""] if wide else []),
                    UNKNOWN,
                    *([""] if wide else []),
                    UNKNOWN,
                ],
                subject,
            )
            continue
        util, celsius = gpu["utilization_percent"], gpu["temperature_c"]
        cells: list[Span] = [place["node"], str(index), UNKNOWN if util is None else f"{util}%"]
        cells += [bar(None if util is None else util / 100, 18)] if wide else []
        cells.append(f"{size(gpu['memory_used_bytes'])}/{size(gpu['memory_total_bytes'])}")
        cells += [bar(memory_share(gpu), 18)] if wide else []
        cells.append(UNKNOWN if celsius is None else f"{celsius} °C")
        yield Row(cells, subject)


# ---------------------------------------------------------------- what it is


def _facts(row: JobRow, fetched: Fetched | None, width: int) -> Iterator[Line]:
    yield heading("JOB", "" if fetched is not None else "asking the controller")
    yield from field("User", row.user, width)
    yield from field("Queue", f"{row.queue}, priority {row.priority}", width)
    if fetched is None:
        yield from field("GPUs", str(row.gpus), width)
    else:
        for label, value in _fetched_facts(fetched.job):
            yield from field(label, value, width)
    for label, time in (("Submitted", row.submitted_at), ("Started", row.started_at), ("Finished", row.finished_at)):
        at = seconds_of(time)
        if time is not None and at is not None:
            yield from field(label, _moment(time), width)


def _fetched_facts(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if job["array"]:
        yield "Array", f"{job['array']['text']}, {job['array']['size']:,} elements"
    if job["held_by"]:
        yield "Held by", job["held_by"]
    yield "Command", _command(job)
    if job["cwd"] is not None:
        yield "Folder", job["cwd"]
    yield "Asks for", _request(job["request"])
    if job["begin_at"]:
        yield "Not before", _moment(job["begin_at"])
    if job["dependencies"]:
        yield "After", ", ".join(f"{d['kind']}:{d['job']}" for d in job["dependencies"])
    yield "Time limit", "none" if job["time_limit_seconds"] is None else duration(job["time_limit_seconds"])
    yield (
        "Retries",
        f"{job['retries_used']} of {job['max_retries']} for its own failures, {job['losses_used']} for lost nodes",
    )
    then = "it runs again elsewhere" if job["requeue"] else "it fails"
    waits = "it stays there" if job["on_lost"] == "keep" else "it ends there after a while"
    yield "If silent", f"{waits} ({job['on_lost']}); once the node is known to be gone, {then}"
    if job["log_bytes"] is not None:
        yield "Log", f"{size(job['log_bytes'])}; l shows it"
    if job["comment"]:
        yield "Comment", job["comment"]


def _moment(time: str) -> str:
    at = seconds_of(time)
    return time if at is None else f"{time[:10]} {clock(at)}"


def _command(job: Mapping[str, Any]) -> str:
    if job["command"] is None:
        return "(only its owner and admins see it)"
    words = shlex.join(job["command"])
    return f"(script {job['name']}) {words}".rstrip() if job["script"] else words


def _request(request: Mapping[str, Any]) -> str:
    nodes, gpus = request["nodes"], request["gpus_per_node"]
    each = " on each" if nodes != 1 else ""
    parts = [f"{nodes} {plural(nodes, 'node')}"]
    if gpus:
        kind = f" {request['gpu_type']}" if request["gpu_type"] else ""
        least = f" of at least {size(request['gpu_memory_bytes'])}" if request["gpu_memory_bytes"] else ""
        parts.append(f"{gpus}{kind} {plural(gpus, 'GPU')}{least}{each}")
    if request["cpus"]:
        parts.append(f"{request['cpus']} {plural(request['cpus'], 'CPU')}{each}")
    if request["memory_bytes"]:
        parts.append(f"{size(request['memory_bytes'])} memory{each}")
    if request["only_nodes"]:
        parts.append(f"only on {', '.join(request['only_nodes'])}")
    if request["not_nodes"]:
        parts.append(f"not on {', '.join(request['not_nodes'])}")
    return ", ".join(parts)


def _attempts(attempts: Sequence[Mapping[str, Any]], width: int) -> Iterator[Line]:
    yield heading("ATTEMPTS", str(len(attempts)))
    rows = [Row(_attempt_cells(attempt), _first_node(attempt)) for attempt in reversed(attempts)]
    yield from table(["NO", "GRANTED", "RAN", "HOW", "LOG", "NODES"], rows, width, right=("NO", "RAN", "LOG"))


def _attempt_cells(attempt: Mapping[str, Any]) -> list[Span]:
    granted, started, ended = (seconds_of(attempt[at]) for at in ("granted_at", "started_at", "ended_at"))
    ran = duration(ended - started) if started is not None and ended is not None else "-"
    where = ", ".join(
        node["node"] + (f" ({','.join(map(str, node['gpus']))})" if node["gpus"] else "") for node in attempt["nodes"]
    )
    return [
        str(attempt["number"]),
        UNKNOWN if granted is None else clock(granted),
        ran,
        _how(attempt),
        size(attempt["log_bytes"]),
        where,
    ]


def _how(attempt: Mapping[str, Any]) -> str:
    if attempt["ended_at"] is None:
        return "live"
    cause = attempt["cause"]
    if cause is not None and cause["code"] not in ("exit_code", "signal"):
        return str(cause["text"] or cause["code"])
    if attempt["signal"] is not None:
        return f"signal {attempt['signal']}"
    return f"exit {attempt['exit_code']}" if attempt["exit_code"] else "done"


def _first_node(attempt: Mapping[str, Any]) -> Subject | None:
    return Subject("node", attempt["nodes"][0]["node"]) if attempt["nodes"] else None


class JobDetail(LinePane):
    CONTEXT = "job"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self._job = ""
        self._missing = ""  # the controller knows no job of this id
        self._fetched: Fetched | None = None
        self._asked_at = float("-inf")
        self._moved = False  # since it was asked

    def open(self, id: str) -> None:
        """It is about this job from now on."""
        if id != self._job:
            self._job, self._fetched = id, None
            self.begin()
            self._ask(SETTLE_SECONDS)
        self.shown()

    def tick(self, dirty: Dirty) -> None:
        row = present(self.store, self._job, self._fetched)
        moved = self._job in dirty.jobs or self._job.partition("_")[0] in dirty.jobs
        waits = row is None or row.state not in _FINAL
        since = self.store.clock() - self._asked_at
        least = LEAST_SECONDS if row is not None and row.elements is not None else 0.0
        self._moved |= moved
        due = (self._moved and since >= least) or dirty.all or (waits and since >= ASK_SECONDS)
        if self._job and self._job != self._missing and due:
            self._ask(0.0)
        super().tick(dirty)

    def _ask(self, after: float) -> None:
        self._asked_at, self._moved = self.store.clock(), False
        self.dashboard.work(self._fetch(self._job, after))

    async def _fetch(self, id: str, after: float) -> None:
        await asyncio.sleep(after)
        if id != self._job:
            return
        client = self.dashboard.client
        try:
            job = await client.get(f"/jobs/{id}")
        except NotFound:
            self._missing = id
            self.redraw()
            return
        row = present(self.store, id, Fetched(job, None, ()))
        elements = await of_array(client, row) if row is not None and row.elements is not None else ()
        events = await client.get("/events", {"job": id, "limit": EVENTS})
        why = await client.get(f"/jobs/{id}/why") if job["state"] == "QUEUED" else None
        if id == self._job:  # the answer may be to a question nobody has any more
            self._fetched = Fetched(job, why, events["items"], elements)
            self.redraw()

    def lines(self, width: int) -> list[Line]:
        if not self._job:
            return [line(("no job is chosen", "dim"))]
        if self._missing == self._job:
            return [line((f"there is no job {safe(self._job)}", "bad")), line(("q leads back", "dim"))]
        return job_detail(self.store, self._job, self._fetched, width)

    def do_log(self) -> None:
        """The job's; of an array, which has none, that of the element under the cursor."""
        under, row = self.under_cursor(), present(self.store, self._job, self._fetched)
        element = under is not None and under.kind == "job" and row is not None and row.elements is not None
        self.dashboard.open_log(under.id if element and under is not None else self._job)

    def subject(self) -> Subject | None:
        return Subject("job", self._job) if self._job else None

    def record(self) -> Any:
        return None if self._fetched is None else self._fetched.job

    def crumbs(self) -> str:
        return f"jobs > {safe(self._job)}"

    def hint(self) -> str:
        under = self.under_cursor()
        if under is None:
            return self._what_keys_do()
        return f"Enter opens {under.kind} {safe(under.id)}"

    def _what_keys_do(self) -> str:
        row = present(self.store, self._job, self._fetched)
        if row is None:
            return ""
        told = [] if row.elements is not None else ["l shows its log"]
        if self.dashboard.writable:
            told += [] if row.state in _FINAL else ["x cancels it"]
            told += ["S submits one like it"]
        return ", ".join(told)
