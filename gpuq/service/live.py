"""The controller inside a running event loop: real clocks, the real store and its writer thread, awaitable answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from gpuq import arrays
from gpuq.errors import GpuqError, Unavailable
from gpuq.model import AttemptUid, Job, JobId, JobSpec, NodeName, Now
from gpuq.node import NodeSample
from gpuq.protocol import Overuse, Submission, SyncReply, SyncRequest
from gpuq.scheduler import Explainer, NodeAnswer
from gpuq.service.board import ENDED_SECONDS, KEPT_ENDED, Board, Ended
from gpuq.service.commands import Actor, UserCommand
from gpuq.service.controller import Controller, DryRun
from gpuq.service.pipes import Stream, Streams
from gpuq.service.unwritten import Unwritten
from gpuq.states import JobState
from gpuq.store import FailureKind, Store, StoreFailure, Writer, attempts, events, jobs, replies, specs
from gpuq.view import ClusterView, Policy

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
PRUNE_SECONDS = 600.0
REPLIES_KEPT_SECONDS = 86_400.0
_RECALLED_EVENTS = 100  # as many as a snapshot shows
_RECALLED_AT_ONCE = 1_000  # jobs of one query


class _StoreLookup:
    """service.records.Lookup over the store's read connection."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def job(self, id: JobId) -> Job | None:
        return jobs.job(self._store.reader, id)

    def spec(self, id: JobId) -> JobSpec | None:
        return specs.spec(self._store.reader, id)

    def ended_attempts(self, uids: Iterable[AttemptUid]) -> set[AttemptUid]:
        return attempts.ended(self._store.reader, uids)

    def reply(self, request_id: str) -> str | None:
        reply = replies.reply(self._store.reader, request_id)
        return None if reply is None else reply.body


