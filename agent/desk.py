"""Where an agent's threads come together: answers and run events go through Directives, and what follows is done.

Everything passes one lock, in the order of arrival: decide, make durable, carry out. So a request never tells the
controller of something that a crash could still undo, and a run starts only after its order is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agent.accounts import LocalAccounts
from agent.actions import Accept, Action, Bar, Connect, Drop, Extend, Go, Pardon, RecordEnd, Stop, Sweep
from agent.cgroups import NONE, Cgroups
from agent.company import COMPANY_SECONDS, Company
from agent.directives import Directives
from agent.executor import Executor
from agent.holding import Held
from agent.journal import Journal, needs_sync
from agent.last_words import gpu_oom_in
from agent.logs import LogPeer, LogShipper
from agent.runs import RunEvent
from agent.standing import Standing
from agent.tenants import Tenancy
from agent.threads import started
from gpuq.gpu_use import GpuReceipt
from gpuq.model import AttemptUid, ExitRecord, NodeName, RankPhase
from gpuq.node import Inventory, NodeSample
from gpuq.protocol import Overuse, RunOrder, StreamOrder, SyncReply, SyncRequest

T = TypeVar("T")
logger = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0  # between tries to look for survivors where /proc cannot be read
# What an order or an end waits for has threads of its own: a search for survivors that hangs in /proc, or a name server
# that is silent, would sooner or later have all of those that are shared. The lock lets one call through at a time (to
# the journal, or to the last words), and the GPUs are read once at a time: so neither ever waits for the other.
_THREADS = 2


class AgentDesk:
    """The agent's side of the exchange, and master of its runs and logs. All methods are for one event loop.

    start, then run `work` and `logs.run` for as long as the agent lives, then close. JournalLost comes out of
    whichever of its methods finds that the journal can no longer be trusted.
    """

    def __init__(
        self, state_dir: Path, journal: Journal, peer: LogPeer, accounts: LocalAccounts, cgroups: Cgroups = NONE
    ) -> None:
        self._journal, self._accounts = journal, accounts
        self.executor = Executor(state_dir, self._on_event, accounts, cgroups)
        self.logs = LogShipper(peer, self._log_shipped)
        self.news = asyncio.Event()
        self.directives: Directives  # from `start` on
        self._lock = asyncio.Lock()
        self._events: list[RunEvent] = []
        self._arrived = asyncio.Event()
        self._standing = Standing()
        self._sample: NodeSample | None = None
        self._begun: set[AttemptUid] = set()  # of those held, which the journal knows to have begun
        self._sweeps: dict[AttemptUid, asyncio.Task[None]] = {}
        self._tenancies: dict[AttemptUid, Tenancy] = {}
        self.look: Callable[[], Awaitable[None]] | None = None  # reads the GPUs now; set by who reads them
        self.receipt: Callable[[AttemptUid], GpuReceipt | None] = lambda uid: None  # likewise
        self.pardon: Callable[[str, int], None] = lambda uuid, fault: None  # set by who reads the GPUs
        self.connect: Callable[[StreamOrder], None] = lambda order: None  # set by who carries streams
        self._taken_soon = _Soon(self._arrived)  # the events that are there
        self._told_soon = _Soon(self.news)  # what is news, but of no consequence
        self._company = Company()
        self._closed = False
        self._threads = started(_THREADS, "desk")

    async def start(self, node: NodeName, boot_id: str) -> None:
        """Takes up what the journal and the runs on disk say."""
        live = [h for h in self._journal.held if h.exit is None and h.boot_id == boot_id]
        self._begun = {h.order.uid for h in live if h.begun}
        await self.executor.start({(h.order.uid, h.order.rank): h.begun for h in live})
        ends = {e.uid: e.exit for e in self._events if e.exit is not None}
        held = [self._as_found(h, ends) for h in self._journal.held]
        self.directives = Directives(
            node,
            boot_id,
            self._journal.incarnation,
            held,
            unswept=self._journal.barred,
            accounts=self._accounts.stated,
            epoch=self._journal.epoch,
            wall=time.time(),
        )
        logger.info("agent.started incarnation=%d held=%d", self._journal.incarnation, len(held))
        known = {h.order.uid: h.exit for h in self._journal.held}
        found: list[Action] = [
            RecordEnd(o.uid, o.rank, end) for o, end in self.directives.runs if end and known[o.uid] is None
        ]
        await self._carry_out(found)
        self._follow_logs()
        for uid in self._journal.barred:
            self._sweep(uid)
        self._tell()

    def _as_found(self, held: Held, ends: dict[AttemptUid, ExitRecord]) -> Held:
        """A journal's entry with what the disk says of its end; the supervisor's own word comes first.

        One whose order was journaled before the agent died, and which was not launched, is not launched now: that the
        controller was told of another end meanwhile, which did not reach the disk, cannot be ruled out.
        """
        uid = held.order.uid
        end = held.exit or ends.get(uid)
        if held.exit is None and end is not None and end.failed and held.order.ranks[held.order.rank].gpus:
            end = replace(end, gpu_oom=gpu_oom_in(self.executor.log_path(uid, held.order.rank)))
        try:
            size = self.executor.log_path(uid, held.order.rank).stat().st_size
        except OSError:
            size = 0
        return replace(held, exit=end, log_size=size)

    async def close(self) -> None:
        """Finishes what is being carried out and lets go; runs go on."""
        async with self._lock:
            self._closed = True
        self._taken_soon.cancel()
        self._told_soon.cancel()
        for task in self._sweeps.values():
            task.cancel()
        await asyncio.gather(*self._sweeps.values(), return_exceptions=True)
        await self.executor.close()
        self._threads.shutdown(wait=False)

    async def aside(self, work: Callable[..., T], *args: Any) -> T:
        """Does it in a thread that nothing else keeps busy; for one call at a time besides the desk's own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    # ------------------------------------------------------------ the exchange's side

    async def request(self, wait_seconds: float) -> SyncRequest:
        async with self._lock:
            sample, self._sample = self._sample, None
            self.news.clear()
            self._told_soon.cancel()
            request = self.directives.request(wait_seconds, sample)
            self._tell()
            return request

    async def answered(self, reply: SyncReply, sent_at: float) -> bool:
        """Takes an answer; returns whether it said anything new: leases and repeated stops are not."""
        return await self._undisturbed(self._answer(reply, sent_at))

    async def _answer(self, reply: SyncReply, sent_at: float) -> bool:
        async with self._lock:
            epoch = self.directives.applied[0]
            actions = self.directives.answered(reply, sent_at, time.time())
            await self._stay_heard(reply)
            await self._carry_out(actions, self.directives.applied[0])
            if self.directives.applied[0] != epoch:
                self.logs.ask_again()
                self._follow_logs()
            self._tell()
        return not all(isinstance(action, Extend | Stop | Go | Pardon | Connect) for action in actions)

    async def _stay_heard(self, reply: SyncReply) -> None:
        known = self._standing.answered(reply, self.directives.incarnation, self.directives.sequence)
        if known is None:
            return
        incarnation = await self.aside(self._journal.renew, known)
        logger.warning(
            "agent.renewed incarnation=%d known=%d text=the controller knew a newer agent of this name than this one; "
            "if this goes on, two agents use the name",
            incarnation,
            known,
        )
        self.directives.renew(incarnation)

    # ------------------------------------------------------------ the machine's side

    def set_sample(self, sample: NodeSample) -> None:
        """Rides along with the next request."""
        self._sample = sample

    def set_inventory(self, inventory: Inventory, digest: str) -> None:
        self.directives.accounts = inventory.accounts
        self.directives.set_inventory(inventory, digest)
        self._tell()

    def set_overuse(self, overuse: tuple[Overuse, ...]) -> None:
        self.directives.set_overuse(overuse)
        self._tell()

    def tenancies(self) -> dict[AttemptUid, Tenancy]:
        """What the attempts that have not ended hold."""
        return dict(self._tenancies)

    def just_ended(self) -> set[AttemptUid]:
        """Those of them whose end has come, and has not been taken yet."""
        return {event.uid for event in self._events if event.exit is not None}

    async def gpus_failed(self, fatal: Mapping[int, str]) -> None:
        """Ends who holds a GPU with such a fault, by index."""
        async with self._lock:
            await self._carry_out(self.directives.gpus_failed(fatal))

    def _on_event(self, event: RunEvent) -> None:
        self._events.append(event)
        ended = event.phase is RankPhase.ENDED
        if ended:
            self._company.ended(event.uid)
        alone = ended and not self._company.is_there(time.monotonic())
        if event.phase is RankPhase.READY or event.stopping or alone:
            self._arrived.set()
        else:
            self._taken_soon.ask()

    async def work(self) -> None:
        """Takes run events as they come. Never returns."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._events:
                await self._undisturbed(self._take_events())

    async def _take_events(self) -> None:
        if self.look is not None and any(self._may_be_due_to_a_gpu(event) for event in self._events):
            try:
                await self.look()  # so that the job is not blamed for its GPU
            except Exception:
                logger.exception("look.failed")  # the end is taken all the same
        async with self._lock:
            self._taken_soon.cancel()
            taken, self._events = self._events, []
            try:
                events = [self._with_receipt(await self._with_last_words(event)) for event in taken]
            except BaseException:
                self._events[:0] = taken  # nobody else would ever tell of them
                self._arrived.set()
                raise
            actions: list[Action] = []
            for event in events:
                actions += self.directives.observed(event)
            self._note_busy()
            ended = {event.uid for event in events if event.exit is not None}
            begun = {event.uid for event in events} - ended - self._begun
            self._begun |= begun
            await self._carry_out(actions, begun=begun)
            self._tell()

    def _may_be_due_to_a_gpu(self, event: RunEvent) -> bool:
        tenancy = self._tenancies.get(event.uid)
        return event.exit is not None and event.exit.failed and tenancy is not None and bool(tenancy.gpus)

    async def _with_last_words(self, event: RunEvent) -> RunEvent:
        """The event with what the log says of why the job failed, where that may be its GPUs' memory."""
        if event.exit is None or not self._may_be_due_to_a_gpu(event):
            return event
        said = await self.aside(gpu_oom_in, self.executor.log_path(event.uid, event.rank))
        return replace(event, exit=replace(event.exit, gpu_oom=said))

    def _with_receipt(self, event: RunEvent) -> RunEvent:
        if event.exit is None:
            return event
        return replace(event, exit=replace(event.exit, gpu_receipt=self.receipt(event.uid)))

    async def _log_shipped(self, uid: AttemptUid, rank: int, size: int) -> None:
        await self._undisturbed(self._take_shipped(uid, rank, size))

    async def _take_shipped(self, uid: AttemptUid, rank: int, size: int) -> None:
        async with self._lock:
            await self._carry_out(self.directives.log_shipped(uid, rank, size))

    @staticmethod
    async def _undisturbed(work: Coroutine[Any, Any, T]) -> T:
        """Does all of it even if the caller is cancelled half way: what is journaled must also be done."""
        return await asyncio.shield(asyncio.ensure_future(work))

    # ------------------------------------------------------------ doing

    async def _carry_out(
        self, actions: list[Action], epoch: int | None = None, begun: Collection[AttemptUid] = ()
    ) -> None:
        """Journals, then acts, in order. The lock is held, or nobody else is there yet."""
        for action in await self._journaled(actions, epoch, begun):
            if self._closed:
                return
            try:
                self._do(action)
            except Exception as error:
                logger.exception("action.failed action=%s", type(action).__name__)
                if isinstance(action, Accept):
                    text = f"the agent failed to launch this: {type(error).__name__}"
                    self.executor.abandon(action.order, text)

    async def _journaled(self, actions: list[Action], epoch: int | None, begun: Collection[AttemptUid]) -> list[Action]:
        """Makes them durable; returns those to carry out: on a full disk nothing is accepted."""
        durable = any(needs_sync(action) for action in actions)
        try:
            if durable or epoch not in (None, self._journal.epoch):
                await self.aside(self._journal.write, actions, epoch, begun)
            else:
                self._journal.write(actions, None, begun)  # needs no sync
        except OSError as error:
            logger.error("journal.not_written error=%r", str(error))  # noqa: TRY400
            text = f"the agent cannot write its journal: {error.strerror}"
            for action in actions:
                if isinstance(action, Accept):
                    self.directives.not_journaled(action.order.uid, text, time.time())
            # The rest is done all the same. An end that is not on disk is found again in the run's own record; a bar
            # holds for as long as this agent lives, and answers from before its successor's start do not reach that.
            return [action for action in actions if not isinstance(action, Accept)]
        return actions

    def _do(self, action: Action) -> None:
        match action:
            case Accept(order, deadline):
                logger.info("run.accepted job=%s attempt=%d uid=%s", order.job.id, order.number, order.uid)
                self._tenancies[order.uid] = _tenancy(order, time.monotonic())
                self._company.launched(order.uid, time.monotonic())
                self.executor.launch(order, deadline)
                self.logs.watch(order.uid, order.rank, self._log_path(order), True, order.log_cap_bytes)
            case Stop(uid, rank, kind, grace_seconds):
                if not self.executor.stop(uid, rank, kind, grace_seconds):
                    logger.error("run.unstoppable uid=%s rank=%d", uid, rank)
            case Go(uid, rank):
                self.executor.go(uid, rank)
            case Extend(uid, rank, deadline):
                self.executor.extend(uid, rank, deadline)
            case Pardon(uuid, fault):
                self.pardon(uuid, fault)
            case Connect(order):
                self.connect(order)
            case Bar(uid, text):
                logger.warning("run.barred uid=%s text=%s", uid, text)
            case Sweep(uid):
                self._sweep(uid)
            case RecordEnd(uid, rank, end):
                logger.info(
                    "run.ended uid=%s rank=%d reason=%s exit_code=%s", uid, rank, end.reason.value, end.exit_code
                )
                self.logs.ended(uid, rank, end.log_size)
            case Drop(uid, rank):
                self._begun.discard(uid)
                self.logs.dropped(uid, rank)
                self.executor.remove(uid, rank)

    def _sweep(self, uid: AttemptUid) -> None:
        if uid not in self._sweeps:
            self._sweeps[uid] = asyncio.ensure_future(self._swept(uid))

    async def _swept(self, uid: AttemptUid) -> None:
        may_have = False  # found something: a look that failed may have killed it
        while True:
            try:
                found = await self.executor.sweep(uid) or may_have
                break
            except Exception:
                logger.exception("sweep.failed uid=%s", uid)
                may_have = True
                await asyncio.sleep(SWEEP_SECONDS)
        del self._sweeps[uid]
        async with self._lock:
            self.directives.swept(uid, time.time(), found)
            self._tell()

    # ------------------------------------------------------------ keeping in step

    def _tell(self) -> None:
        if self.directives.is_urgent:
            self.news.set()
        elif self.directives.has_news:
            self._told_soon.ask()

    def _follow_logs(self) -> None:
        """Has every log that is held shipped, from wherever the controller says it stands."""
        for order, end in self.directives.runs:
            self.logs.watch(order.uid, order.rank, self._log_path(order), False, order.log_cap_bytes)
            if end is not None:
                self.logs.ended(order.uid, order.rank, end.log_size)
        self._note_busy()

    def _note_busy(self) -> None:
        live: Iterable[RunOrder] = [order for order, end in self.directives.runs if end is None]
        now = time.monotonic()
        self._tenancies = {order.uid: self._tenancies.get(order.uid) or _tenancy(order, now) for order in live}

    def _log_path(self, order: RunOrder) -> Path:
        return self.executor.log_path(order.uid, order.rank)


class _Soon:
    """Sets an event COMPANY_SECONDS after it was first asked to, and not yet cancelled."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._handle: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(COMPANY_SECONDS, self._event.set)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _tenancy(order: RunOrder, now: float) -> Tenancy:
    rank = order.ranks[order.rank]
    return Tenancy(order.job.id, rank.gpus, now, rank.gpu_share_bytes)
