"""A controller in this process, agents that do as they are told, users that do what they like, and a dashboard."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, cast

from starlette.responses import Response

from gpuq.api.calls import Call, Site
from gpuq.api.changes import changes
from gpuq.api.follow import Follow
from gpuq.api.snapshot import snapshot, snapshot_jobs
from gpuq.changes import PutToken
from gpuq.errors import GpuqError, Unavailable
from gpuq.model import AttemptUid, EndReason, ExitRecord, JobId, NodeName, RankPhase
from gpuq.node import Gpu, GpuSample, Inventory, NodeSample
from gpuq.protocol import PROTOCOL, RankReport, Selection, Submission, SyncRequest
from gpuq.service.commands import (
    Actor,
    Cancel,
    Cordon,
    EnrolNode,
    Hold,
    Release,
    Requeue,
    Submit,
    Uncordon,
    Update,
    UserCommand,
)
from gpuq.service.live import LiveController
from gpuq.store.logfiles import LogFiles

ANN, ROOT = Actor("ann", "user"), Actor("root", "admin")
GPUS = 3


def a_site(live: LiveController, home: Path) -> Site:
    return Site(
        controller=live,
        logs=LogFiles(home / "logs"),
        tokens=cast(Any, None),  # nobody logs in here
        follow=Follow(live.changed, lambda: live.durable),
        cluster_id="c",
        url="https://here",
        ca_pem="",
        ca_sha256="",
        ca_key=b"",
        describe=dict,
    )


class Machine:
    """One node's agent. Each sync takes each of its attempts one step further, or not."""

    def __init__(self, live: LiveController, name: str, random: Random) -> None:
        self._live, self._name, self._random = live, NodeName(name), random
        self._sequence = itertools.count(1)
        self._reports: dict[AttemptUid, RankReport] = {}
        cards = tuple(Gpu(i, f"GPU-{name}-{i}", "NVIDIA H100", 80 << 30) for i in range(GPUS))
        self._inventory = Inventory(name, cards, 32, 256 << 30, True, "0.1.0")

    async def sync(self) -> None:
        for uid, report in list(self._reports.items()):
            self._reports[uid] = self._next(report)
        sample = NodeSample(
            tuple(GpuSample(i, self._random.randrange(99), 50, 60, 400.5) for i in range(GPUS)),
            cpu_percent=float(self._random.randrange(100)),
        )
        request = SyncRequest(
            PROTOCOL, self._name, "boot-1", 1, next(self._sequence), holds=tuple(self._reports),
            reports=tuple(self._reports.values()), inventory=self._inventory, inventory_hash="h", sample=sample,
        )  # fmt: skip
        try:
            reply = await self._live.sync(self._name, request)
        except Unavailable:
            return  # as an agent does: the next says it all again
        for order in reply.run:
            if order.uid not in self._reports:
                self._reports[order.uid] = RankReport(order.uid, order.rank, RankPhase.ACCEPTED)
        for stop in reply.stop:
            self._reports[stop.uid] = RankReport(stop.uid, 0, RankPhase.ENDED, exit=_exit(None, signal=15))
        for uid in reply.forget:
            self._reports.pop(uid, None)

    def _next(self, report: RankReport) -> RankReport:
        if report.phase is RankPhase.ENDED or self._random.random() < 0.3:
            return report
        if report.phase is RankPhase.ACCEPTED:
            return RankReport(report.uid, report.rank, RankPhase.RUNNING, started_at=time.time())
        end = _exit(self._random.choice([0, 0, 0, 3]))
        return RankReport(report.uid, report.rank, RankPhase.ENDED, started_at=report.started_at, exit=end)


def _exit(code: int | None, signal: int | None = None) -> ExitRecord:
    return ExitRecord(EndReason.EXITED, time.time(), code, signal)