class LiveController:
    """One per process. All methods are for the loop it was opened in.

    failed is done when the store is broken beyond repair (an I/O error): the process must end and recover by
    starting again.
    """

    def __init__(self, store: Store, policy: Policy) -> None:
        self._loop = asyncio.get_running_loop()
        self.store = store
        self.failed: asyncio.Future[str] = self._loop.create_future()
        self._changed: set[asyncio.Future[None]] = set()
        self._writer = Writer(store, self._from_thread(self._confirmed), self._from_thread(self._store_failed))
        self._controller = Controller(
            load=store.load,
            writer=self._writer,
            lookup=_StoreLookup(store),
            policy=policy,
            clock=clock,
            seed=lambda: secrets.token_hex(10),
            soon=self._soon,
        )
        self.life = secrets.token_hex(8)  # places on the board mean nothing in another
        self._explainer: tuple[float, Explainer | None] = 0.0, None
        self._recall = asyncio.Lock()
        self._has_recalled = False
        self._forget_recalled()
        self._full = False
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, store_path: Path, policy: Policy | None = None) -> LiveController:
        """Opens or creates the store, loads the cluster, starts the clock. Raises what Store raises."""
        live = cls(Store.open(store_path), policy or Policy())
        live._tasks = [
            asyncio.create_task(live._every(TICK_SECONDS, live._tick), name="tick"),
            asyncio.create_task(live._every(PRUNE_SECONDS, live._prune), name="prune"),
        ]
        return live

    async def close(self) -> None:
        """Answers what is held, writes out what was decided, closes the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._controller.release_all()
        for waiter in self._changed:
            if not waiter.done():
                waiter.set_result(None)
        await asyncio.to_thread(self._writer.close)
        self.store.close()

    def _from_thread(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """The writer calls back in its thread; what follows belongs on the loop."""

        def run(argument: Any) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(call, argument)

        return run

    def _soon(self, act: Callable[[], None]) -> None:
        self._loop.call_soon(act)

    async def _every(self, seconds: float, act: Callable[[], None]) -> None:
        """Runs act again and again; a failure is logged and the next turn is taken all the same."""
        while True:
            await asyncio.sleep(seconds)
            try:
                act()
            except Exception:
                logger.exception("loop.failed act=%s", act.__name__)

    def _tick(self) -> None:
        if self._full and self._writer.probe():
            logger.warning("store.resumed")
            self._full = False
            self._writer.resume()
            self._controller.resume()
        self._controller.tick()
        self.board.look()
        self.board.forget_ended(time.time())

    def _prune(self) -> None:
        self._writer.enqueue_prune(time.time() - REPLIES_KEPT_SECONDS)

    # ------------------------------------------------------------ the writer's word

    def _confirmed(self, number: int) -> None:
        self._controller.commit.confirmed(number)
        changed, self._changed = self._changed, set()
        for waiter in changed:
            if not waiter.done():
                waiter.set_result(None)

    def _store_failed(self, failure: StoreFailure) -> None:
        if failure.kind is FailureKind.FULL:
            logger.error("store.full text=%s", failure.text)
            self._controller.pause("the controller's disk is full")
            self._forget_recalled()
            self._full = True
            return
        logger.critical("store.broken text=%s", failure.text)
        if not self.failed.done():
            self.failed.set_result(failure.text)

    # ------------------------------------------------------------ what the API calls

    @property
    def view(self) -> ClusterView:
        return self._controller.view

    @property
    def unwritten(self) -> Unwritten:
        return self._controller.commit.unwritten

    @property
    def policy(self) -> Policy:
        return self._controller.policy

    @property
    def durable(self) -> int:
        return self._controller.commit.durable

    async def execute(self, command: UserCommand, request_id: str, asked: str = "") -> dict[str, Any]:
        """The JSON body of the answer, durable; raises gpuq.errors. A repeated request id gets the same answer, but
        Conflict if `asked`, a digest of what was asked, is another.
        """
        answer: asyncio.Future[dict[str, Any] | GpuqError] = self._loop.create_future()
        self._controller.execute(command, request_id, lambda body: _set(answer, body), asked)
        body = await answer
        if isinstance(body, GpuqError):
            raise body
        return body

    async def sync(self, node: NodeName, request: SyncRequest) -> SyncReply:
        """Takes an agent's report; gives its orders, after up to request.wait_seconds if there are none."""
        answer: asyncio.Future[SyncReply | GpuqError] = self._loop.create_future()
        self._controller.sync(node, request, lambda reply: _set(answer, reply))
        if node in self.view.nodes:
            self.board.heard(node)
        reply = await answer
        if isinstance(reply, GpuqError):
            raise reply
        return reply

    @property
    def streams(self) -> Streams:
        return self._controller.streams

    def add_stream(self, stream: Stream) -> None:
        """A stream that may be opened: its node is told at once."""
        self._controller.add_stream(stream)

    def release(self) -> None:
        """Answers every sync that is held, and whoever waits at a stream: the process is about to stop."""
        self._controller.release_all()

    async def settled(self) -> None:
        """Returns once everything applied so far is durable; raises Unavailable if it never will be."""
        number = self._controller.commit.last
        if number <= self.durable:
            return
        done: asyncio.Future[Unavailable | None] = self._loop.create_future()
        self._controller.commit.when_durable(number, lambda error: _set(done, error))
        error = await done
        if error is not None:
            raise error

    async def changed(self, after: int, timeout: float) -> int:
        """Waits for a durable change numbered above `after`, at most `timeout` seconds; gives the newest number."""
        if self.durable <= after and timeout > 0:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._changed.add(waiter)
            try:
                await asyncio.wait_for(waiter, timeout)
            except asyncio.TimeoutError:
                pass
            finally:
                self._changed.discard(waiter)
        return self.durable

    # ------------------------------------------------------------ what dashboards show

    @property
    def board(self) -> Board:
        """What was touched when. Of jobs that ended before this life began it knows only once they were `recalled`."""
        return self._controller.commit.board

    async def recalled(self) -> Board:
        """The board with the jobs that ended before this life began: read at the first call, in a thread."""
        async with self._recall:
            if not self._has_recalled:
                since = time.time() - ENDED_SECONDS
                self.board.recall_ended(await asyncio.to_thread(_ended_since, self.store, since))
                self._has_recalled = True
        return self.board

    def _forget_recalled(self) -> None:
        """The board has begun anew: of the past it gets the latest events now, what ended when somebody asks."""
        self._has_recalled = False
        self.board.recall_events(events.before(self.store.reader, None, events.Filter(), _RECALLED_EVENTS))

    # ------------------------------------------------------------ for people

    def ended_job(self, id: JobId) -> Job | None:
        return self._controller.ended_job(id)

    def explainer(self, age: float = 0.0) -> Explainer:
        """Why queued jobs wait, as of now, or as one saw it that was made at most `age` seconds ago.

        For one answer, not to be kept while the loop turns. With 1,000 nodes one costs 10 ms and more: where many ask
        at once, and what they are told may be a little old, they share it.
        """
        now = self._loop.time()
        made_at, shared = self._explainer
        if shared is None or now - made_at >= age:
            shared = self._controller.explainer()
            self._explainer = now, shared
        return shared

    def why(self, job: Job) -> list[NodeAnswer]:
        """For each node by name: what the job is short of there, and who holds it."""
        return self._controller.why(job)

    def instead(self, job: Job) -> list[str]:
        """What would start now in place of what the job asks for."""
        return self._controller.instead(job)

    def dry_run(self, actor: Actor, submission: Submission) -> DryRun:
        """What would become of this submission now; raises as a submit would."""
        return self._controller.dry_run(actor, submission)

    def sample(self, name: NodeName) -> NodeSample | None:
        return self._controller.sample(name)

    def overuse(self, name: NodeName, uid: AttemptUid) -> Overuse | None:
        """What the node says of an attempt that is beyond its share of a GPU now."""
        return self._controller.overuse(name, uid)

    def last_seen(self, name: NodeName) -> float | None:
        """Wall time of the node's last sync in this life of the controller."""
        return self._controller.last_seen(name)


def _ended_since(store: Store, wall: float) -> list[tuple[Ended, Mapping[JobState, int]]]:
    """Jobs that ended at this time or later, oldest end first; of arrays how many elements ended how."""
    found: list[tuple[Ended, Mapping[JobState, int]]] = []
    cursor: str | None = None
    with closing(store.open_reader()) as conn:
        while len(found) < KEPT_ENDED:
            page = jobs.history(conn, jobs.Filter(), since=wall, until=None, cursor=cursor, limit=_RECALLED_AT_ONCE)
            last = attempts.latest(conn, (job.id for job in page.items if job.attempt))
            for job in page.items:
                made = jobs.element_counts(conn, job.id) if job.array is not None else {}
                found.append((Ended(job, last.get(job.id)), arrays.with_unmade(job, made)))
            if (cursor := page.next) is None:
                break
    return found[::-1]


def clock() -> Now:
    return Now(time.monotonic(), time.time())


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
