"""What somebody should look at, the worst first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gpuq.units import plural
from tui.gpu_cells import HOT_CELSIUS, Standing, standing
from tui.job_row import JobRow
from tui.spark import Place
from tui.store import Store
from tui.tally import by_state
from tui.text import ago, seconds_of, size

BROKEN, WARNING, NOTE = "!!", "! ", "i "  # how bad it is
_EACH = 8  # of one kind; the others are counted
_FAILURES = 3  # so many failures of one name are a pattern
_SETTLE_SECONDS = 15.0  # memory of a job that just ended is still in the last reading


class Finding(NamedTuple):
    """One line of the list. kind and id name what Enter opens; an id of '' opens nothing."""

    level: str
    kind: Literal["node", "job"]
    id: str
    text: str


class Watch:
    """Finds what needs attention. Remembers only since when GPUs look foreign, to not cry at every job's end."""

    def __init__(self) -> None:
        self._foreign_since: dict[Place, float] = {}

    def find(self, store: Store) -> list[Finding]:
        nodes = sorted(store.nodes.values(), key=lambda node: str(node["name"]))
        found = [
            *_at_most(_silent(nodes, store.now())),
            *_at_most(_sick(nodes)),
            *_at_most(self._foreign(nodes, store.now())),
            *_at_most(_hot(nodes)),
            *_at_most(_stuck(store)),
            *_at_most(_failing(store)),
            *_closed(nodes),
            *_simulated(nodes),
        ]
        order = (BROKEN, WARNING, NOTE)
        return sorted(found, key=lambda finding: order.index(finding.level))

    def _foreign(self, nodes: Iterable[Mapping[str, Any]], now: float) -> Iterator[Finding]:
        before, self._foreign_since = self._foreign_since, {}
        for node in nodes:
            settled = []
            for gpu in node["gpus"]:
                if standing(node, gpu) is Standing.FOREIGN:
                    place = node["name"], gpu["index"]
                    since = self._foreign_since[place] = before.get(place, now)
                    if now - since >= _SETTLE_SECONDS:
                        settled.append(gpu)
            if settled:
                used = sum(gpu["memory_used_bytes"] or 0 for gpu in settled)
                who = next(
                    (gpu["health_text"] for gpu in settled if gpu["health_text"]), "in use by somebody outside gpuq"
                )
                text = f"{_gpus(settled)} {who} ({size(used)}): foreign"
                yield Finding(WARNING, "node", node["name"], text)


def _at_most(findings: Iterable[Finding]) -> list[Finding]:
    """The first of a kind, and how many more there are: one power cut must not push all else off the screen."""
    every = list(findings)
    if len(every) <= _EACH + 1:
        return every
    last = every[_EACH]
    return [*every[:_EACH], last._replace(id="", text=f"and {len(every) - _EACH} more of this kind")]


def _silent(nodes: Iterable[Mapping[str, Any]], now: float) -> Iterator[Finding]:
    silent = [node for node in nodes if node["state"] != "up"]
    for node in sorted(silent, key=lambda node: str(node["state"])):  # lost before suspect
        seen = seconds_of(node["last_seen_at"])
        since = f"not heard for {ago(now - seen)}" if seen is not None else "not heard since the controller started"
        jobs = {job for gpu in node["gpus"] for job in gpu["jobs"]}
        held = f"; {len(jobs)} {plural(len(jobs), 'job')} on its GPUs" if jobs else ""
        lost = node["state"] == "lost"
        yield Finding(BROKEN if lost else WARNING, "node", node["name"], f"{node['state'].upper()} {since}{held}")


def _sick(nodes: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        if node["state"] == "lost":
            continue
        said: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for gpu in node["gpus"]:
            if gpu["health"] != "ok" and standing(node, gpu) is not Standing.FOREIGN:  # of that `_foreign` tells
                said.setdefault((gpu["health"], gpu["health_text"]), []).append(gpu)
        for (health, text), gpus in said.items():
            because = f": {text}" if text else ""
            level = WARNING if health in ("unknown", "foreign") else BROKEN
            yield Finding(level, "node", node["name"], f"{_gpus(gpus)} {health}{because}")
        if not node["gpus"] and node["gpu_note"] and not node["simulated"]:
            yield Finding(NOTE, "node", node["name"], f"no GPUs: {node['gpu_note']}")


def _hot(nodes: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        if node["state"] != "up":
            continue
        hot = [gpu for gpu in node["gpus"] if (gpu["temperature_c"] or 0) >= HOT_CELSIUS]
        if hot:
            hottest = max(gpu["temperature_c"] for gpu in hot)
            yield Finding(WARNING, "node", node["name"], f"{_gpus(hot)} hot: {hottest} °C")


def _gpus(gpus: list[Mapping[str, Any]]) -> str:
    """'gpu 3', 'gpus 0,1,5'."""
    return f"{plural(len(gpus), 'gpu')} {','.join(str(gpu['index']) for gpu in gpus)}"


def _stuck(store: Store) -> Iterator[Finding]:
    for row in _rows(store, store.tally.stuck):
        text = row.reason["text"] if row.reason else ""
        yield Finding(WARNING, "job", row.id, f"{row.name}: no node can ever run it: {text}")


def _failing(store: Store) -> Iterator[Finding]:
    """Live jobs started again and again, arrays losing elements, and one name failing over and over."""
    for row in _rows(store, store.tally.restarting):
        yield Finding(WARNING, "job", row.id, f"{row.name}: started {row.attempt} times, still {row.state}")
    for (user, name), ids in store.tally.failed.items():
        rows = list(_rows(store, ids))
        failures = sum(by_state(row).get("FAILED", 0) for row in rows)
        if failures >= _FAILURES:
            how = _how(rows[0])
            yield Finding(WARNING, "job", rows[0].id, f"{name} of {user}: {failures} failures lately{how}")


def _how(row: JobRow) -> str:
    if row.signal is not None:
        return f", last by signal {row.signal}"
    if row.exit_code:
        return f", last with exit code {row.exit_code}"
    return f", last: {row.cause['text'] or row.cause['code']}" if row.cause else ""


def _rows(store: Store, ids: Iterable[str]) -> Iterator[JobRow]:
    """The newest first."""
    rows = [store.jobs[id] for id in ids if id in store.jobs]
    return iter(sorted(rows, key=lambda row: row.submitted_at, reverse=True))


def _closed(nodes: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for state, flag in (("draining", "draining"), ("cordoned", "cordoned")):
        some = [n for n in nodes if n[flag] and not (flag == "cordoned" and n["draining"])]
        if len(some) == 1:
            said = f": {some[0]['cordon_text']}" if some[0]["cordon_text"] else ""
            yield Finding(NOTE, "node", some[0]["name"], f"{state}, takes no new work{said}")
        elif some:
            names = ", ".join(node["name"] for node in some[:3]) + (", ..." if len(some) > 3 else "")
            yield Finding(NOTE, "node", "", f"{len(some)} nodes {state}, they take no new work: {names}")


def _simulated(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    pretend = [node for node in nodes if node["simulated"]]
    if not pretend:
        return
    if len(pretend) == len(nodes):
        text = "the GPUs of this cluster are simulated: jobs run, no GPU does"
    else:
        names = ", ".join(node["name"] for node in pretend[:3]) + (", ..." if len(pretend) > 3 else "")
        text = f"simulated, no GPU works there: {len(pretend)} of {len(nodes)} nodes: {names}"
    yield Finding(NOTE, "node", "", text)
