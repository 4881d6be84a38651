"""The exchange loop against a controller in this process that speaks the real messages, late, badly or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from agent.actions import Accept, RecordEnd
from agent.directives import Directives
from agent.runs import RunEvent
from agent.sync import FUTILE_ANSWERS, GATHER_SECONDS, REFUSED_SECONDS, RETRY_MAX_SECONDS, Exchange
from gpuq.errors import GpuqError, Incompatible, NotAuthenticated, Unavailable, Unreachable
from gpuq.model import AttemptUid, ExitRecord, RankPhase
from gpuq.protocol import POLL_SECONDS, RunOrder, SyncReply, SyncRequest
from tests.agent.orders import NODE, exited, reply_to, run_order, uid


class FakeController:
    """Orders what is in `run` until it is accepted, forgets ends; holds requests as long as it has nothing to say."""

    def __init__(self) -> None:
        self.generation = 1
        self.run: list[RunOrder] = []
        self.accepted: set[AttemptUid] = set()
        self.ends: dict[AttemptUid, ExitRecord] = {}
        self.requests: list[SyncRequest] = []
        self.faults: list[GpuqError] = []  # one for each of the next requests
        self.loses_answers = 0  # of requests that were taken
        self.holds = True
        self._poll: asyncio.Event | None = None

    def order(self, order: RunOrder) -> None:
        self.run.append(order)
        self.generation += 1
        if self._poll is not None:
            self._poll.set()

    async def sync(self, request: SyncRequest) -> SyncReply:
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        self.requests.append(request)
        for report in request.reports:
            self.accepted.add(report.uid)
            if report.exit is not None:
                self.ends.setdefault(report.uid, report.exit)
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("lost")
        if self._poll is not None:
            self._poll.set()
        self._poll = mine = asyncio.Event()
        reply = self.reply(request)
        if self.holds and not (reply.run or reply.forget):
            await mine.wait()
            if self._poll is not mine:
                return SyncReply(1, self.generation, request.incarnation, request.sequence, superseded=True)
            reply = self.reply(request)
        return reply

    def reply(self, request: SyncRequest) -> SyncReply:
        return reply_to(
            request,
            self.generation,
            run=tuple(o for o in self.run if o.uid not in self.accepted),
            forget=tuple(u for u in request.holds if u in self.ends),
        )


class Node:
    """A desk over real Directives; launching is noting."""

    def __init__(self) -> None:
        self.directives = Directives(NODE, "boot1", 1, ())
        self.news = asyncio.Event()
        self.news.set()
        self.launched: list[AttemptUid] = []
        self.connected: list[bool] = []
        self.pauses: list[float] = []
        self.stuck = asyncio.Event()

    async def request(self, wait_seconds: float) -> SyncRequest:
        request = self.directives.request(wait_seconds)
        self.news.clear()
        return request

    async def answered(self, reply: SyncReply, sent_at: float) -> bool:
        actions = self.directives.answered(reply, sent_at)
        self.launched += [a.order.uid for a in actions if isinstance(a, Accept)]
        self.tell()
        return bool(actions)

    def ends(self, name: str, code: int) -> None:
        (record,) = self.directives.observed(RunEvent(uid(name), 0, RankPhase.ENDED, exit=exited(code)))
        assert isinstance(record, RecordEnd)
        self.tell()

    def tell(self) -> None:
        if self.directives.has_news:
            self.news.set()

    async def pause(self, seconds: float) -> None:
        if seconds != GATHER_SECONDS:
            self.pauses.append(seconds)
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 20)


def play(
    scene: Callable[[FakeController, Node], Awaitable[None]], pause: Callable[[float], Awaitable[None]] | None = None
) -> Node:
    async def main() -> Node:
        controller, node = FakeController(), Node()
        exchange = Exchange(controller, node, node.connected.append, pause or node.pause)
        task = asyncio.ensure_future(exchange.run())
        acting: Coroutine[Any, Any, None] = _run(scene, controller, node)
        actor = asyncio.ensure_future(acting)
        await asyncio.wait({task, actor}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        results = await asyncio.gather(task, actor, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        return node

    return asyncio.run(main())


async def _run(scene: Callable[[FakeController, Node], Awaitable[None]], c: FakeController, n: Node) -> None:
    await scene(c, n)


def test_order_and_end_pass_while_a_poll_is_held() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        await until(lambda: len(controller.requests) == 1)
        controller.order(run_order("x"))
        await until(lambda: "x" in controller.accepted)
        node.ends("x", 3)  # the poll that brought nothing is still held
        await until(lambda: not node.directives.holds)
        assert controller.ends == {"x": exited(3)}

    node = play(scene)
    assert (node.launched, node.connected, node.pauses) == (["x"], [True], [])


def test_every_request_but_the_first_offers_to_wait_the_whole_poll() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        controller.order(run_order("x"))
        await until(lambda: "x" in controller.accepted)
        node.ends("x", 3)
        await until(lambda: not node.directives.holds)
        first, *others = [r.wait_seconds for r in controller.requests]
        assert first == 0.0
        assert set(others) == {POLL_SECONDS}

    play(scene)


def test_the_request_behind_orders_waits_for_news_but_not_for_ever() -> None:
    over = asyncio.Event()

    async def pause(seconds: float) -> None:
        await over.wait()

    async def scene(controller: FakeController, node: Node) -> None:
        controller.order(run_order("x"))
        await until(lambda: "x" in controller.accepted)
        node.ends("x", 0)
        await until(lambda: not node.directives.holds)
        asked = len(controller.requests)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(controller.requests) == asked
        node.news.set()
        await until(lambda: len(controller.requests) == asked + 1)
        controller.order(run_order("y"))
        await until(lambda: "y" in controller.accepted)
        node.ends("y", 0)
        await until(lambda: not node.directives.holds)
        asked = len(controller.requests)
        over.set()
        await until(lambda: len(controller.requests) == asked + 1)

    play(scene, pause)


def test_at_most_two_requests_are_out_however_much_happens() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        out = most = 0
        inner = controller.sync

        async def counted(request: SyncRequest) -> SyncReply:
            nonlocal out, most
            out += 1
            most = max(most, out)
            try:
                return await inner(request)
            finally:
                out -= 1

        controller.sync = counted  # type: ignore[method-assign]
        for i in range(30):
            controller.order(run_order(f"r{i}"))
        await until(lambda: len(controller.accepted) == 30)
        for i in range(30):
            node.ends(f"r{i}", i)
            await asyncio.sleep(0)
        await until(lambda: not node.directives.holds)
        assert most <= 2

    play(scene)


def test_lost_answers_and_dead_connections_neither_lose_nor_double_anything() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        for i in range(20):
            name = f"r{i}"
            controller.order(run_order(name))
            controller.loses_answers += i % 3
            controller.faults += [Unavailable("connection reset")] * (i % 2)
            await until(lambda name=name: name in node.launched)  # type: ignore[misc]
            controller.faults += [Unreachable("no route")] * (i % 4)
            node.ends(name, i)
        await until(lambda: not node.directives.holds)
        assert controller.ends == {uid(f"r{i}"): exited(i) for i in range(20)}

    node = play(scene)
    assert node.launched == [f"r{i}" for i in range(20)]


def test_unreachable_controller_is_asked_ever_less_often_and_then_found_again() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        controller.faults += [Unreachable("no route")] * 12
        controller.order(run_order("x"))
        await until(lambda: node.launched)

    node = play(scene)
    assert node.connected == [False, True]
    assert len(node.pauses) == 12
    for pause, longest in zip(node.pauses, [0.5, 1, 2, 4, 8] + [RETRY_MAX_SECONDS] * 7, strict=True):
        assert longest / 2 <= pause <= longest


def test_restarted_controller_is_asked_again_at_once() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        controller.order(run_order("x"))
        await until(lambda: "x" in controller.accepted)
        controller.faults.append(Unavailable("connection reset"))
        node.ends("x", 3)  # the request that says so fails, while the older poll is still held
        await until(lambda: not node.directives.holds)

    node = play(scene)
    assert node.connected == [True]
    assert node.pauses == []


@pytest.mark.parametrize("error", [Incompatible("this controller speaks protocol 2"), NotAuthenticated("no token")])
def test_refusal_is_logged_once_and_retried_slowly(error: GpuqError, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        controller.faults += [error] * 3
        controller.order(run_order("x"))
        await until(lambda: node.launched)

    node = play(scene)
    assert node.pauses == [REFUSED_SECONDS] * 3
    refused = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.getMessage() for r in refused] == [f"exchange.refused code={error.code} text={error.message}"]
    assert node.connected == [False, True]


def test_controller_that_answers_at_once_without_orders_is_not_asked_without_pause() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        controller.holds = False
        controller.order(run_order("w"))
        await until(lambda: len(node.pauses) >= 8)
        assert len(controller.requests) <= len(node.pauses) + FUTILE_ANSWERS + 4
        controller.order(run_order("x"))
        await until(lambda: "x" in controller.accepted)

    node = play(scene)
    assert node.pauses[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_defect_ends_the_loop_and_cancels_what_is_out() -> None:
    async def scene(controller: FakeController, node: Node) -> None:
        async def broken(reply: SyncReply, sent_at: float) -> bool:
            raise ZeroDivisionError

        node.answered = broken  # type: ignore[method-assign]
        controller.order(run_order("x"))
        await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        play_defect(scene)


def play_defect(scene: Callable[[FakeController, Node], Awaitable[None]]) -> None:
    async def main() -> None:
        controller, node = FakeController(), Node()
        actor = asyncio.ensure_future(_run(scene, controller, node))
        try:
            await Exchange(controller, node, node.connected.append).run()
        finally:
            actor.cancel()
            left = asyncio.all_tasks() - {asyncio.current_task(), actor}
            assert not left

    asyncio.run(main())
