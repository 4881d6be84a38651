"""What an action on jobs or nodes would do: which of them qualify, what would be lost, what is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from gpuq.units import plural
from tui.store import JobRow, You
from tui.text import duration, safe, seconds_of

LISTED = 6  # jobs named in a question; the others are counted
GRACE = "30 s unless set"  # gpuq/service/jobs.py; a list does not say what a job asked for
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})
_HOLDING = frozenset({"ALLOCATED", "STARTING", "RUNNING", "STOPPING", "LOST"})  # it holds its GPUs


class Verb(str, Enum):
    CANCEL = "cancel"
    KILL = "kill"
    REQUEUE = "requeue"
    HOLD = "hold"
    RELEASE = "release"
    PRIORITY = "priority"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"


NODE_VERBS = frozenset({Verb.CORDON, Verb.UNCORDON, Verb.DRAIN})
# Nothing is lost by these, and each has its opposite: to ask would only be in the way, unless it is of several.
_REVERSIBLE = frozenset({Verb.HOLD, Verb.RELEASE, Verb.PRIORITY, Verb.CORDON, Verb.UNCORDON})


class Request(NamedTuple):
    method: str
    path: str
    body: Mapping[str, Any]


class Proposal(NamedTuple):
    """What would be done. Without ids there is nothing to do, and `left_out` says why."""

    verb: Verb
    ids: tuple[str, ...]
    left_out: tuple[str, ...]  # one line for each that does not qualify
    lines: tuple[str, ...]  # what it is about, and what will be lost
    requests: tuple[Request, ...]
    asks: bool  # before it is done
    harmful: bool  # work is lost by it

    @property
    def title(self) -> str:
        return f"{self.verb.value.capitalize()} {self._what()}"

    @property
    def yes(self) -> str:
        return f"Yes, {self.verb.value} {self._what()}"

    @property
    def typed(self) -> str:
        """What must be typed first: what no proof stands behind must not be one key away."""
        if self.verb is not Verb.KILL or not self.ids:
            return ""
        return self.ids[0] if len(self.ids) == 1 else f"{len(self.ids)} jobs"

    def _what(self) -> str:
        noun = "node" if self.verb in NODE_VERBS else "job"
        return f"{noun} {self.ids[0]}" if len(self.ids) == 1 else f"{len(self.ids):,} {noun}s"


def on_jobs(verb: Verb, rows: Sequence[JobRow], you: You, now: float, priority: int | None = None) -> Proposal:
    """The verb on these jobs, as they are at `now` (wall seconds). priority: for Verb.PRIORITY."""
    refusals = {row.id: _refusal(verb, row, you, priority) for row in rows}
    chosen = [row for row in rows if refusals[row.id] is None]
    ids = tuple(row.id for row in chosen)
    left_out = tuple(f"{id} {why}" for id, why in refusals.items() if why)
    harmful = verb is Verb.KILL or (verb in (Verb.CANCEL, Verb.REQUEUE) and bool(chosen))
    lines = _paragraphs(_losses(verb, chosen, now), _named(chosen, now), _listed(left_out, "left out: "))
    requests = _job_requests(verb, ids, priority)
    asks = harmful or verb not in _REVERSIBLE or len(ids) > 1
    return Proposal(verb, ids, left_out, lines, requests, asks, harmful)


def hold_or_release(rows: Iterable[JobRow]) -> Verb:
    """What `H` means for these: release if all that wait are held, else hold."""
    waiting = [row for row in rows if row.state == "QUEUED"]
    return Verb.RELEASE if waiting and all(map(is_held, waiting)) else Verb.HOLD


def cordon_or_uncordon(nodes: Iterable[Mapping[str, Any]]) -> Verb:
    """What `u` means for these: uncordon if all take no new work, else cordon."""
    known = list(nodes)
    return Verb.UNCORDON if known and all(map(_closed, known)) else Verb.CORDON


def on_nodes(verb: Verb, nodes: Sequence[Mapping[str, Any]], you: You, text: str = "") -> Proposal:
    """The verb on these nodes. text: why, shown beside them."""
    refusals = {node["name"]: _node_refusal(verb, node, you) for node in nodes}
    chosen = [node for node in nodes if refusals[node["name"]] is None]
    ids = tuple(node["name"] for node in chosen)
    left_out = tuple(f"{safe(name)} {why}" for name, why in refusals.items() if why)
    jobs = {job for node in chosen for gpu in node["gpus"] for job in gpu["jobs"]}
    follows = [f"No new work starts there; {_running_there(jobs)}."] if verb is not Verb.UNCORDON else []
    lines = _paragraphs(follows, _listed([_node_line(node) for node in chosen], ""), _listed(left_out, "left out: "))
    body = {} if verb is Verb.UNCORDON else {"text": text}
    requests = tuple(Request("POST", f"/nodes/{name}/{verb.value}", body) for name in ids)
    return Proposal(verb, ids, left_out, lines, requests, verb not in _REVERSIBLE or len(ids) > 1, harmful=False)


def outcome(proposal: Proposal, answers: Iterable[Mapping[str, Any] | None]) -> tuple[str, bool]:
    """What came of it, in one line, and whether something was refused. One answer for each request."""
    said = [item for answer in answers if answer and "items" in answer for item in answer["items"]]
    if not said:
        return f"{_DONE[proposal.verb]} {proposal._what()}", False
    refused = [item["text"] for item in said if item["outcome"] not in ("done", "already")]
    if len(said) == 1:
        return safe(said[0]["text"]), bool(refused)
    done = len(said) - len(refused)
    text = f"{_DONE[proposal.verb]} {done:,} {plural(done, 'job')}"
    return (f"{text}; {len(refused):,} refused: {safe(refused[0])}" if refused else text), bool(refused)


_DONE = {
    Verb.CANCEL: "canceled",
    Verb.KILL: "canceled by force",
    Verb.REQUEUE: "requeued",
    Verb.HOLD: "held",
    Verb.RELEASE: "released",
    Verb.PRIORITY: "changed the priority of",
    Verb.CORDON: "cordoned",
    Verb.UNCORDON: "uncordoned",
    Verb.DRAIN: "draining",
}


def is_held(row: JobRow) -> bool:
    return row.state == "QUEUED" and row.reason is not None and row.reason["code"] == "held"


def _refusal(verb: Verb, row: JobRow, you: You, priority: int | None) -> str | None:
    """Why the verb is nothing for this job; None if it is. The controller has the last word."""
    if you.role != "admin" and row.user != you.user:
        return f"belongs to {safe(row.user)}"
    if row.state in _FINAL:
        return f"has ended ({row.state}); S submits one like it"
    if verb is Verb.KILL and row.state != "LOST":
        return f"is {row.state}, and force is for LOST jobs; x cancels it"
    if verb is Verb.REQUEUE and row.state not in _HOLDING:
        return "waits already"
    if verb in (Verb.HOLD, Verb.RELEASE, Verb.PRIORITY) and row.state != "QUEUED":
        return f"is {row.state}, no longer waiting"
    if verb is Verb.HOLD and is_held(row):
        return "is held already"
    if verb is Verb.RELEASE and not is_held(row):
        return "is not held"
    if verb is Verb.PRIORITY and priority is not None and priority > row.priority and you.role != "admin":
        return f"has priority {row.priority}; only an admin may raise it"
    return None


def _job_requests(verb: Verb, ids: tuple[str, ...], priority: int | None) -> tuple[Request, ...]:
    if not ids:
        return ()
    if verb is Verb.PRIORITY:
        return tuple(Request("PATCH", f"/jobs/{id}", {"priority": priority}) for id in ids)
    body: dict[str, Any] = {"ids": list(ids)}
    if verb is Verb.KILL:
        return (Request("POST", "/jobs/cancel", body | {"force": True}),)
    return (Request("POST", f"/jobs/{verb.value}", body),)


def _named(rows: Sequence[JobRow], now: float) -> list[str]:
    """A line for each job: id, name, state and for how long, GPUs. The longest at work first: most is lost there."""
    ordered = sorted(rows, key=lambda row: -_gpu_seconds(row, now))
    return _listed([_job_line(row, now) for row in ordered], "")


def _job_line(row: JobRow, now: float) -> str:
    each = " each" if row.elements is not None else ""
    gpus = f"{row.gpus} {plural(row.gpus, 'GPU')}{each}" if row.gpus else "no GPU"
    return f"{row.id} {safe(row.name)[:40]}  {_standing(row, now)}  {gpus}"


def _standing(row: JobRow, now: float) -> str:
    if row.elements is not None:
        counts = row.elements["counts"]
        parts = [f"{counts[state]:,} {state.lower()}" for state in (*_HOLDING_ORDER, "QUEUED") if counts.get(state)]
        return ", ".join(parts) or row.state.lower()
    seconds = _running_seconds(row, now)
    return row.state.lower() if seconds is None else f"{row.state.lower()} {duration(seconds)}"


_HOLDING_ORDER = ("RUNNING", "STARTING", "ALLOCATED", "STOPPING", "LOST")


def _paragraphs(*groups: Sequence[str]) -> tuple[str, ...]:
    """The groups with an empty line between them; an empty group leaves none."""
    lines: list[str] = []
    for group in filter(None, groups):
        lines += ["", *group] if lines else group
    return tuple(lines)


def _listed(lines: Sequence[str], before: str) -> list[str]:
    more = len(lines) - LISTED
    shown = [f"{before}{line}" for line in lines[:LISTED]]
    return [*shown, f"{before}and {more:,} more"] if more > 0 else shown


def _losses(verb: Verb, rows: Sequence[JobRow], now: float) -> list[str]:
    """What will be lost, in words; nothing for verbs that lose nothing."""
    if verb not in (Verb.CANCEL, Verb.KILL, Verb.REQUEUE):
        return []
    live = sum(_at_work(row) for row in rows)
    if verb is Verb.KILL:
        return [
            "Its node is silent. Nobody knows whether its processes are gone;",
            "they may go on, and write where the next attempt or job writes.",
        ]
    lines = []
    if live:
        then = "" if verb is Verb.CANCEL else "; it begins anew when its turn comes"
        lines.append(f"{_work(rows, now)} of work will be lost{then}.")
        lines.append(f"{live:,} at work: SIGTERM, then SIGKILL after the grace ({GRACE}).")
    if waiting := _waiting(rows):
        lines.append(f"{waiting:,} waiting: out of the queue.")
    return lines


def _at_work(row: JobRow) -> int:
    """How many of it hold GPUs or processes: elements of an array count one each."""
    if row.elements is not None:
        return sum(row.elements["counts"].get(state, 0) for state in _HOLDING)
    return int(row.state in _HOLDING)


def _waiting(rows: Sequence[JobRow]) -> int:
    return sum(
        row.elements["counts"].get("QUEUED", 0) if row.elements is not None else row.state == "QUEUED" for row in rows
    )


def _work(rows: Sequence[JobRow], now: float) -> str:
    """'35.2 GPU-hours'; of jobs without a GPU the time they ran. Of arrays no element's own start is known."""
    most = "up to " if any(row.elements is not None for row in rows) else ""
    hours = sum(_gpu_seconds(row, now) for row in rows) / 3600
    if hours:
        return f"{most}{hours:,.0f} GPU-hours" if hours >= 100 else f"{most}{hours:.2g} GPU-hours"
    return f"{most}{duration(sum((_running_seconds(row, now) or 0) * _at_work(row) for row in rows))}"


