"""Long polls in one event loop: who is woken, by what, and that a crowd asks nothing while nothing happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from gpuq.api.follow import Follow
from gpuq.model import AttemptUid

LOG = (AttemptUid("ab" * 10), 0)
OTHER = (AttemptUid("cd" * 10), 0)


class Cluster:
    """Numbers of durable changes, as LiveController gives them."""

    def __init__(self) -> None:
        self.number = 0
        self.condition = asyncio.Condition()

    async def changed(self, after: int, timeout: float) -> int:
        async with self.condition:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.condition.wait_for(lambda: self.number > after), timeout)
        return self.number

    async def change(self) -> None:
        async with self.condition:
            self.number += 1
            self.condition.notify_all()


def in_loop(body: Callable[[Follow, Cluster], Awaitable[None]]) -> None:
    async def run() -> None:
        cluster = Cluster()
        follow = Follow(cluster.changed, lambda: cluster.number)
        try:
            await asyncio.wait_for(body(follow, cluster), 20)
        finally:
            follow.close()
            await asyncio.sleep(0)

    asyncio.run(run())


def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


def test_a_crowd_is_asked_only_when_something_changed_and_only_the_concerned_wake() -> None:
    async def body(follow: Follow, cluster: Cluster) -> None:
        asked = 0
        ready = False

        def never() -> bool:
            nonlocal asked
            asked += 1
            return False

        crowd = [begin(follow.until(never, 20)) for _ in range(2000)]
        one = begin(follow.until(lambda: ready, 20))
        await asyncio.sleep(0.05)
        assert asked == 2000
        ready = True
        await cluster.change()
        await one
        assert asked == 4000
        assert not any(task.done() for task in crowd)
        follow.close()
        await asyncio.gather(*crowd)

    in_loop(body)


def test_a_grown_log_wakes_its_own_followers_without_a_change_of_the_cluster() -> None:
    async def body(follow: Follow, cluster: Cluster) -> None:
        mine = begin(follow.until(lambda: False, 20, LOG))
        others = begin(follow.until(lambda: False, 20, OTHER))
        await asyncio.sleep(0)
        follow.log_grew(LOG)
        await mine
        assert not others.done()

    in_loop(body)


def test_what_is_true_already_or_has_no_time_does_not_wait() -> None:
    async def body(follow: Follow, cluster: Cluster) -> None:
        await follow.until(lambda: True, 20)
        await follow.until(lambda: False, 0)
        await follow.until(lambda: False, 0.01)

    in_loop(body)


def test_a_change_made_while_nobody_waited_is_not_missed_by_the_next() -> None:
    async def body(follow: Follow, cluster: Cluster) -> None:
        await follow.until(lambda: False, 0.01)
        seen = cluster.number
        await cluster.change()
        await follow.until(lambda: cluster.number > seen, 20)
        later = begin(follow.until(lambda: cluster.number > seen + 1, 20))
        await asyncio.sleep(0)
        await cluster.change()
        await later

    in_loop(body)


def test_a_reader_that_goes_away_is_forgotten() -> None:
    async def body(follow: Follow, cluster: Cluster) -> None:
        gone = begin(follow.until(lambda: False, 20, LOG))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        follow.log_grew(LOG)
        await cluster.change()

    in_loop(body)


def test_closing_wakes_who_waits_and_lets_nobody_wait_again() -> None:
    async def body(follow: Follow, cluster: Cluster) -> None:
        waiting = begin(follow.until(lambda: False, 20))
        await asyncio.sleep(0)
        follow.close()
        await waiting
        await follow.until(lambda: False, 20)

    in_loop(body)
