"""What an agent holds, and what follows from each message and event. Pure: no clock, no disk, no process.

Messages and run events go in, actions come out; the daemon carries actions out in the order given, the simulation
plays them. The rules, each written for messages that are lost, repeated, reordered or late:

- an attempt is accepted once: a run order for one that is held, barred or ended changes nothing;
- an attempt to be stopped that was never accepted is barred: no later order can start it here;
- an end is reported until the controller says forget, and its run is dropped only when its log has arrived too;
- nothing follows from an answer older than the last one applied.

What the caller owes: make Accept, Bar and RecordEnd of one call durable before it builds the next request, so that no
controller is told what a crash could make this agent forget.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent.actions import Accept, Action, Bar, Connect, Drop, Extend, Go, Pardon, RecordEnd, Stop, Sweep
from agent.holding import Entry, Held, Reporter, named
from agent.runs import RunEvent
from gpuq.accounts import EVERYONES, Accounts
from gpuq.model import AttemptUid, EndReason, ExitRecord, NodeName, OnLost, RankPhase, StopKind
from gpuq.node import GpuHealth, Inventory, NodeSample
from gpuq.protocol import MAX_REPORTS, PROTOCOL, UNKNOWN_RANK, Overuse, RunOrder, StopOrder, SyncReply, SyncRequest

_NOT_STARTED = "stopped before it was started here"
_FOUND = "it ran here without this agent's knowledge, and was killed"
_PHASES = tuple(RankPhase)  # in the order they are passed through
_UID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Directives:
    """What an agent holds and what follows from each message and event.

    held and barred come from the journal; unswept are barred attempts likewise, which are reported once `swept` says
    that nothing lives of them. An attempt of another boot without an exit record ended with its machine: it is
    reported as NODE_LOST. Ends this class writes down itself are stamped with `wall`, in wall seconds, as given to
    the call they follow from. accounts, which may be set anew, says whose jobs are run here.

    A barred attempt is reported with rank UNKNOWN_RANK where no order told the rank: the controller knows which of
    the attempt's ranks is on this node.
    """

    def __init__(
        self,
        node: NodeName,
        boot_id: str,
        incarnation: int,
        held: Iterable[Held],
        barred: Iterable[AttemptUid] = (),
        *,
        unswept: Iterable[AttemptUid] = (),
        accounts: Accounts = EVERYONES,
        epoch: int = 0,
        wall: float = 0.0,
    ) -> None:
        self.node, self.boot_id, self.incarnation = node, boot_id, incarnation
        self.accounts = accounts
        self.sequence = 0
        self.applied = (epoch, 0)  # (epoch, generation) of the last answer applied
        self._answered = 0  # sequence of the last answer applied
        self._entries: dict[AttemptUid, Entry] = {}
        self._reporter = Reporter()
        self._news = self._urgent = True
        self._inventory: Inventory | None = None
        self._gpu_uuids: dict[int, str] = {}
        self._quarantined: dict[int, str] = {}
        self._hash = ""
        self._hash_sent = (0, "")  # the last request that carried an inventory, and its hash
        self._hash_confirmed: str | None = None
        self._overuse: tuple[Overuse, ...] = ()
        for h in held:
            end = h.exit
            if end is None and h.boot_id != boot_id:
                text = "the machine was restarted under it"
                end = ExitRecord(EndReason.NODE_LOST, ended_at=wall, text=text, log_size=h.log_size)
            phase = RankPhase.ACCEPTED if end is None else RankPhase.ENDED
            self._entries[h.order.uid] = Entry(h.order.uid, h.order.rank, h.order, phase, exit=end)
        for uid in barred:
            if uid not in self._entries:
                self._entries[uid] = Entry.barred(uid, UNKNOWN_RANK, _NOT_STARTED, wall)
        for uid in unswept:
            if uid not in self._entries:
                self._entries[uid] = Entry(uid, UNKNOWN_RANK, None, RankPhase.ORDERED)

    # ------------------------------------------------------------ out to the controller

    @property
    def has_news(self) -> bool:
        """Whether something changed since the last request was built that the controller should hear of."""
        return self._news

    @property
    def is_urgent(self) -> bool:
        """Whether it should hear at once: more follows from it than that a run has come one step further."""
        return self._news and self._urgent

    @property
    def holds(self) -> tuple[AttemptUid, ...]:
        return tuple(e.uid for e in self._entries.values() if not e.forgotten)

    @property
    def runs(self) -> tuple[tuple[RunOrder, ExitRecord | None], ...]:
        """Every accepted attempt that is held, with its end if it has ended."""
        return tuple((e.order, e.exit) for e in self._entries.values() if e.order is not None)

    def request(self, wait_seconds: float, sample: NodeSample | None = None) -> SyncRequest:
        """The next request; each call uses up a sequence number, whether or not the request is ever sent."""
        self.sequence += 1
        with_inventory = self._hash != self._hash_confirmed and self._inventory is not None
        if with_inventory:
            self._hash_sent = (self.sequence, self._hash)
        reports, more = self._reporter.reports(self._entries.values(), self.sequence)
        self._news = self._urgent = more
        return SyncRequest(
            protocol=PROTOCOL,
            node=self.node,
            boot_id=self.boot_id,
            incarnation=self.incarnation,
            sequence=self.sequence,
            epoch=self.applied[0],
            generation=self.applied[1],
            holds=named(self._entries.values()),
            reports=reports,
            inventory=self._inventory if with_inventory else None,
            inventory_hash=self._hash,
            sample=sample,
            wait_seconds=wait_seconds,
            overuse=self._overuse,
        )

    def set_inventory(self, inventory: Inventory, hash: str) -> None:
        """What the node offers now. Sent until an answer to a request that carried it arrives."""
        self._inventory = inventory
        self._gpu_uuids = {gpu.index: gpu.uuid for gpu in inventory.gpus}
        self._quarantined = {g.index: g.health_text for g in inventory.gpus if g.health is GpuHealth.QUARANTINED}
        if hash != self._hash:
            self._news = self._urgent = True
        self._hash = hash

    def set_overuse(self, overuse: tuple[Overuse, ...]) -> None:
        """Who has more of a GPU than its share, as of the last reading: part of every request until the next.

        That it begins or ends is news, that it lasts is not.
        """
        self._news |= {over.uid for over in overuse} != {over.uid for over in self._overuse}
        self._overuse = overuse[:MAX_REPORTS]

    # ------------------------------------------------------------ in from the controller

    def answered(self, reply: SyncReply, sent_at: float, wall: float = 0.0) -> list[Action]:
        """Apply an answer. sent_at is when the request it answers was sent, in seconds of CLOCK_BOOTTIME."""
        if not self._is_next(reply):
            return []
        restored = reply.epoch > self.applied[0]
        if restored:
            # The controller came back in an older state: what it once acknowledged it may not know now.
            self._hash_confirmed = None
            for entry in self._entries.values():
                entry.confirmed = entry.forgotten = False
                entry.shipped = 0
        self.applied = (reply.epoch, reply.generation)
        self._answered = reply.sequence
        for entry in self._entries.values():
            entry.confirmed |= entry.sent_in == reply.sequence
        if self._hash_sent[0] == reply.sequence:
            self._hash_confirmed = self._hash_sent[1]
        if restored and not all(e.confirmed for e in self._entries.values()):
            self._news = self._urgent = True
        if reply.want_inventory:
            self._hash_confirmed = None
            self._news = self._urgent = True
        actions: list[Action] = []
        # Stops before runs: an answer that says both means the attempt must not start.
        for stop in reply.stop:
            actions += self._stop(stop, wall)
        deadline = sent_at + reply.lease_seconds
        for order in reply.run:
            actions += self._run(order, deadline, wall)
        for uid in reply.go:
            actions += self._go(uid)
        for uid in reply.extend:
            actions += self._extend(uid, deadline)
        for uid in reply.forget:
            actions += self._forget(uid)
        for uid in reply.describe:
            if uid in self._entries:
                self._entries[uid].changed()
                self._entries[uid].described = False
                self._news = self._urgent = True
        actions += [Pardon(pardon.uuid, pardon.fault) for pardon in reply.pardon]
        return actions + [Connect(order) for order in reply.streams]

    def renew(self, incarnation: int) -> None:
        """Speaks as this incarnation from now on, and tells everything again."""
        self.incarnation, self._hash_confirmed = incarnation, None
        for entry in self._entries.values():
            entry.changed()
        self._news = self._urgent = True

    def _is_next(self, reply: SyncReply) -> bool:
        if reply.superseded or reply.incarnation != self.incarnation:
            return False
        if not self._answered < reply.sequence <= self.sequence:
            return False
        return (reply.epoch, reply.generation) >= self.applied

    def _run(self, order: RunOrder, deadline: float, wall: float) -> list[Action]:
        entry = self._entries.get(order.uid)
        if entry is not None:
            entry.changed()  # whoever orders it has not heard, or has lost, what was reported
            return []
        if self._inventory is None and order.gpu_uuids:
            return []  # the GPUs are not known yet; the order comes again
        mismatch = self._mismatch(order)
        self._news = True
        if mismatch:
            self._urgent = True
            self._entries[order.uid] = Entry.barred(order.uid, order.rank, mismatch, wall)
            return [Bar(order.uid, mismatch)]
        lease = deadline if order.job.on_lost is OnLost.FENCE else None
        self._entries[order.uid] = Entry(order.uid, order.rank, order, RankPhase.ACCEPTED, deadline=lease)
        return [Accept(order, lease)]

    def _mismatch(self, order: RunOrder) -> str | None:
        """Why this order cannot be meant for this machine and account as they are, or None."""
        if refusal := self.accounts.refusal(order.job.user):
            return f"{self.node} {refusal}"
        if not _UID.fullmatch(order.uid):
            return "the order names its attempt by what is not a name"  # nor that of a directory here
        if not 0 <= order.rank < len(order.ranks) or order.ranks[order.rank].node != self.node:
            return f"the order is not for node {self.node}"
        for index, uuid in zip(order.ranks[order.rank].gpus, order.gpu_uuids, strict=False):
            here = self._gpu_uuids.get(index)
            if here != uuid:
                return f"GPU {index} was granted as {uuid} but is {here or 'not there'}"
            if index in self._quarantined:
                return f"GPU {index} is quarantined: {self._quarantined[index]}"
        return None

    def _stop(self, stop: StopOrder, wall: float) -> list[Action]:
        entry = self._entries.get(stop.uid)
        if entry is None and not _UID.fullmatch(stop.uid):
            return []  # what is looked for by it, to be killed, would be more than one attempt's
        if entry is None:
            self._entries[stop.uid] = Entry(stop.uid, UNKNOWN_RANK, None, RankPhase.ORDERED)
            return [Bar(stop.uid, _NOT_STARTED), Sweep(stop.uid)]
        if entry.exit is not None or entry.order is None:
            entry.changed()
            return []
        known = entry.stop or stop
        kind = stop.kind if stop.kind is StopKind.CANCEL else known.kind  # a cancel replaces any other kind
        entry.stop = StopOrder(stop.uid, kind, min(known.grace_seconds, stop.grace_seconds))
        if entry.stopping and entry.stop == known:
            return []
        return [Stop(entry.uid, entry.rank, entry.stop.kind, entry.stop.grace_seconds)]

    def _go(self, uid: AttemptUid) -> list[Action]:
        entry = self._entries.get(uid)
        if entry is None or entry.phase is not RankPhase.READY or entry.stopping:
            return []
        return [Go(uid, entry.rank)]

    def _extend(self, uid: AttemptUid, deadline: float) -> list[Action]:
        entry = self._entries.get(uid)
        if entry is None or entry.exit is not None or not entry.leased:
            return []
        if entry.deadline is not None and deadline <= entry.deadline:
            return []
        entry.deadline = deadline
        return [Extend(uid, entry.rank, deadline)]

    def _forget(self, uid: AttemptUid) -> list[Action]:
        entry = self._entries.get(uid)
        # A run that has not ended here is never forgotten: the controller will hear of it, and stop it if it must.
        if entry is None or entry.exit is None:
            return []
        entry.forgotten = True
        return self._drop_if_done(entry)

    def _drop_if_done(self, entry: Entry) -> list[Action]:
        if not entry.done:
            return []
        del self._entries[entry.uid]
        return [Drop(entry.uid, entry.rank)]

    # ------------------------------------------------------------ in from this machine

    def observed(self, event: RunEvent) -> list[Action]:
        """A run's progress, by the executor's word, which may repeat itself and skip phases.

        What goes back to an earlier phase, or follows the end, is ignored.
        """
        entry = self._entries.get(event.uid)
        if entry is None:
            ended = event.phase is RankPhase.ENDED
            return [Drop(event.uid, event.rank) if ended else Sweep(event.uid)]
        if entry.exit is not None or entry.order is None or _PHASES.index(event.phase) < _PHASES.index(entry.phase):
            return []
        before = (entry.phase, entry.stopping, entry.started_at)
        entry.phase, entry.stopping = event.phase, entry.stopping or event.stopping
        entry.started_at = entry.started_at if event.started_at is None else event.started_at
        if event.exit is not None:
            entry.phase, entry.exit = RankPhase.ENDED, replace(event.exit, gpu_fault=entry.fault)
        elif before == (entry.phase, entry.stopping, entry.started_at):
            return []
        entry.changed()
        self._news = True
        self._urgent |= entry.exit is not None or entry.phase is RankPhase.READY
        return [] if entry.exit is None else [RecordEnd(entry.uid, entry.rank, entry.exit, event.recorded)]

    def gpus_failed(self, fatal: Mapping[int, str]) -> list[Action]:
        """GPUs with a fault that nobody's work on them survives, by index: who holds one is ended, for that reason.

        To be told again for as long as it is so, and before an end that may be due to it.
        """
        actions: list[Action] = []
        for entry in self._entries.values():
            if entry.order is None or entry.exit is not None:
                continue
            failed = [index for index in entry.order.ranks[entry.rank].gpus if index in fatal]
            if not failed:
                continue
            entry.fault = f"GPU {failed[0]} of {self.node}: {fatal[failed[0]]}"
            if entry.stop is None:
                entry.stop = StopOrder(entry.uid, StopKind.GPU_FAULT, entry.order.job.grace_seconds)
            if entry.stop.kind is StopKind.GPU_FAULT and not entry.stopping:
                actions.append(Stop(entry.uid, entry.rank, StopKind.GPU_FAULT, entry.stop.grace_seconds))
        return actions

    def swept(self, uid: AttemptUid, wall: float = 0.0, found: bool = False) -> list[Action]:
        """Nothing lives of this attempt: if it is barred, that can be said now, and whether anything was found."""
        entry = self._entries.get(uid)
        if entry is not None and entry.phase is RankPhase.ORDERED:
            self._entries[uid] = Entry.barred(uid, entry.rank, _FOUND if found else _NOT_STARTED, wall, ran=found)
            self._news = self._urgent = True
        return []

    def not_journaled(self, uid: AttemptUid, text: str, wall: float = 0.0) -> list[Action]:
        """An Accept could not be made durable and was not launched: it never will be.

        The bar is in memory only, which suffices: a later incarnation takes orders only from answers to its own
        requests, and the controller computes those after it took, or for ever ignores, this one's report.
        """
        entry = self._entries[uid]
        self._entries[uid] = Entry.barred(uid, entry.rank, text, wall)
        self._news = self._urgent = True
        return []

    def log_shipped(self, uid: AttemptUid, rank: int, size: int) -> list[Action]:
        """The controller has the first `size` bytes of this log on disk; fewer than before if it was restored."""
        entry = self._entries.get(uid)
        if entry is None or entry.rank != rank:
            return []
        entry.shipped = size
        return self._drop_if_done(entry)