def _gpu_seconds(row: JobRow, now: float) -> float:
    return row.gpus * (_running_seconds(row, now) or 0.0) * _at_work(row)


def _running_seconds(row: JobRow, now: float) -> float | None:
    """Since its process exists, of an array at most; None while it waits."""
    started = seconds_of(row.submitted_at if row.elements is not None and row.started_at is None else row.started_at)
    return max(0.0, now - started) if started is not None and row.state in _HOLDING else None


def _node_refusal(verb: Verb, node: Mapping[str, Any], you: You) -> str | None:
    if you.role != "admin":
        return "is an admin's to change"
    if verb is Verb.UNCORDON and not _closed(node):
        return "takes work already"
    if verb is Verb.CORDON and node["cordoned"]:
        return "is cordoned already"
    if verb is Verb.DRAIN and node["draining"]:
        return "is draining already"
    return None


def _closed(node: Mapping[str, Any]) -> bool:
    return bool(node["cordoned"] or node["draining"])


def _node_line(node: Mapping[str, Any]) -> str:
    busy = sum(bool(gpu["jobs"]) for gpu in node["gpus"])
    count = len(node["gpus"])
    return f"{safe(node['name'])}  {node['state']}  {busy} of {count} {plural(count, 'GPU')} in use"


def _running_there(jobs: set[str]) -> str:
    if not jobs:
        return "no job holds a GPU there"
    return f"{len(jobs)} {plural(len(jobs), 'job')} with GPUs there {'goes' if len(jobs) == 1 else 'go'} on to the end"