class Churn:
    """Everything that can happen, in an order that a seed fixes."""

    def __init__(self, live: LiveController, seed: int) -> None:
        self.live, self.random = live, Random(seed)
        self.machines: list[Machine] = []
        self._jobs: list[JobId] = []

    async def add_machine(self) -> None:
        name = NodeName(f"n{len(self.machines) + 1}")
        token = PutToken(name, secrets.token_hex(32), "node", "root", name, time.time(), None)
        await self.do(EnrolNode(ROOT, name, token))
        self.machines.append(Machine(self.live, name, self.random))
        await self.machines[-1].sync()

    async def step(self) -> None:
        choice = self.random.random()
        if choice < 0.45:
            await self.random.choice(self.machines).sync()
        elif choice < 0.75 or not self._jobs:
            await self._submit()
        elif choice < 0.98:
            await self.do(self._verb(self.random.choice(self._jobs[-30:])))
        else:
            node = NodeName(f"n{self.random.randrange(len(self.machines)) + 1}")
            await self.do(Cordon(ROOT, node, "dust") if choice < 0.99 else Uncordon(ROOT, node))

    async def do(self, command: UserCommand) -> dict[str, Any]:
        """A refusal is an answer too."""
        try:
            return await self.live.execute(command, secrets.token_hex(8))
        except GpuqError:
            return {}

    async def _submit(self) -> None:
        random = self.random
        asked = Submission(
            command=("true",),
            gpus_per_node=random.choice([0, 1, 1, 2]),
            array=random.choice([None, None, None, "0-4", "0-9%2"]),
            hold=random.random() < 0.1,
            max_retries=random.choice([0, 0, 1]),
        )
        if reply := await self.do(Submit(random.choice([ANN, ROOT]), asked)):
            self._jobs.append(JobId(reply["id"]))

    def _verb(self, id: JobId) -> UserCommand:
        one = Selection(ids=(id,))
        element = Selection(ids=(JobId(f"{id}_{self.random.randrange(5)}"),))
        verbs: list[UserCommand] = [
            *(Cancel(ROOT, one), Cancel(ROOT, element), Hold(ROOT, one), Release(ROOT, one), Requeue(ROOT, one)),
            Update(ROOT, id, priority=self.random.randrange(9), comment="other"),
        ]
        return self.random.choice(verbs)


class Dashboard:
    """Keeps itself up to date by snapshot and changes alone."""

    def __init__(self, site: Site, actor: Actor) -> None:
        self.call = Call(site, actor, lambda: actor)
        self.resets = self.asked = 0
        self.gone: set[str] = set()

    async def load(self, limit: int = 3) -> None:
        body = parsed(await snapshot(self.call, limit=limit))
        self.life, self.at, self.counts, self.events = body["life"], body["at"], body["counts"], body["events"]
        self.fields = body["jobs"]["fields"]
        self.rows = {row[0]: row for row in body["jobs"]["rows"]}
        self.nodes = {node["name"]: node for node in body["nodes"]}
        page = body["jobs"]
        while page["next"] is not None:
            page = parsed(await snapshot_jobs(self.call, after=page["next"], limit=limit))
            self.rows |= {row[0]: row for row in page["rows"]}

    async def update(self) -> None:
        """Asks until there is nothing more."""
        while True:
            body = parsed(await changes(self.call, life=self.life, after=self.at))
            self.asked += 1
            if body["reset"]:
                self.resets += 1
                await self.load()
                return
            self._lay_over(body)
            if not body["more"]:
                return

    def _lay_over(self, body: dict[str, Any]) -> None:
        assert body["at"] >= self.at
        self.at, self.counts = body["at"], body["counts"]
        self.rows |= {row[0]: row for row in body["jobs"]["rows"]}
        for id in body["gone"]:
            self.gone.add(id)
            self.rows.pop(id, None)
        self.nodes |= {node["name"]: node for node in body["nodes"]}
        for name, cpu, memory, disk, seen, readings in body["samples"]:
            node = self.nodes[name]
            node |= {"cpu_percent": cpu, "memory_used_bytes": memory, "disk_used_bytes": disk, "last_seen_at": seen}
            for gpu, (used, bytes_, heat, power) in zip(node["gpus"], readings, strict=True):
                gpu |= {"utilization_percent": used, "memory_used_bytes": bytes_}
                gpu |= {"temperature_c": heat, "power_w": power}
        self.events = (self.events + body["events"])[-100:]

    def shown(self) -> dict[str, Any]:
        """All of it but why jobs wait, which depends on other jobs and may be old."""
        rows = {id: dict(zip(self.fields, row, strict=True)) | {"reason": None} for id, row in self.rows.items()}
        return {"rows": rows, "nodes": self.nodes, "events": self.events, "counts": self.counts}

    def counted(self) -> dict[str, int]:
        """Its rows by state, elements one each."""
        total: Counter[str] = Counter()
        for row in self.shown()["rows"].values():
            total.update(row["elements"]["counts"] if row["elements"] else {row["state"]: 1})
        return dict(total)


def parsed(response: Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body
