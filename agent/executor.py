"""Runs ranks on this machine: has them launched, follows their supervisors, and takes them up again after a restart.

    Executor -> launcher (one small process) -> a supervisor for each rank -> the job

Each run is followed over a connection to its supervisor. When it closes, the run's directory says what that means:
an exit record is the end; a supervisor that still runs is connected to again; one that is gone may have left processes
that nobody watches: no end is reported here that a supervisor has not written before these were looked for, killed, and
seen to be gone. It is NEVER_STARTED only if there were none and no supervisor was ever heard, else SUPERVISOR_LOST.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.accounts import AccountRefused, LocalAccounts
from agent.cgroups import NONE, Cgroups
from agent.launcher_link import LauncherLink
from agent.preparation import Preparation
from agent.run_cgroup import remove_all
from agent.runs import Identity, RunDir, RunEvent, boot_id, existing
from agent.socket_link import SocketLink
from agent.survivors import Traces, end_all
from gpuq.codec import decode
from gpuq.model import AttemptUid, EndReason, ExitRecord, RankPhase, StopKind
from gpuq.protocol import RunOrder

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.2
BURY_SECONDS = 2.0  # between tries to end a run of which nothing may be left
# Directories are deleted when nothing was launched for so long, or after the second at the latest: nobody waits for
# it, and under a queue of short jobs it took a fifth of a millisecond from each, and on file systems that pass over
# what was deleted lately (ext4 without a journal) as much again from each file made for the next.
REMOVE_SECONDS, REMOVE_MAX_SECONDS = 0.1, 10.0


class _Run:
    """What is known of one rank here."""

    def __init__(self, uid: AttemptUid, rank: int, directory: RunDir) -> None:
        self.directory = directory
        self.event = RunEvent(uid, rank, RankPhase.ACCEPTED)
        self.link: SocketLink | None = None
        self.unsent: list[bytes] = []  # for a supervisor that is not connected yet
        self.heard = False  # whether the supervisor has spoken to this agent: nothing is started before it has
        self.begun = False  # whether it ever has
        self.refused = ""  # why the launcher could not start one
        self.task: asyncio.Task[None] | None = None


class Executor:
    """All runs below state_dir/runs. Lives on one event loop; every method is to be called from it.

    on_event is told each change of a run, in order; it may call back into the executor. accounts: whose runs take
    another account than this process'; without it none does. cgroups: what runs are enclosed in. pause is asyncio.sleep
    but in tests.
    """

    def __init__(
        self,
        state_dir: Path,
        on_event: Callable[[RunEvent], None],
        accounts: LocalAccounts | None = None,
        cgroups: Cgroups = NONE,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cgroups, self._pause = cgroups, pause
        self._runs_dir = state_dir / "runs"
        self._on_event = on_event
        self._runs: dict[tuple[AttemptUid, int], _Run] = {}
        self._launcher = LauncherLink(state_dir)
        self._boot_id = boot_id()
        self._preparation = Preparation(self._boot_id, accounts, cgroups)
        self._doomed: list[RunDir] = []
        self._launched = 0  # how many
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- for the daemon

    async def start(self, held: Mapping[tuple[AttemptUid, int], bool] | None = None) -> None:
        """Starts the launcher and takes up all runs: those found on disk and those held.

        held: the runs accepted in this boot whose end is not known, and whether they are known to have begun.
        How far each has come arrives as events, at once or when its supervisor answers or what is left of it is gone.
        """
        held = held or {}
        self._runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._launcher.start()
        for uid, rank, directory in existing(self._runs_dir):
            self._runs[uid, rank] = _Run(uid, rank, directory)
        for key in held.keys() - self._runs.keys():
            self._runs[key] = _Run(*key, self._directory(*key))
        for key, run in self._runs.items():
            run.heard, run.begun = True, held.get(key, False)
            self._take_up(run)

    def launch(self, order: RunOrder, lease_deadline: float | None = None) -> None:
        """Starts this rank; what becomes of it, failures included, arrives as events. Launching it twice does nothing.

        lease_deadline, in seconds of CLOCK_BOOTTIME, is when its supervisor ends it unless it is extended; None: never.
        """
        key = order.uid, order.rank
        if key in self._runs:
            return
        run = self._runs[key] = _Run(*key, self._directory(*key))
        self._launched += 1
        try:
            launch = self._preparation.at_once(order, run.directory)
        except OSError as error:
            run.task = self._spawn(self._bury(run, EndReason.NEVER_STARTED, _unprepared(error)))
            return
        if launch is None:
            run.task = self._spawn(self._launch_prepared(run, order, lease_deadline))
        else:
            self._hand_over(run, launch, lease_deadline)

    def stop(self, uid: AttemptUid, rank: int, kind: StopKind, grace_seconds: float) -> bool:
        """Ends a rank: SIGTERM to its tree, SIGKILL after the grace. False if no such rank is held here.

        Before its first process exists this means that none will; asked again, the grace can only become shorter.
        """
        run = self._runs.get((uid, rank))
        if run is None:
            return False
        if run.event.phase is RankPhase.ENDED:
            return True
        if run.task is not None and run.link is None and not run.heard:  # still being prepared
            run.task.cancel()
            self._ended(run, EndReason.NEVER_STARTED, "", kind)
            return True
        self._tell(run, {"v": 1, "op": "stop", "kind": kind.value, "grace": grace_seconds})
        return True

    def go(self, uid: AttemptUid, rank: int) -> None:
        """Starts the job of a rank that is ready, as all of its gang are."""
        run = self._runs.get((uid, rank))
        if run is not None:
            self._tell(run, {"v": 1, "op": "go"})

    def extend(self, uid: AttemptUid, rank: int, deadline: float) -> bool:
        """Moves the end of a rank's lease to deadline, in seconds of CLOCK_BOOTTIME. False if it is not held here."""
        run = self._runs.get((uid, rank))
        if run is not None:
            self._tell(run, {"v": 1, "op": "extend", "deadline": deadline})
        return run is not None

    def abandon(self, order: RunOrder, text: str) -> None:
        """Ends a rank whose launch went wrong half way: LAUNCH_FAILED with this text, if nothing is found of it."""
        key = order.uid, order.rank
        run = self._runs.setdefault(key, _Run(*key, self._directory(*key)))
        if run.task is not None:
            run.task.cancel()
        if run.link is not None:
            run.link.close()
            run.link = None
        run.task = self._spawn(self._bury(run, EndReason.LAUNCH_FAILED, text))

    def name_gpus_by_uuid(self, by_uuid: bool) -> None:
        """Whether jobs launched from now on are told their GPUs by uuid; see environment.granted."""
        self._preparation.by_uuid = by_uuid

    async def sweep(self, uid: AttemptUid) -> bool:
        """Kills whatever runs here of this attempt; returns when nothing is left, and whether there was anything."""
        marks = (b"GPUQ_ATTEMPT=%s" % uid.encode(),)
        return await end_all(
            Traces(marks, f"{os.path.realpath(self._runs_dir)}/{uid}.", groups=self._cgroups.left_of(uid))
        )

    def remove(self, uid: AttemptUid, rank: int) -> None:
        """Forgets a rank that has ended; its directory, log included, is deleted soon. One not held is no error.

        Raises ValueError for a rank that has not ended.
        """
        run = self._runs.get((uid, rank))
        if run is None:
            return
        if run.event.phase is not RankPhase.ENDED:
            raise ValueError(f"{uid}.{rank} has not ended")
        if run.link is not None:
            if not run.event.recorded:
                self._tell(run, {"v": 1, "op": "forget"})
            run.link.close()
        del self._runs[uid, rank]
        self._doomed.append(run.directory)
        if len(self._doomed) == 1:
            self._spawn(self._remove_doomed())

    async def _remove_doomed(self) -> None:
        latest, launched = time.monotonic() + REMOVE_MAX_SECONDS, -1
        while launched != self._launched and time.monotonic() < latest:
            launched = self._launched
            await asyncio.sleep(REMOVE_SECONDS)
        doomed, self._doomed = self._doomed, []
        await asyncio.to_thread(self._remove_all, doomed)

    def _remove_all(self, directories: list[RunDir]) -> None:
        """With what supervisors could not remove of the runs' control groups."""
        for directory in directories:
            remove_all(self._cgroups.left_of_run(directory.path.name))
            directory.remove()

    def log_path(self, uid: AttemptUid, rank: int) -> Path:
        """Where the rank's log grows; the file exists from when its supervisor has started."""
        return self._directory(uid, rank).log

    def reach(self, uid: AttemptUid, rank: int) -> socket.socket | None:
        """A connection to the supervisor of a rank, for a stream; None if none is held here, or it does not answer."""
        run = self._runs.get((uid, rank))
        return None if run is None else run.directory.connect()

    def _directory(self, uid: AttemptUid, rank: int) -> RunDir:
        return RunDir(self._runs_dir / f"{uid}.{rank}")

    async def close(self) -> None:
        """Lets go of everything; supervisors and their jobs go on. No event comes afterwards."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for run in self._runs.values():
            if run.link is not None:
                run.link.close()
        self._remove_all(self._doomed)
        with contextlib.suppress(RuntimeError):  # no thread can be started to wait for a launcher that stays: so be it
            await self._launcher.close()

    # ---------------------------------------------------------------- launching

    async def _launch_prepared(self, run: _Run, order: RunOrder, lease_deadline: float | None) -> None:
        try:
            launch = await self._preparation.launch(order, run.directory)
        except AccountRefused as refused:
            run.task = None
            self._ended(run, EndReason.NEVER_STARTED, f"{order.ranks[order.rank].node} {refused}")
        except OSError as error:
            await self._bury(run, EndReason.NEVER_STARTED, _unprepared(error))
        except Exception as error:
            logger.exception("launch.unprepared run=%s", run.directory.path.name)
            text = f"the agent failed to prepare this: {type(error).__name__}"
            await self._bury(run, EndReason.LAUNCH_FAILED, text)
        else:
            run.task = None
            self._hand_over(run, launch, lease_deadline)

    def _hand_over(self, run: _Run, launch: dict[str, Any], lease_deadline: float | None) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._ended(run, EndReason.NEVER_STARTED, f"cannot reach the launcher: {error.strerror}")
            return
        self._launcher.send(theirs)
        self._connect(run, ours)
        self._tell(run, launch | {"lease": lease_deadline})

    def _connect(self, run: _Run, sock: socket.socket) -> None:
        def on_line(line: bytes) -> None:
            self._heard(run, line)

        def on_close() -> None:
            run.link = None
            self._hung_up(run)

        run.link = SocketLink(sock, on_line, on_close)
        for data in run.unsent:
            run.link.send(data)
        run.unsent.clear()

    def _tell(self, run: _Run, message: Mapping[str, object]) -> None:
        data = json.dumps(message).encode() + b"\n"
        if run.link is None:
            run.unsent.append(data)
        else:
            run.link.send(data)

    # ---------------------------------------------------------------- following

    def _heard(self, run: _Run, line: bytes) -> None:
        state = json.loads(line)
        if "phase" not in state:
            if not run.heard:
                run.refused = str(state.get("error", ""))
            elif "error" in state:
                logger.error("supervisor.refused run=%s error=%s", run.directory.path.name, state["error"])
            return
        if not run.begun:
            run.begun = True
            self._on_event(run.event)
        run.heard = True
        ended = state.get("exit")
        self._emit(
            run,
            replace(
                run.event,
                phase=RankPhase(state["phase"]),
                stopping=bool(state["stopping"]),
                started_at=state["started_at"],
                exit=decode(ExitRecord, ended) if ended is not None else None,
                recorded=bool(state.get("saved")),
            ),
        )

    def _emit(self, run: _Run, event: RunEvent) -> None:
        if event != run.event and run.event.phase is not RankPhase.ENDED:
            run.event = event
            self._on_event(event)

    def _ended(self, run: _Run, reason: EndReason, text: str, stopped: StopKind | None = None) -> None:
        end = replace(run.directory.end(reason, time.time(), text), started_at=run.event.started_at, stopped=stopped)
        self._emit(run, replace(run.event, phase=RankPhase.ENDED, exit=end))

    def _hung_up(self, run: _Run) -> None:
        if run.event.phase is RankPhase.ENDED:
            return
        if not run.heard:  # it says "accepted" before it starts anything
            logger.warning("launch.failed run=%s error=%s", run.directory.path.name, run.refused)
        self._take_up(run, RECONNECT_SECONDS)

    # ---------------------------------------------------------------- taking up

    def _take_up(self, run: _Run, pause: float = 0.0) -> None:
        """Finds out what became of a run whose supervisor is not connected."""
        if self._has_record(run):
            return
        identity, reason, text = None, EndReason.SUPERVISOR_LOST, "the supervisor of this rank died"
        try:
            identity = run.directory.identity()
            if identity is None:
                reason, text = EndReason.NEVER_STARTED, self._why_not_started(run)
        except FileNotFoundError:
            reason, text = EndReason.NEVER_STARTED, self._why_not_started(run)
        except (OSError, ValueError) as error:
            logger.error("run.unreadable run=%s error=%s", run.directory.path.name, error)  # noqa: TRY400
            text = "the identity of its supervisor cannot be read"
        if not run.heard and reason is EndReason.SUPERVISOR_LOST:
            reason, text = EndReason.NEVER_STARTED, "its supervisor died before it could start this"
        if identity is not None and identity.boot_id != self._boot_id:
            self._ended(run, EndReason.NODE_LOST, "the machine was restarted under it")
        else:
            run.task = self._spawn(self._reconnect(run, identity, reason, text, pause))

    @staticmethod
    def _why_not_started(run: _Run) -> str:
        if run.heard:
            return "the agent was restarted before this was started"
        return run.refused or "the launcher died before it could start this"

    def _has_record(self, run: _Run) -> bool:
        """Whether the supervisor has written down the end, which is then told. False if that cannot be seen now."""
        try:
            return self._tell_record(run)
        except OSError:
            return False

    def _tell_record(self, run: _Run) -> bool:
        """As _has_record; raises OSError if it cannot be seen now."""
        try:
            record = run.directory.exit_record()
        except ValueError:
            return False
        if record is not None:
            self._emit(run, replace(run.event, phase=RankPhase.ENDED, started_at=record.started_at, exit=record))
        return record is not None

    async def _reconnect(
        self, run: _Run, identity: Identity | None, reason: EndReason, text: str, pause: float
    ) -> None:
        """Connects to the supervisor, if there is one; otherwise ends the run as _bury does."""
        if identity is not None and identity.alive():
            await asyncio.sleep(pause)  # it is about to be gone, or it hung up on us and would again
        while True:
            # Looked at before connecting: a supervisor that ends in between has left its record.
            alive = identity is not None and identity.alive()
            sock = run.directory.connect()
            if sock is not None:
                run.task = None
                self._connect(run, sock)
                self._tell(run, {"v": 1, "op": "watch"})
                return
            if not alive or (run.directory.path / "exit.json").exists():
                break  # with its record written, a supervisor may live on for another run
            await asyncio.sleep(RECONNECT_SECONDS)  # it has not made its socket yet, or has too many clients
        if self._has_record(run):
            run.task = None
        else:
            await self._bury(run, reason, text)

    async def _bury(self, run: _Run, reason: EndReason, text: str) -> None:
        """Ends a run that nobody watches, once nothing is left of it. reason holds if nothing ever was.

        It is tried until that is done: nobody else would ever end this run.
        """
        unsure = False
        while True:
            try:
                # Before anything is killed, for then its record may tell of that.
                if not unsure and self._tell_record(run):
                    run.task = None
                    return
                before, unsure = unsure, True
                await self._bury_once(run, reason, text, before)
            except Exception:
                logger.exception("run.not_buried run=%s", run.directory.path.name)
            else:
                return
            await self._pause(BURY_SECONDS)

    async def _bury_once(self, run: _Run, reason: EndReason, text: str, unsure: bool) -> None:
        """unsure: a try that failed may have killed what there was, so that it was never begun cannot be said."""
        event, directory = run.event, run.directory
        with contextlib.suppress(OSError, ValueError):
            directory.identity()  # a supervisor that has not begun is kept from it
        lost = reason is EndReason.SUPERVISOR_LOST or run.begun or (run.heard and directory.was_begun)
        if lost:
            logger.error("supervisor.lost run=%s", directory.path.name)
            self._emit(run, replace(event, stopping=True))
        # Simulated nodes share a machine: another rank of the attempt may run beside this one.
        marks = b"GPUQ_ATTEMPT=%s" % event.uid.encode(), b"GPUQ_NODE_RANK=%d" % event.rank
        launched = directory.launched()
        groups = self._cgroups.left_of_run(directory.path.name)
        found = await end_all(Traces(marks, os.path.realpath(directory.path), launched, groups))
        run.task = None
        if not (found or unsure) and self._has_record(run):
            return
        if lost or found or unsure:
            if reason is not EndReason.SUPERVISOR_LOST:
                begun = "was" if lost or found else "may have been"
                text = f"it {begun} begun, and what its supervisor noted of it is gone"
            try:
                directory.exit_record()
            except (OSError, ValueError) as error:
                text = str(error)
            if groups or (launched is not None and launched.launcher_lives):
                text += "; all that it had started was killed"
            else:
                known = "by its environment" if launched is None else "by its environment, session or output"
                text += f"; what was recognised {known} was killed" if found else f"; nothing was recognised {known}"
            reason = EndReason.SUPERVISOR_LOST
        self._ended(run, reason, text)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _unprepared(error: OSError) -> str:
    return f"cannot prepare the run: {error.strerror}: {error.filename}"
