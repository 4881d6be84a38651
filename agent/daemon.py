"""The agent as a process: starts its parts, keeps them running, and ends cleanly, leaving its jobs alone.

STATE/agent.lock    held while an agent uses this directory
STATE/agent.json    name, pid and version of that agent, and whether the controller has answered it
STATE/gpus.json     the GPUs seen in this boot and their faults: until the driver answers they are unknown rather than
                    not there, and one that was here in the boot before is missed
STATE/usage.json    what attempts made of their GPUs so far
STATE/cgroups       folders below which runs have their control groups, or had them when it last was started elsewhere
STATE/journal, STATE/runs/, STATE/launcher/     see agent/journal.py, runs.py, launcher_link.py
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.accounts import LocalAccounts, local_accounts
from agent.address import own_address
from agent.cgroups import find_cgroups, with_earlier
from agent.claim import claim_real_gpus
from agent.desk import AgentDesk
from agent.faults import Kept
from agent.gpus import RealGpus, Remembered
from agent.journal import Journal, JournalLost
from agent.monitor import GpuSource, Monitor, inventory_hash, read_host_facts
from agent.relay import Relays, StreamPeer
from agent.selection import ALL, parse_selection
from agent.shares import Shares
from agent.simulated import SimulatedGpus, parse_simulated
from agent.sync import Exchange
from agent.threads import started
from agent.usage import Meters, Usage
from gpuq.client.aio import AgentClient
from gpuq.codec import decode, encode
from gpuq.errors import Conflict, InvalidRequest
from gpuq.model import NodeName, Now
from gpuq.node import GpuHealth, Inventory
from gpuq.ownlog import cut_own_log
from gpuq.protocol import POLL_SECONDS, LogReply, LogShipment, SyncReply, SyncRequest
from gpuq.version import VERSION

logger = logging.getLogger(__name__)

# Between a background loop's death and its next life: a defect that strikes each time must not fill the disk with
# tracebacks, one that strikes once must not be noticed.
RESTART_SECONDS, RESTART_MAX_SECONDS = 0.5, 30.0
# Between writes of what attempts made of their GPUs: as much of a receipt is lost with an agent that is killed.
USAGE_SECONDS = 60.0
# For all that blocks but what an order or an end waits for (see desk.py). At once there are the logs' reading, the
# deleting of ended runs, and the controller's name to be looked up for three connections, where a silent name server
# holds each for half a minute. The other three are for what there can be any number of, and which may wait its turn, as
# it takes milliseconds: rounds of the search for survivors, and names for the connections of streams.
THREADS = 8


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """gpus limits what is offered ('1-3'); simulate offers pretend GPUs instead ('8xH100-80GB').

    shared_account, root_jobs: whose jobs are run, and in which account; see local_accounts.
    """

    name: str
    controller_url: str
    token: str = field(repr=False)
    ca_pem: str = field(repr=False)
    state_dir: Path
    gpus: str | None = None
    simulate: str | None = None
    shared_account: bool = False
    root_jobs: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


class Peer(StreamPeer, Protocol):
    """The controller, as gpuq.client.aio.AgentClient speaks to it."""

    async def sync(self, request: SyncRequest) -> SyncReply: ...

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply: ...

    async def close(self) -> None: ...


def _client(settings: AgentSettings) -> Peer:
    return AgentClient(settings.controller_url, settings.token, settings.ca_pem)


async def run_agent(settings: AgentSettings, connect: Callable[[AgentSettings], Peer] = _client) -> int:
    """Runs the agent until SIGTERM or SIGINT; returns the exit status: 0, or 1 if its state on disk is lost.

    Raises Conflict if another agent uses the state directory or the GPUs, InvalidRequest for settings that say
    nothing, Incompatible if the state is of another version, Unavailable if the agent's threads cannot be started,
    OSError if the directory cannot be used.
    """
    state = settings.state_dir
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with ExitStack() as stack:
        stack.enter_context(_locked(state, settings.name))
        threads = started(THREADS, "agent")
        stack.callback(threads.shutdown, wait=False)
        asyncio.get_running_loop().set_default_executor(threads)
        accounts = local_accounts(state, settings.shared_account, settings.root_jobs)
        host = read_host_facts()
        source = _gpu_source(settings, state, host.boot_id, stack)
        way = settings.controller_url
        cgroups = with_earlier(find_cgroups(), state / "cgroups")
        monitor = Monitor(
            source, host, state, labels=settings.labels, address=lambda: own_address(way), enforced=cgroups.enforced
        )
        stack.callback(monitor.close)
        journal = Journal(state / "journal", host.boot_id, time.time())
        stack.callback(journal.close)
        stack.enter_context(_signals(ended))
        peer = connect(settings)
        desk = AgentDesk(state, journal, peer, accounts, cgroups)
        relays = Relays(peer, desk.executor.reach)
        desk.connect = relays.connect
        loops: list[asyncio.Task[None]] = []
        try:
            await desk.start(NodeName(settings.name), host.boot_id)
            _announce(state, settings.name, connected=False)

            def in_touch(connected: bool) -> None:
                _announce(state, settings.name, connected)
                if connected:
                    desk.logs.reachable()

            exchange = Exchange(peer, desk, in_touch)
            remembered = source.remembered if isinstance(source, RealGpus) else None
            meters = _Meters(state / "usage.json")
            stack.callback(meters.keep)
            watch = _Watch(monitor, desk, accounts, _Memory(state / "gpus.json", host.boot_id, remembered), meters)
            accounts.changed, desk.pardon, desk.look = watch.tell, watch.pardon, watch.look
            desk.receipt = meters.receipt
            await watch.look()  # so that the first thing the controller hears is what there is; takes seconds at most
            for name, loop in (
                ("work", desk.work),
                ("exchange", exchange.run),
                ("logs", desk.logs.run),
                ("monitor", watch.run),
                ("accounts", accounts.run),
            ):
                loops.append(asyncio.create_task(_kept_running(name, loop, ended), name=name))
            status = await ended
            logger.info("agent.stopping status=%d", status)
            return status
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await relays.close()
            await desk.close()
            await peer.close()
            (state / "agent.json").unlink(missing_ok=True)


async def _kept_running(name: str, loop: Callable[[], Awaitable[None]], ended: asyncio.Future[int]) -> None:
    """Runs a loop that never returns; when it dies it is started again, and the log says why."""
    pause = RESTART_SECONDS
    while True:
        started = time.monotonic()
        try:
            await loop()
        except JournalLost as error:
            logger.critical("agent.state_lost text=%s", error)
            if not ended.done():
                ended.set_result(1)
            return
        except Exception:
            logger.exception("loop.died name=%s", name)
        if time.monotonic() - started > RESTART_MAX_SECONDS:
            pause = RESTART_SECONDS
        await asyncio.sleep(pause)
        pause = min(2 * pause, RESTART_MAX_SECONDS)


@contextmanager
def _signals(ended: asyncio.Future[int]) -> Iterator[None]:
    """SIGTERM and SIGINT end the agent with status 0, a second one too; within it only."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not ended.done():
            ended.set_result(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def _locked(state: Path, name: str) -> Iterator[None]:
    """One agent per state directory: two would launch from one journal. Raises Conflict naming the other."""
    fd = os.open(state / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            try:
                other = json.loads((state / "agent.json").read_text())
                who = f"the agent '{other['name']}' (pid {other['pid']})"
            except (OSError, ValueError, LookupError, TypeError):
                who = "another agent"
            raise Conflict(f"{who} already uses {state}", f"stop it first, or give '{name}' another --home") from error
        yield
    finally:
        os.close(fd)


def _announce(state: Path, name: str, connected: bool) -> None:
    own = {"name": name, "pid": os.getpid(), "version": VERSION, "connected": connected}
    _write(state / "agent.json", own)


def _write(path: Path, content: object) -> None:
    """Replaces a small file, so that a reader sees the old one or the new one. A full disk is not worth ending for."""
    fresh = path.with_name(path.name + ".new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(content, file)
        fresh.replace(path)
    except OSError as error:
        logger.warning("state.not_written path=%s error=%r", path, str(error))
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


# ---------------------------------------------------------------- the machine


def _gpu_source(settings: AgentSettings, state: Path, boot_id: str, stack: ExitStack) -> GpuSource:
    if settings.simulate is not None:
        return SimulatedGpus(parse_simulated(settings.simulate, NodeName(settings.name)))
    selection = ALL if settings.gpus is None else parse_selection(settings.gpus)
    if not selection.everything and not selection.indices and not selection.uuids:
        return RealGpus(selection)  # none: they are anybody's to claim
    stack.enter_context(claim_real_gpus(settings.name))
    return RealGpus(selection, _remembered(state / "gpus.json", boot_id))


def _remembered(path: Path, boot_id: str) -> Remembered:
    try:
        found = json.loads(path.read_bytes())
        remembered = decode(Remembered, found)
        if found["boot_id"] == boot_id:
            return remembered
        before = remembered.known + remembered.before
    except (OSError, ValueError, LookupError, TypeError, InvalidRequest):
        before = ()
    # Faults are numbered on from the time, so that a pardon for one of an earlier boot is for none of this one.
    return Remembered(faults=Kept(int(time.time())), before=before)


class _Memory:
    """What is written down of the machine's GPUs, when it has changed."""

    def __init__(self, path: Path, boot_id: str, remembered: Callable[[], Remembered] | None) -> None:
        self._path, self._boot_id, self._remembered = path, boot_id, remembered
        self._written: Remembered | None = None

    def keep(self) -> None:
        remembered = None if self._remembered is None else self._remembered()
        if remembered is not None and remembered != self._written and (remembered.known or self._written):
            self._written = remembered
            _write(self._path, {"boot_id": self._boot_id, **encode(remembered)})


class _Meters(Meters):
    """Meters that are written down now and then, so that a receipt does not begin anew with each agent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept_at = time.monotonic()
        try:
            before = decode(Usage, json.loads(path.read_bytes()))
        except (OSError, ValueError, InvalidRequest):
            before = Usage()
        self._kept = before
        super().__init__(before)

    def keep_now_and_then(self) -> None:
        if time.monotonic() - self._kept_at >= USAGE_SECONDS:
            self.keep()

    def keep(self) -> None:
        self._kept_at = time.monotonic()
        if self.usage() != self._kept:
            self._kept = self.usage()
            _write(self._path, encode(self._kept))


class _Watch:
    """Reads the machine before each heartbeat, and tells the desk what has changed."""

    def __init__(
        self, monitor: Monitor, desk: AgentDesk, accounts: LocalAccounts, memory: _Memory, meters: _Meters
    ) -> None:
        self._monitor, self._desk, self._accounts, self._memory = monitor, desk, accounts, memory
        self._meters = meters
        self._shares = Shares()
        self._told: Inventory | None = None
        self._pardons: list[tuple[str, int]] = []
        self._hurry = asyncio.Event()
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Never returns."""
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), POLL_SECONDS)
            self._hurry.clear()
            await self.look()

    def pardon(self, uuid: str, fault: int) -> None:
        """Has an admin's word on a fault tried at once."""
        self._pardons.append((uuid, fault))
        self._hurry.set()

    async def look(self) -> None:
        async with self._looking:
            pardons, self._pardons = self._pardons, []
            for uuid, fault in pardons:
                self._monitor.pardon(uuid, fault)
            now = Now(time.monotonic(), time.time())
            sample = await self._desk.aside(self._monitor.sample, now, self._desk.tenancies())
            self._meters.observe(now.monotonic, self._desk.tenancies(), sample.gpus, self._desk.just_ended())
            self._meters.keep_now_and_then()
            self._desk.set_overuse(self._shares.observe(now.monotonic, self._desk.tenancies(), sample.gpus))
            self._memory.keep()  # before anybody is told
            with suppress(OSError):
                cut_own_log()
            self._desk.executor.name_gpus_by_uuid(self._monitor.reading.renumbered)
            self.tell()
            await self._desk.gpus_failed(self._monitor.reading.fatal)
            self._desk.set_sample(sample)

    def tell(self) -> None:
        """Tells the desk what the node offers, and to whom, if that has changed."""
        inventory = replace(self._monitor.inventory(), accounts=self._accounts.stated)
        if inventory != self._told:
            self._told = inventory
            for gpu in inventory.gpus:
                if gpu.health is not GpuHealth.OK:
                    logger.warning("gpu.%s index=%d text=%s", gpu.health.value, gpu.index, gpu.health_text)
            logger.info(
                "inventory.changed gpus=%d note=%s trouble=%s",
                len(inventory.gpus),
                inventory.gpu_note,
                inventory.trouble,
            )
            self._desk.set_inventory(inventory, inventory_hash(inventory))
