"""What is asked for while the disk is behind: memory's word, of one moment, and never half of it the store's."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from gpuq.api.calls import Call, Site
from gpuq.api.jobs import script, show_job
from gpuq.api.lists import list_jobs
from gpuq.api.snapshot import snapshot
from gpuq.api.stream import log
from gpuq.changes import PutToken
from gpuq.model import AttemptUid, EndReason, ExitRecord, JobId, NodeName, RankPhase
from gpuq.node import Inventory
from gpuq.protocol import PROTOCOL, RankReport, RunOrder, Selection, Submission, SyncReply, SyncRequest
from gpuq.service.commands import Cancel, EnrolNode, Submit, Update
from gpuq.service.live import LiveController
from gpuq.states import FINAL, JobState
from gpuq.store.columns import make_key
from tests.api.churn import ANN, ROOT, a_site

NODE = NodeName("n1")


class Cluster:
    """A controller with one node, and somebody who asks."""

    def __init__(self, live: LiveController, site: Site) -> None:
        self.live = live
        self.call = Call(site, ANN, lambda: ANN)
        self._sequence = 0
        self._reports: dict[AttemptUid, RankReport] = {}

    async def sync(self, *reports: RankReport) -> SyncReply:
        self._sequence += 1
        self._reports |= {report.uid: report for report in reports}
        holds, reports = tuple(self._reports), tuple(self._reports.values())
        offered = Inventory(NODE, (), 32, 256 << 30, True, "0.1.0")
        return await self.live.sync(
            NODE, SyncRequest(PROTOCOL, NODE, "boot", 1, self._sequence, 0, 0, holds, reports, offered, "h")
        )

    async def submit(self, *command: str, **asked: Any) -> str:
        submission = Submission(command=command, **asked)
        return str((await self.live.execute(Submit(ANN, submission), secrets.token_hex(8)))["id"])

    async def rename(self, id: str, name: str) -> None:
        await self.live.execute(Update(ANN, JobId(id), name=name), secrets.token_hex(8))

    async def cancel(self, id: str) -> None:
        await self.live.execute(Cancel(ANN, Selection(ids=(JobId(id),))), secrets.token_hex(8))

    async def pages(self, limit: int, **asked: Any) -> list[str]:
        """The ids of a whole list that is asked for page by page."""
        ids: list[str] = []
        after = None
        while True:
            page = await self.answer(list_jobs(self.call, limit=limit, after=after, **asked))
            ids += [item["id"] for item in page["items"]]
            after = page["next"]
            if after is None:
                return ids

    async def started(self, count: int = 1) -> list[RunOrder]:
        """The orders of so many jobs, all of which run now."""
        orders = list((await self.sync()).run)
        assert len(orders) == count
        await self.sync(*(RankReport(order.uid, 0, RankPhase.RUNNING, started_at=time.time()) for order in orders))
        return orders

    def answer(self, asked: Awaitable[Response]) -> Awaitable[Any]:
        async def body() -> Any:
            response = await asked
            return json.loads(bytes(response.body))

        return body()


def ended(order: RunOrder, code: int) -> RankReport:
    end = ExitRecord(EndReason.EXITED, time.time(), code, log_size=0)
    return RankReport(order.uid, 0, RankPhase.ENDED, started_at=time.time(), exit=end)


@asynccontextmanager
async def disk_behind(path: Path, patch: pytest.MonkeyPatch, *work: Awaitable[Any]) -> AsyncIterator[None]:
    """This is decided, and not written before the end. Answers do not wait: what they waited for is durable, and this
    came after it.
    """
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    tasks = [asyncio.ensure_future(each) for each in work]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)

    async def at_once(self: LiveController) -> None:
        del self

    with patch.context() as patched:
        patched.setattr(LiveController, "settled", at_once)
        try:
            yield
            assert not any(task.done() for task in tasks)
        finally:
            holder.execute("ROLLBACK")
            holder.close()
    await asyncio.gather(*tasks)


def play(home: Path, scenario: Callable[[Cluster], Awaitable[None]]) -> None:
    async def played() -> None:
        live = await LiveController.open(home / "gpuq.db")
        site = a_site(live, home)
        try:
            cluster = Cluster(live, site)
            token = PutToken("t", secrets.token_hex(32), "node", "root", NODE, time.time(), None)
            await live.execute(EnrolNode(ROOT, NODE, token), "enrol")
            await cluster.sync()
            await scenario(cluster)
        finally:
            site.follow.close()
            await live.close()

    asyncio.run(played())


def test_a_job_that_has_just_ended_is_shown_with_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        id = await cluster.submit("false")
        (order,) = await cluster.started()
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, cluster.sync(ended(order, 7))):
            shown = await cluster.answer(show_job(cluster.call, id))
            assert (shown["state"], shown["nodes"]) == ("FAILED", [{"node": NODE, "gpus": []}])
            (attempt,) = shown["attempts"]
            assert attempt["ended_at"] is not None
            assert (attempt["ranks"][0]["phase"], attempt["ranks"][0]["exit_code"]) == ("ended", 7)
            rows = (await cluster.answer(snapshot(cluster.call)))["jobs"]
            (row,) = [dict(zip(rows["fields"], row, strict=True)) for row in rows["rows"]]
            assert (row["state"], row["exit_code"], row["nodes"]) == ("FAILED", 7, shown["nodes"])
            read = await log(cluster.call, id)
            assert (read.headers["gpuq-log-attempt"], read.headers["gpuq-log-end"]) == ("1", "0")
        assert (await cluster.answer(show_job(cluster.call, id))) == shown

    play(tmp_path, scenario)


def test_a_job_that_has_just_come_is_shown_with_what_it_executes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        submitted = cluster.submit("sh", "script", script="echo hello\n", cwd="/somewhere")
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, submitted):
            shown = await cluster.answer(show_job(cluster.call, "1"))
            assert (shown["command"], shown["cwd"], shown["script"]) == (["sh", "script"], "/somewhere", True)
            (row,) = (await cluster.answer(list_jobs(cluster.call)))["items"]
            assert row["command"] == ["sh", "script"]
            assert (await script(cluster.call, "1")).body == b"echo hello\n"

    play(tmp_path, scenario)


def test_the_elements_of_an_array_are_all_listed_while_some_of_them_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listed(cluster: Cluster, **asked: Any) -> list[tuple[str, str, str]]:
        items = (await cluster.answer(list_jobs(cluster.call, all=True, expand=True, **asked)))["items"]
        return [(item["id"], item["state"], item["nodes"][0]["node"] if item["nodes"] else "") for item in items]

    async def scenario(cluster: Cluster) -> None:
        await cluster.submit("true", array="0-3")
        zero, one, two, _ = await cluster.started(4)
        await cluster.sync(ended(two, 0))
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, cluster.sync(ended(zero, 0), ended(one, 3))):
            found = await listed(cluster)
            assert found == [
                ("1_0", "SUCCEEDED", NODE),
                ("1_1", "FAILED", NODE),
                ("1_2", "SUCCEEDED", NODE),
                ("1_3", "RUNNING", NODE),
            ]
            assert await listed(cluster, after=str(make_key(1, 0)), limit=2) == found[1:3]
        assert await listed(cluster) == found

    play(tmp_path, scenario)


@pytest.mark.parametrize("asked", [{"all": True}, {"state": list(JobState)}, {}], ids=["all", "states", "live"])
def test_a_job_is_listed_under_its_new_name_and_no_longer_under_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.submit("true", name="old", hold=True)
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, cluster.rename("1", "new")):
            assert await cluster.pages(9, name="old", **asked) == []
            (item,) = (await cluster.answer(list_jobs(cluster.call, name="new", **asked)))["items"]
            assert (item["id"], item["name"]) == ("1", "new")

    play(tmp_path, scenario)


@pytest.mark.parametrize("asked", [{"all": True}, {"state": list(JobState)}, {}], ids=["all", "states", "live"])
def test_a_job_that_has_just_come_is_in_every_list_that_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.submit("true", hold=True)
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, cluster.submit("true", hold=True)):
            assert await cluster.pages(9, **asked) == ["1", "2"]

    play(tmp_path, scenario)


def test_a_job_that_has_come_and_ended_meanwhile_is_listed_as_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        come = cluster.submit("true", hold=True)
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, come, cluster.cancel("1")):
            assert await cluster.pages(9, state=list(FINAL)) == await cluster.pages(9, all=True) == ["1"]
            assert await cluster.pages(9) == []

    play(tmp_path, scenario)


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_have_each_job_once_whatever_of_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expand: bool
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name, array in (("a", None), ("b", None), ("a", None), ("a", "0-2"), ("a", None), ("a", None)):
            await cluster.submit("true", name=name, array=array, hold=True)
        await cluster.cancel("1")
        work = [
            cluster.rename("2", "a"),
            cluster.rename("3", "b"),
            cluster.cancel("4_1"),
            cluster.cancel("5"),
            cluster.submit("true", name="a", hold=True),
            cluster.submit("true", name="a", array="0-1", hold=True),
        ]
        async with disk_behind(tmp_path / "gpuq.db", monkeypatch, *work):
            found = await cluster.pages(limit, name="a", all=True, expand=expand)
            four, eight = (["4_0", "4_1", "4_2"], ["8_0", "8_1"]) if expand else (["4"], ["8"])
            assert found == ["1", "2", *four, "5", "6", "7", *eight]
        assert await cluster.pages(limit, name="a", all=True, expand=expand) == found

    play(tmp_path, scenario)
