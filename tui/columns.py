"""The columns of the list of jobs, and what stands in them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tui.job_row import JobRow
from tui.table import Cell, Column
from tui.text import HELD, STATE_LETTER, UNKNOWN, letter_of, reason_text, seconds_of, span
from tui.theme import state_role

JOB_COLUMNS: tuple[Column, ...] = (
    Column("id", "ID", 8),
    Column("state", "S", 2),
    Column("name", "NAME", 16, grow=2),
    Column("user", "USER", 8, least=70),
    Column("queue", "QUEUE", 8, least=96),
    Column("gpu", "GPU", 4, right=True, least=46),
    Column("time", "TIME", 5, right=True, least=46),
    Column("where", "NODE / WHY", 16, least=58, grow=5),
    Column("priority", "PRIO", 5, right=True, least=130),
    Column("attempt", "TRY", 3, right=True, least=150),
    Column("submitted", "SUBMITTED", 9, right=True, least=150),
)
_WORK_FIRST = f"RSAELQDFC{UNKNOWN}"
_SHORT = {"SUCCEEDED": "done", "FAILED": "failed", "CANCELED": "canceled"}


def cells(row: JobRow, columns: Sequence[Column], now: float) -> list[Cell]:
    """now: wall seconds at the controller."""
    return [_CELLS[column.key](row, now) for column in columns]


def gone(key: str, columns: Sequence[Column]) -> list[Cell]:
    """Of a row that is still in its place, but nothing is known of its job any more."""
    return [(key if column.key == "id" else "", "dim") for column in columns]


def _state(row: JobRow, _now: float) -> Cell:
    letter = letter_of(row)
    return letter, state_role(letter)


def _name(row: JobRow, _now: float) -> Cell:
    return row.name if row.elements is None else f"{row.name} [{row.elements['size']:,}]"


def _time(row: JobRow, now: float) -> Cell:
    """How long it has waited, runs, or ran."""
    if row.state == "QUEUED" or row.started_at is None:
        since, until = row.submitted_at, row.finished_at
    else:
        since, until = row.started_at, row.finished_at
    begun, ended = seconds_of(since), seconds_of(until)
    text = span(None if begun is None else (now if ended is None else ended) - begun)
    return (text, "dim") if row.state == "QUEUED" or ended is not None else text


def _where(row: JobRow, _now: float) -> Cell:
    if row.finished_at is not None:
        return how_it_ended(row), "bad" if row.state == "FAILED" else "dim"
    if row.elements is not None:
        counts = row.elements["counts"]
        told = _elements(counts)
        return f"{told}  {reason_text(row.reason)}" if row.reason and counts.get("QUEUED") else told
    if row.state == "QUEUED":
        return (reason_text(row.reason) if row.reason else UNKNOWN), "held" if letter_of(row) == HELD else "warn"
    if row.state == "LOST":
        return f"silent: {_nodes(row)}", "bad"
    return _nodes(row)


def _elements(counts: Mapping[str, int]) -> str:
    """'R2 Q9,992 D6': what works, what waits, what ended, whichever the controller names first."""
    told = {STATE_LETTER.get(state, UNKNOWN): n for state, n in counts.items() if n}
    return " ".join(f"{letter}{told[letter]:,}" for letter in _WORK_FIRST if letter in told)


def _nodes(row: JobRow) -> str:
    if not row.nodes:
        return ""
    first = row.nodes[0]
    more = len(row.nodes) - 1
    gpus = ",".join(map(str, first["gpus"]))
    return f"{first['node']} +{more}" if more else f"{first['node']}:{gpus}" if gpus else str(first["node"])


def how_it_ended(row: JobRow) -> str:
    """'exit 137', 'signal 9', the cause in words, or where it was done."""
    cause = row.cause
    if cause is not None and cause["code"] not in ("exit_code", "signal"):
        return cause["text"] or cause["code"].replace("_", " ")
    if row.signal is not None:
        return f"signal {row.signal}"
    if row.exit_code:
        return f"exit {row.exit_code}"
    if row.elements is not None:
        return _elements(row.elements["counts"])
    return " ".join(word for word in (_SHORT.get(row.state, row.state.lower()), _nodes(row)) if word)


def _submitted(row: JobRow, now: float) -> Cell:
    since = seconds_of(row.submitted_at)
    return (f"{span(None if since is None else now - since)} ago", "dim")


_CELLS: Mapping[str, Callable[[JobRow, float], Cell]] = {
    "id": lambda row, now: row.id,
    "state": _state,
    "name": _name,
    "user": lambda row, now: row.user,
    "queue": lambda row, now: row.queue,
    "gpu": lambda row, now: str(row.gpus) if row.gpus else ("-", "dim"),
    "time": _time,
    "where": _where,
    "priority": lambda row, now: str(row.priority),
    "attempt": lambda row, now: str(row.attempt),
    "submitted": _submitted,
}
