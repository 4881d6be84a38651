"""The first view: how busy the cluster is, what needs attention, and how one's own jobs are doing."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpuq.units import plural
from tui.attention import BROKEN, WARNING, Finding, Watch
from tui.columns import how_it_ended
from tui.gpu_cells import Gathered, Standing, gather, watts
from tui.job_row import JobRow
from tui.line_pane import BLANK, Line, LinePane, Span, heading, line
from tui.pane import Subject
from tui.queues import waiting_by_reason
from tui.spark import HOUR_SECONDS, bar, sparkline
from tui.store import Dirty, Store
from tui.text import UNKNOWN, cell_width, clip, letter_of, pad, reason_text, safe, seconds_of, span
from tui.theme import state_role

LOOK_SECONDS = 2.0  # between two walks over all GPUs: 15 ms for 8,000
_MINE = 30  # of one's own jobs; view 2 has all
_QUEUES = 4
_NARROW, _WIDE = 60, 120
_ROLES = {BROKEN: "bad", WARNING: "warn"}
_ENDED_WELL = frozenset({"SUCCEEDED", "CANCELED"})


class Facts(NamedTuple):
    """What takes a walk over everything to know."""

    gpus: Gathered
    findings: list[Finding]
    mine: list[JobRow]  # that live or failed lately, at most _MINE
    mine_count: int


def look(store: Store, watch: Watch) -> Facts:
    you = store.you.user
    mine = [row for row in store.jobs.values() if row.user == you and row.state not in _ENDED_WELL]
    return Facts(gather(store.nodes.values()), watch.find(store), heapq.nlargest(_MINE, mine, _interest), len(mine))


def _interest(row: JobRow) -> tuple[int, str]:
    """What runs before what waits before what failed; the newest of each first. Times sort as the text they are."""
    if row.state == "QUEUED":
        return 1, row.submitted_at
    return (0, row.finished_at or "") if row.state == "FAILED" else (2, row.started_at or "")


def overview(store: Store, facts: Facts, width: int) -> list[Line]:
    """All lines of the view."""
    lines = [*_totals(store, facts.gpus, width), BLANK]
    if width >= _NARROW and store.tally.queues:
        lines += [*_queues(store, width), BLANK]
    lines += [*_attention(facts.findings, width), BLANK]
    lines += _mine(store, facts, width)
    return lines


# ---------------------------------------------------------------- totals


def _totals(store: Store, gpus: Gathered, width: int) -> Iterator[Line]:
    busy, wide = gpus.standings[Standing.BUSY], width >= _NARROW
    util = _percent(gpus.utilization_percent)
    if not gpus.gpus:
        yield line(("GPU   ", "dim"), "none yet")
    elif not wide:
        yield line(("GPU   ", "dim"), f"{busy:,} of {gpus.gpus:,} busy", ("  util ", "dim"), util)
    else:
        yield line(
            ("GPU   ", "dim"),
            f"{busy:,} of {gpus.gpus:,} busy {bar(busy / gpus.gpus, 12 if width < _WIDE else 32)}",
            *_labelled("memory", _memory(gpus)),
            *_labelled("hottest", f"{UNKNOWN if gpus.hottest_c is None else gpus.hottest_c} °C"),
            *_labelled("power", watts(gpus.power_w)),
        )
        seconds = store.history.span(store.now())
        past = sparkline(store.history.cluster(min(120, width - 26), store.now(), seconds))
        yield line(("util  ", "dim"), (past, "good"), f"  {util}", (f"  last {seconds / 60:.0f} min", "dim"))
    if other := list(_standings(gpus)):
        yield line("      ", *_joined(other))
    yield _nodes(store)
    yield _jobs(store, wide)


def _labelled(label: str, value: str) -> tuple[Span, Span]:
    return (f"  {label} ", "dim"), value


def _standings(gpus: Gathered) -> Iterator[tuple[str, str]]:
    """GPUs that are neither busy nor free, each kind by its word."""
    for stands, role in (
        (Standing.FREE, ""),
        (Standing.CLOSED, "dim"),
        (Standing.FOREIGN, "warn"),
        (Standing.QUARANTINED, "bad"),
        (Standing.UNKNOWN, "warn"),
        (Standing.SILENT, "warn"),
        (Standing.LOST, "bad"),
    ):
        if n := gpus.standings[stands]:
            yield f"{n:,} {stands.value}", role


def _nodes(store: Store) -> Line:
    states: dict[str, int] = {}
    closed = 0
    for node in store.nodes.values():
        states[node["state"]] = states.get(node["state"], 0) + 1
        closed += bool(node["cordoned"] or node["draining"])
    spans = [(f"{states.get('up', 0):,} up", "")]
    for state, role in (("suspect", "warn"), ("lost", "bad")):
        if states.get(state):
            spans.append((f"{states[state]:,} {state.upper()}", role))
    if closed:
        spans.append((f"{closed:,} take no work", "dim"))
    return line(("nodes ", "dim"), *_joined(spans))


def _jobs(store: Store, wide: bool) -> Line:
    counts = store.counts
    ended = ("SUCCEEDED", "FAILED", "CANCELED")
    active = sum(n for state, n in counts.items() if state not in (*ended, "QUEUED"))
    spans = [(f"{active:,} active", "good" if active else ""), (f"{counts.get('QUEUED', 0):,} queued", "")]
    if lost := counts.get("LOST", 0):
        spans.append((f"{lost:,} LOST", "bad"))
    if wide:
        failed = counts.get("FAILED", 0)
        spans += [("24 h:", "dim"), (f"{counts.get('SUCCEEDED', 0):,} done", "dim")]
        spans += [(f"{failed:,} failed", "bad" if failed else "dim")]
        spans += [(f"{counts.get('CANCELED', 0):,} canceled", "dim")]
    return line(("jobs  ", "dim"), *_joined(spans))


def _joined(spans: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for at, (text, role) in enumerate(spans):
        yield ("  " if at else "") + text, role


def _memory(gpus: Gathered) -> str:
    used, total = gpus.memory_used_bytes, gpus.memory_total_bytes
    return UNKNOWN if used is None or not total else _percent(100 * used / total)


def _percent(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return "<1%" if 0 < value < 0.5 else f"{value:.0f}%"  # in use, be it little: nobody asks who holds nothing


# ---------------------------------------------------------------- queues


def _queues(store: Store, width: int) -> Iterator[Line]:
    ordered = sorted(store.tally.queues.items(), key=lambda item: (-item[1].gpus_used, -item[1].queued, item[0]))
    live = [(name, tally) for name, tally in ordered if tally.active or tally.queued]
    name_width = max(12, min(28, width - 66))
    head = f"{pad('QUEUE', name_width)} {'ACTIVE':>8} {'QUEUED':>9} {'GPUS USED':>10}   WAITS FOR"
    yield line((pad(head, width), "bold"))
    total = len(live)
    if not live:
        yield line(("no job is live", "dim"))
    for name, tally in live[:_QUEUES]:
        figures = f"{tally.active:>8,} {tally.queued:>9,} {tally.gpus_used:>10,}"
        reasons = clip(waiting_by_reason(tally), max(0, width - name_width - 33))
        yield line(f"{pad(safe(name), name_width)} {figures}   ", (reasons, "dim"), subject=Subject("queue", name))
    if total > _QUEUES:
        yield line((f"and {total - _QUEUES} more: 5 shows all", "dim"))


# ---------------------------------------------------------------- attention, my jobs


def _attention(findings: list[Finding], width: int) -> Iterator[Line]:
    urgent = sum(finding.level in (BROKEN, WARNING) for finding in findings)
    yield heading("ATTENTION", "" if urgent else "nothing urgent" if findings else "nothing needs any")
    names = min(20, max((cell_width(safe(f.id)) for f in findings), default=0))
    for found in findings:
        who = pad(safe(found.id), names)
        text = clip(safe(found.text), width - names - 5)
        subject = Subject(found.kind, found.id) if found.id else None
        yield line((found.level, _ROLES.get(found.level, "dim")), f" {who}  ", text, subject=subject)


def _mine(store: Store, facts: Facts, width: int) -> Iterator[Line]:
    counts = store.tally.states.get(store.you.user)
    said = []
    if counts is not None:
        active = sum(n for state, n in counts.items() if state not in (*_ENDED_WELL, "QUEUED", "FAILED"))
        said = [f"{active:,} active", f"{counts['QUEUED']:,} queued"]
        said += [f"{counts['FAILED']:,} failed in 24 h"] if counts["FAILED"] else []
    yield heading("MY JOBS", "  ".join(said) if facts.mine else "none; s submits one")
    rows = [store.jobs.get(row.id, row) for row in facts.mine]
    names = min(max(8, width // 3), max((cell_width(safe(row.name)) for row in rows), default=0))
    for row in rows:
        yield _my_job(store, row, names, width)
    if facts.mine_count > len(rows):
        yield line((f"and {facts.mine_count - len(rows):,} more: 2, then m, shows all", "dim"))


def _my_job(store: Store, row: JobRow, names: int, width: int) -> Line:
    letter = letter_of(row)
    room = max(0, width - names - 22)
    role = {"FAILED": "bad", "LOST": "bad", "QUEUED": "warn"}.get(row.state, "")
    return line(
        f"{pad(row.id, 9)} ",
        (letter, state_role(letter)),
        f"  {pad(safe(row.name), names)}  {pad(_time(store, row), 5, right=True)}  ",
        (clip(_standing(store, row, room), room), role),
        subject=Subject("job", row.id),
    )


def _time(store: Store, row: JobRow) -> str:
    """How long it has waited or run; of one that failed, how long ago that was."""
    since = seconds_of(row.finished_at or row.started_at or row.submitted_at)
    return span(None if since is None else store.now() - since)


def _standing(store: Store, row: JobRow, room: int) -> str:
    """Why it waits, how it failed, or where it runs and how busy its GPUs are."""
    if row.state == "FAILED":
        return f"ago: {safe(how_it_ended(row))}"
    if row.elements is not None:
        counts = row.elements["counts"]
        return ", ".join(f"{n:,} {state.lower()}" for state, n in counts.items() if n)
    if row.state == "QUEUED":
        return safe(reason_text(row.reason)) if row.reason else UNKNOWN
    where = ",".join(safe(node["node"]) for node in row.nodes[:3]) + ("+" if len(row.nodes) > 3 else "")
    if row.state == "LOST":
        return f"silent: {where}"
    text = f"{row.gpus} {plural(row.gpus, 'GPU')}  {where or row.state.lower()}"
    places = [(node["node"], index) for node in row.nodes for index in node["gpus"]]
    started, cells = seconds_of(row.started_at), min(30, room - cell_width(text) - 2)
    if places and started is not None and cells > 12:
        seconds = store.history.span(store.now(), min(HOUR_SECONDS, store.now() - started))
        text += f"  {sparkline(store.history.gpus(places, cells, store.now(), seconds)).strip()}"
    return text


class Overview(LinePane):
    CONTEXT = "overview"

    def __init__(self, store: Store, *, id: str | None = None) -> None:
        super().__init__(store, id=id)
        self._watch = Watch()
        self._facts: Facts | None = None
        self._looked_at = float("-inf")
        self._stale = True

    def lines(self, width: int) -> list[Line]:
        if not self.store.loaded:
            return [line(("waiting for the controller", "dim"))]
        if self._facts is None or (self._stale and self.store.clock() - self._looked_at >= LOOK_SECONDS):
            self._facts = look(self.store, self._watch)
            self._looked_at, self._stale = self.store.clock(), False
        return overview(self.store, self._facts, width)

    def shown(self) -> None:
        self._facts = None
        super().shown()

    def tick(self, dirty: Dirty) -> None:
        self._stale |= bool(dirty)
        super().tick(dirty)

    def record(self) -> Any:
        subject = self.subject()
        if subject is None:
            return None
        row = self.store.jobs.get(subject.id) if subject.kind == "job" else None
        return self.store.nodes.get(subject.id) if row is None else row._asdict()

    def hint(self) -> str:
        subject = self.subject()
        return "" if subject is None else f"Enter opens {subject.kind} {safe(subject.id)}"
