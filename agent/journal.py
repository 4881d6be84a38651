"""What an agent must not forget: the orders it accepted, how they ended, what it barred. One file, appended to.

    STATE/journal        one JSON line per fact; mode 0600, since it holds environments

One append and one fdatasync make all facts of an answer durable together, where a file per run would cost two syncs
and a rename each. A line cut short by a crash is the last one, was never acted on, and is cut off at the next start.
The file is rewritten with what is still held when it has doubled since it last was.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.actions import Accept, Action, Bar, Drop, RecordEnd
from agent.holding import Held
from gpuq.codec import decode, encode
from gpuq.errors import Incompatible, InvalidRequest
from gpuq.model import AttemptUid, ExitRecord
from gpuq.protocol import MAX_AHEAD_SECONDS, RunOrder

logger = logging.getLogger(__name__)

REWRITE_BYTES = 1 << 20  # below this, rewriting is not worth its syncs: a held run takes some 5 KiB, an end 300 bytes


def needs_sync(action: Action) -> bool:
    """Whether it must be on disk before it is acted upon: an end that lies recorded with its run is found there."""
    if isinstance(action, RecordEnd):
        return not action.recorded or bool(action.exit.gpu_fault)  # of which a run's own record knows nothing
    return isinstance(action, Accept | Bar)


@dataclass(slots=True)
class _State:
    """What the lines of a journal add up to. held in the order of acceptance."""

    incarnation: int = 0
    epoch: int = 0
    held: dict[AttemptUid, Held] = field(default_factory=dict)
    barred: dict[AttemptUid, None] = field(default_factory=dict)
    size: int = 0  # bytes up to the end of the last whole line

    def apply(self, fact: dict[str, Any]) -> None:
        match fact:
            case {"held": order, "boot": boot_id}:
                known = decode(RunOrder, order)
                self.held[known.uid] = Held(known, str(boot_id))
            case {"begun": uid}:
                if uid in self.held:
                    self.held[uid] = replace(self.held[uid], begun=True)
            case {"end": uid, "exit": end}:
                if uid in self.held:
                    self.held[uid] = replace(self.held[uid], exit=decode(ExitRecord, end))
            case {"bar": uid}:
                self.held.pop(uid, None)
                self.barred[uid] = None
            case {"drop": uid}:
                self.held.pop(uid, None)
                self.barred.pop(uid, None)
            case {"epoch": int(epoch)}:
                self.epoch = epoch
            case {"incarnation": int(incarnation)}:
                self.incarnation = incarnation

    def facts(self) -> Iterator[dict[str, Any]]:
        """The fewest facts that add up to this."""
        yield {"incarnation": self.incarnation}
        yield {"epoch": self.epoch}
        for uid, held in self.held.items():
            yield _held_fact(held.order, held.boot_id)
            if held.begun:
                yield {"begun": uid}
            if held.exit is not None:
                yield {"end": uid, "exit": encode(held.exit)}
        for uid in self.barred:
            yield {"bar": uid}


class JournalLost(Exception):
    """The journal is in a state nobody knows: the agent must end, and find out by starting again.

    Not a GpuqError: nobody who asks the agent for something is to take it for an answer and carry on.
    """


class Journal:
    """The journal of one state directory, which the caller has locked. Not for two threads at once.

    incarnation is this start's, higher than any before it that a controller may have taken: the previous one plus one,
    but at least the wall clock in milliseconds, so that an agent whose state was erased is still newer than the one it
    replaces. held and barred are as found at the start; log_size in held is not known here.
    """

    def __init__(self, path: Path, boot_id: str, wall: float) -> None:
        """Opens or makes the journal. Raises OSError, or Incompatible if another version wrote what this cannot read.

        A full disk does not keep the agent from starting: it has ends to report, which may be what makes room.
        """
        self._path, self._boot_id = path, boot_id
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            state = _load(path)
            os.ftruncate(self._fd, state.size)
            self._size = self._rewritten = state.size
            self.epoch, self.held, self.barred = state.epoch, tuple(state.held.values()), tuple(state.barred)
            state.incarnation = self.incarnation = _next_incarnation(state.incarnation, wall)
            try:
                self._rewrite(state)
            except OSError as error:
                logger.error("journal.full path=%s error=%r", path, str(error))  # noqa: TRY400
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, actions: Sequence[Action], epoch: int | None = None, begun: Collection[AttemptUid] = ()) -> None:
        """Makes every Accept, Bar and RecordEnd among the actions durable; notes what need not be.

        That is every Drop, an end that its run's own record tells again after a restart, and which runs have begun:
        that matters in this boot only, and the file outlives an agent that is killed.

        epoch, if not None, is that of the answer they follow from. On OSError nothing was written; after
        JournalLost nothing may be built upon this journal.
        """
        facts: list[dict[str, Any]] = [{"begun": uid} for uid in begun]
        durable = any(map(needs_sync, actions))
        for action in actions:
            match action:
                case Accept(order, _):
                    facts.append(_held_fact(order, self._boot_id))
                case Bar(uid, _):
                    facts.append({"bar": uid})
                case RecordEnd(uid, _, end):
                    facts.append({"end": uid, "exit": encode(end)})
                case Drop(uid, _):
                    facts.append({"drop": uid})
        if epoch is not None and epoch != self.epoch:
            facts.append({"epoch": epoch})
            durable = True
        if facts:
            self._append(b"".join(map(_line, facts)), durable)
            self.epoch = self.epoch if epoch is None else epoch
            if durable and self._size > max(REWRITE_BYTES, 2 * self._rewritten):
                self._try_rewrite()

    def renew(self, above: int) -> int:
        """Starts a new incarnation, higher than this one and `above`; durable when it returns. Raises OSError."""
        incarnation = max(self.incarnation, above) + 1
        self._append(_line({"incarnation": incarnation}), durable=True)
        self.incarnation = incarnation
        return incarnation

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, data: bytes, durable: bool) -> None:
        try:
            _write_all(self._fd, data)
            if durable:
                os.fdatasync(self._fd)
        except OSError:
            # Half of it on disk would be read back as accepted after a restart, long after it was refused.
            try:
                os.ftruncate(self._fd, self._size)
                os.fdatasync(self._fd)
            except OSError as error:
                raise JournalLost(f"{self._path} cannot be written: {error.strerror}") from error
            raise
        self._size += len(data)

    def _try_rewrite(self) -> None:
        try:
            self._rewrite(_load(self._path))
        except OSError as error:
            logger.warning("journal.not_rewritten path=%s error=%r", self._path, str(error))
            self._rewritten = self._size  # tried again when it has doubled once more

    def _rewrite(self, state: _State) -> None:
        """Replaces the file by the fewest lines that say the same; on OSError the old one stays."""
        fresh = self._path.with_name(self._path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size = sum(_write_all(fd, _line(fact)) for fact in state.facts())
            os.fsync(fd)
            fresh.replace(self._path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self._size, self._rewritten = fd, size, size
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _held_fact(order: RunOrder, boot_id: str) -> dict[str, Any]:
    return {"held": encode(order), "boot": boot_id}


def _line(fact: dict[str, Any]) -> bytes:
    return json.dumps(fact, separators=(",", ":")).encode() + b"\n"


def _write_all(fd: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)


def _next_incarnation(before: int, wall: float) -> int:
    """One that a clock of the far future left behind is not counted on: no controller took it, nor would the next."""
    if before > (wall + MAX_AHEAD_SECONDS) * 1000:
        return int(wall * 1000)
    return max(before + 1, int(wall * 1000))


def _load(path: Path) -> _State:
    state = _State()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # cut short by a crash, so nothing was done about it
            try:
                fact = json.loads(line)
            except ValueError:
                # Only a damaged disk does this to a line that has its end. The others may still be good.
                logger.error("journal.damaged path=%s line=%d", path, number)  # noqa: TRY400
                fact = {}
            try:
                state.apply(fact)
            except InvalidRequest as error:
                # Passing over it would take a running job for a stray and kill it.
                raise Incompatible(
                    f"{path} line {number} was written by another version of gpuq: {error.message}",
                    "start the agent with that version, or a newer one",
                ) from error
            state.size += len(line)
    return state
