from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gpuq.errors import NotAuthenticated, Unreachable
from tests.tui.clusters import ServedClient, changes, job, page, running, snapshot
from tests.tui.desk import played
from tui.feed import FIRST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS, Feed
from tui.store import Store


class Life:
    """A feed whose pauses are written down, and pass at once; time is what was paused."""

    def __init__(self, client: ServedClient) -> None:
        self.client = client
        self.seconds = 0.0
        self.pauses: list[float] = []
        self.loads = 0
        self.store = Store(lambda: self.seconds)
        self.feed = Feed(self.store, self._connect, self._pause, lambda: 1.0, self._loaded)

    async def _connect(self) -> ServedClient:
        return self.client

    async def _pause(self, seconds: float) -> None:
        if seconds == 5.0:  # of the measuring beside it, which is not what is tested
            await asyncio.Event().wait()
        self.pauses.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    def _loaded(self) -> None:
        self.loads += 1


@asynccontextmanager
async def running_feed(client: ServedClient) -> AsyncIterator[Life]:
    life = Life(client)
    task = asyncio.create_task(life.feed.run())
    try:
        yield life
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(happened: Callable[[], Any]) -> None:
    for _ in range(10_000):
        if happened():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


@played
async def test_a_snapshot_then_changes_in_order() -> None:
    async with running_feed(ServedClient(snapshot([job(1)]))) as life:
        await until(lambda: life.store.loaded)
        life.client.tell(changes(101, [running(1)]))
        life.client.tell(changes(102, [job(2)]))
        await until(lambda: life.store.at == 102)
        assert (life.store.jobs["1"].state, life.store.link.state, life.loads) == ("RUNNING", "live", 1)


@played
async def test_the_rest_of_the_jobs_comes_in_pages_beside_the_changes() -> None:
    client = ServedClient(snapshot([job(9)], next="9"))
    client.pages = {"9": page([job(8)], "8"), "8": page([job(7)])}
    async with running_feed(client) as life:
        await until(lambda: len(life.store.jobs) == 3)
        assert not life.store.partial


@played
async def test_another_life_of_the_controller_is_taken_as_a_new_snapshot() -> None:
    async with running_feed(ServedClient(snapshot([job(1)]))) as life:
        await until(lambda: life.store.loaded)
        life.client.first = snapshot([job(2)], life="life-2")
        life.client.tell(changes(0, life="life-2", reset=True))
        await until(lambda: life.store.life == "life-2")
        assert list(life.store.jobs) == ["2"]


@played
async def test_a_lost_controller_is_tried_further_and_further_apart_and_nothing_is_forgotten() -> None:
    async with running_feed(ServedClient(snapshot([job(1)]))) as life:
        await until(lambda: life.store.loaded)
        life.pauses.clear()
        life.client.failure = Unreachable("no route")
        life.client.tell(changes(101))
        await until(lambda: len(life.pauses) >= 9)
        waits = [seconds for seconds in life.pauses if seconds >= FIRST_BACK_OFF_SECONDS]
        assert waits[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS]
        assert (life.store.link.state, list(life.store.jobs)) == ("offline", ["1"])
        assert "no route" in life.store.link.said
        assert life.store.link.retry_at is not None


@played
async def test_offline_counts_from_the_first_failure_and_ends_with_the_first_answer() -> None:
    async with running_feed(ServedClient(snapshot([job(1)]))) as life:
        await until(lambda: life.store.loaded)
        life.client.failure = Unreachable("no route")
        life.client.tell(changes(101))
        await until(lambda: life.store.link.state == "offline")
        since = life.store.link.since
        await until(lambda: life.seconds > since + 10)
        assert life.store.link.since == since
        life.client.failure = None
        life.client.tell(changes(102, [job(2)]))
        await until(lambda: len(life.store.jobs) == 2)
        assert (life.store.link.state, life.client.snapshots) == ("live", 1)


@played
async def test_half_of_each_wait_is_left_to_chance() -> None:
    life = Life(ServedClient(snapshot([])))
    life.client.failure = Unreachable("no route")
    life.feed = Feed(life.store, life._connect, life._pause, lambda: 0.0, life._loaded)
    task = asyncio.create_task(life.feed.run())
    await until(lambda: len(life.pauses) >= 2)
    task.cancel()
    assert life.pauses[:2] == [0.25, 0.5]


@played
async def test_a_refusal_for_good_ends_it_before_anything_was_shown() -> None:
    life = Life(ServedClient(snapshot([])))
    life.client.failure = NotAuthenticated("this token is not known")
    with pytest.raises(NotAuthenticated):
        await life.feed.run()


@played
async def test_a_refusal_later_leaves_on_the_screen_what_there_is() -> None:
    async with running_feed(ServedClient(snapshot([job(1)]))) as life:
        await until(lambda: life.store.loaded)
        life.client.failure = NotAuthenticated("this token was revoked")
        life.client.tell(changes(101))
        await until(lambda: "revoked" in life.store.link.said)
        assert list(life.store.jobs) == ["1"]


@played
async def test_a_fresh_snapshot_can_be_asked_for_while_the_controller_holds_the_question() -> None:
    async with running_feed(ServedClient(snapshot([job(1)]))) as life:
        await until(lambda: life.store.loaded)
        life.client.first = snapshot([job(2)])
        life.feed.resync()
        await until(lambda: list(life.store.jobs) == ["2"])


@played
async def test_how_long_the_controller_takes_to_answer_is_known() -> None:
    async with running_feed(ServedClient(snapshot([]))) as life:
        await until(lambda: life.store.link.latency_ms is not None)
        assert life.store.link.latency_ms == pytest.approx(4.2)


@played
async def test_a_page_that_fails_is_asked_for_again_where_it_was() -> None:
    client = ServedClient(snapshot([job(9)], next="9"))
    client.pages = {"9": page([job(8)])}
    told: list[str] = []
    serve: Callable[[str, int], Awaitable[dict[str, Any]]] = client.snapshot_jobs

    async def fail_once(after: str, limit: int) -> dict[str, Any]:
        told.append(after)
        if len(told) == 1:
            raise Unreachable("no route")
        return await serve(after, limit)

    client.snapshot_jobs = fail_once  # type: ignore[method-assign]
    life = Life(client)

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    life.feed = Feed(life.store, life._connect, pause, lambda: 1.0, life._loaded)
    task = asyncio.create_task(life.feed.run())
    await until(lambda: "8" in life.store.jobs)
    task.cancel()
    assert told == ["9", "9"]
