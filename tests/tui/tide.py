"""A cluster in which something happens all the time, and a client onto it: what the dashboard is soaked in."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from gpuq.errors import NotFound, Unavailable
from gpuq.units import format_time
from tests.tui.clusters import GIB, NOW, Piece, ServedClient, changes, job, node, page, snapshot
from tests.tui.test_job_detail import attempt, fetched
from tui.job_row import JobRow

NAMES = ("llama-ft", "eval", "sweep", "tok", "日本語", "[/red]\x1b[31m")
USERS = ("alice", "bob", "carol", "dave")
ROWS = 500  # of one answer
REMEMBERED = 1_000  # touches of what is no longer there; whoever asks for older ones takes a new snapshot
EVENTS = 500  # of one answer; of a snapshot, the last 100
LIVES = 4  # turns of a job from when it is submitted to when it is gone, about
NODE_FIELDS = ("cordoned", "draining", "state")

_Thing = tuple[str, str]  # 'job', 'node' or 'sample', and whose


class Tide:
    """The present of the cluster, and since when each part of it is as it is.

    clock: seconds. As many jobs as at first are there at any time, ever new ones.
    """

    def __init__(self, random: Random, clock: Callable[[], float], jobs: int, nodes: int = 100) -> None:
        self.jobs: dict[str, JobRow] = {}
        self.nodes = {f"n{at:04}": node(f"n{at:04}") for at in range(nodes)}
        self.events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=EVENTS)
        self.life, self.at, self.floor, self.turns = "life-0", 0, 0, 0
        self.random = random
        self._clock, self._began = clock, clock()
        self._ids: list[str] = []
        self._names, self._numbers = list(self.nodes), itertools.count(1)
        self._touched: OrderedDict[_Thing, int] = OrderedDict()
        self._counts: Counter[str] = Counter()
        for _ in range(jobs):
            self._submit(len(self._ids))
        for _ in range(LIVES * jobs):  # so that from the first look on there are as many of each kind as ever
            self.turn()
        self.turns = 0

    @property
    def wall(self) -> float:
        return NOW + self._clock() - self._began

    # What happens

    def turn(self) -> None:
        """One change, of a job or now and then of a node."""
        self.turns += 1
        if self.random.random() < 0.01:
            self._change_node(self.random.choice(self._names))
            return
        place = self.random.randrange(len(self._ids))
        row = self.jobs[self._ids[place]]
        if row.elements is not None and row.finished_at is None:
            self._step_array(row)
        elif row.state == "QUEUED":
            self._start(row)
        elif row.state == "RUNNING":
            self._end(row)
        elif row.state == "LOST":
            self._put(row._replace(state="QUEUED", nodes=[], started_at=None, reason=self._reason(row)), "job.requeued")
        else:
            self._count(self.jobs.pop(row.id), -1)
            self._touch("job", row.id)
            self._submit(place)

    def sample(self) -> None:
        """A second has passed: all nodes say how they are."""
        for name, machine in self.nodes.items():
            machine["cpu_percent"] = float(self.random.randrange(100))
            machine["last_seen_at"] = format_time(self.wall)
            for card in machine["gpus"]:
                at_work = bool(card["jobs"])
                card["utilization_percent"] = self.random.randrange(101) if at_work else 0
                card["memory_used_bytes"] = self.random.randrange(80) * GIB if at_work else 0
            self._touch("sample", name)

    def restart(self) -> None:
        """The controller lives anew: who knows the life before has to ask for everything again."""
        self.life = f"life-{int(self.life[5:]) + 1}"
        self.at = self.floor = 0
        self._touched.clear()
        self.events = deque(((0, event) for _, event in self.events), maxlen=EVENTS)

    def _submit(self, place: int) -> None:
        """A new job, in the place of another among the ids or after the last."""
        number = next(self._numbers)
        row = job(number, name=self.random.choice(NAMES), user=self.random.choice(USERS), gpus=number % 4 + 1)
        elements = {"size": 100, "counts": {"QUEUED": 100}} if number % 50 == 0 else None
        row = row._replace(submitted_at=format_time(self.wall) or "", elements=elements, reason=self._reason(row))
        self._ids[place : place + 1] = [row.id]
        self._put(row, "job.submitted")

    def _start(self, row: JobRow) -> None:
        name = self.random.choice(self._names)
        free = [card["index"] for card in self.nodes[name]["gpus"] if not card["jobs"]][: row.gpus]
        if len(free) < row.gpus:
            self._put(row._replace(reason=self._reason(row)))
            return
        self._hold(name, free, [row.id])
        row = row._replace(state="RUNNING", reason=None, attempt=row.attempt + 1, nodes=[{"node": name, "gpus": free}])
        self._put(row._replace(started_at=format_time(self.wall)), "job.running")

    def _end(self, row: JobRow) -> None:
        for at in row.nodes:
            self._hold(at["node"], at["gpus"], [])
        state = self.random.choice(["SUCCEEDED", "SUCCEEDED", "FAILED", "CANCELED", "LOST"])
        if state != "LOST":
            row = row._replace(finished_at=format_time(self.wall), exit_code=1 if state == "FAILED" else 0)
        self._put(row._replace(state=state), f"job.{state.lower()}")

    def _step_array(self, row: JobRow) -> None:
        assert row.elements is not None
        counts = dict(row.elements["counts"])
        before, after = ("RUNNING", "SUCCEEDED") if counts.get("RUNNING", 0) > 8 else ("QUEUED", "RUNNING")
        if not counts.get(before):
            before, after = "RUNNING", "SUCCEEDED"
        counts[before] -= 1
        counts[after] = counts.get(after, 0) + 1
        counts = {state: n for state, n in counts.items() if n}
        state = next(state for state in ("RUNNING", "QUEUED", "SUCCEEDED") if state in counts)
        now = format_time(self.wall)
        row = row._replace(state=state, elements={"size": 100, "counts": counts}, started_at=row.started_at or now)
        self._put(row._replace(finished_at=now) if state == "SUCCEEDED" else row)

    def _change_node(self, name: str) -> None:
        field = self.random.choice(NODE_FIELDS)
        machine = self.nodes[name]
        machine[field] = self.random.choice(["up", "suspect", "lost"]) if field == "state" else not machine[field]
        self._touch("node", name)
        self._note("node.changed", node=name)

    def _hold(self, name: str, gpus: list[int], jobs: list[str]) -> None:
        for index in gpus:
            self.nodes[name]["gpus"][index]["jobs"] = jobs
        self._touch("node", name)

    def _reason(self, row: JobRow) -> dict[str, str]:
        return {"code": "resources", "text": f"waits for {self.random.randrange(1, 9)} more GPUs"}

    def _put(self, row: JobRow, kind: str = "") -> None:
        if row.id in self.jobs:
            self._count(self.jobs[row.id], -1)
        self.jobs[row.id] = row
        self._count(row, 1)
        self._touch("job", row.id)
        if kind:
            self._note(kind, job=row.id, user=row.user)

    def _count(self, row: JobRow, sign: int) -> None:
        for state, n in (row.elements["counts"] if row.elements else {row.state: 1}).items():
            self._counts[state] += sign * n

    def _note(self, kind: str, **about: str) -> None:
        nobody = {"text": "", "job": None, "attempt": None, "node": None, "user": None}
        event = {"id": str(self.turns), "at": format_time(self.wall), "kind": kind, **nobody, **about}
        self.events.append((self.at, event))

    def _touch(self, kind: str, id: str) -> None:
        self.at += 1
        self._touched[kind, id] = self.at
        self._touched.move_to_end((kind, id))
        if len(self._touched) > len(self.jobs) + 2 * len(self.nodes) + REMEMBERED:
            self.floor = self._touched.popitem(last=False)[1]

    # What is told of it

    def snapshot(self, limit: int) -> dict[str, Any]:
        told = snapshot(
            [],
            list(self.nodes.values()),
            life=self.life,
            at=self.at,
            events=[event for _, event in self.events][-100:],
        )
        return told | {"now": format_time(self.wall), "counts": dict(+self._counts), "jobs": self.page(None, limit)}

    def page(self, after: str | None, limit: int) -> dict[str, Any]:
        """So many jobs, newest first, older than the one named."""
        numbers = sorted((int(id) for id in self.jobs if after is None or int(id) < int(after)), reverse=True)
        rows = [self.jobs[str(number)] for number in numbers[:limit]]
        return page(rows, rows[-1].id if len(numbers) > limit else None)

    def since(self, after: int) -> dict[str, Any]:
        """What has changed since then, the oldest ROWS of it."""
        newest_first = itertools.takewhile(lambda each: each[1] > after, reversed(self._touched.items()))
        touched = list(newest_first)[::-1]
        at = touched[ROWS - 1][1] if len(touched) > ROWS else self.at
        told: dict[str, list[str]] = {"job": [], "node": [], "sample": []}
        for (kind, id), _ in touched[:ROWS]:
            told[kind].append(id)
        return changes(
            at,
            [self.jobs[id] for id in told["job"] if id in self.jobs],
            life=self.life,
            now=format_time(self.wall),
            more=at < self.at,
            counts=dict(+self._counts),
            gone=[id for id in told["job"] if id not in self.jobs],
            nodes=[self.nodes[name] for name in told["node"]],
            samples=[self._sample(name) for name in told["sample"] if name not in told["node"]],
            events=[event for noted, event in self.events if after < noted <= at],
        )

    def _sample(self, name: str) -> list[Any]:
        machine = self.nodes[name]
        of_node = ("name", "cpu_percent", "memory_used_bytes", "disk_used_bytes", "last_seen_at")
        of_gpu = ("utilization_percent", "memory_used_bytes", "temperature_c", "power_w")
        return [*(machine[key] for key in of_node), [[card[key] for key in of_gpu] for card in machine["gpus"]]]


def elements(row: JobRow, states: list[str]) -> Iterator[JobRow]:
    """Of an array, those in one of these states."""
    if row.elements is not None:
        numbers = itertools.count()
        for state, count in row.elements["counts"].items():
            members = [row._replace(id=f"{row.id}_{next(numbers)}", state=state, elements=None) for _ in range(count)]
            yield from members if state in states else []


class TideClient(ServedClient):
    """What is said is on its way for a moment, in which the tide goes on. It takes no orders."""

    def __init__(self, tide: Tide) -> None:
        super().__init__({})
        self._tide = tide
        self.post_answer = self._refuse

    async def snapshot(self, limit: int) -> dict[str, Any]:
        self._fail()
        self.snapshots += 1
        found: dict[str, Any] = await self._on_its_way(self._tide.snapshot(limit))
        return found

    async def snapshot_jobs(self, after: str, limit: int) -> dict[str, Any]:
        self._fail()
        found: dict[str, Any] = await self._on_its_way(self._tide.page(after, limit))
        return found

    async def changes(self, life: str, after: int, wait: float) -> dict[str, Any]:
        tide = self._tide
        clock = asyncio.get_running_loop().time
        until = clock() + min(wait, 1.0)
        while life == tide.life and after == tide.at and clock() < until:
            self._fail()
            await asyncio.sleep(0.01)
        self._fail()
        if life != tide.life or after < tide.floor:
            return changes(tide.at, life=tide.life, reset=True)
        found: dict[str, Any] = await self._on_its_way(tide.since(after))
        return found

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        self._fail()
        return await self._on_its_way(self._found(path, params or {}))

    def _found(self, path: str, params: Mapping[str, Any]) -> Any:
        rows = self._tide.jobs
        if path == "/version":
            return {"version": "0.1.0"}
        if path == "/events":
            return {"items": [event for _, event in self._tide.events][-20:], "next": None}
        if path == "/jobs":
            asked = [rows[id] for id in params["ids"].split(",") if id in rows]
            if "expand" in params:
                asked = [elem for row in asked for elem in elements(row, params["state"])][: params["limit"]]
            fields = params["fields"].split(",")
            return {"fields": fields, "rows": [[getattr(row, name) for name in fields] for row in asked]}
        id, _, of = path.removeprefix("/jobs/").partition("/")
        if id not in rows or of not in ("", "why"):
            raise NotFound(f"nothing at {path}")
        row = rows[id]
        return {"reason": row.reason, "nodes": []} if of else fetched(row, attempts=[attempt(1)], log_bytes=1 << 20).job

    async def log_range(self, job: str, offset: int, limit: int, attempt: int | None = None, rank: int = 0) -> Piece:
        """Of a log that grows by 100 lines a second."""
        self._fail()
        line = b"step 0123456789 loss 1.2345 \x1b[32mok\x1b[0m\n"
        size = int((self._tide.wall - NOW) * 100) * len(line)
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        end = min(size, start + limit)
        text = line * (end // len(line) - start // len(line) + 1)
        return Piece(start, size, False, 1, rank, 1, text[start % len(line) :][: end - start])

    async def _on_its_way(self, said: object) -> Any:
        text = json.dumps(said)
        await asyncio.sleep(self._tide.random.random() * 0.05)
        self._fail()
        return json.loads(text)

    def _refuse(self, path: str, body: object) -> Any:
        raise Unavailable("the tide takes no orders")
