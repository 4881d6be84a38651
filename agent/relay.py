"""Carries streams between the controller and the supervisors of jobs: the bytes that are on their way, and no more.

A relay may be ended at any moment, with its agent or without: both ends keep what the other has not got. It begins
whenever the controller says that a stream wants one, and asks both where they stand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gpuq.client.outgoing import Outgoing
from gpuq.errors import Conflict, GpuqError
from gpuq.model import AttemptUid
from gpuq.protocol import POLL_SECONDS, RESUME_SECONDS, StreamOrder

logger = logging.getLogger(__name__)

_MESSAGE = struct.Struct(">QI")  # see agent/channel.py
_RECEIVE = 256 << 10
_MAX_TEXT = 300  # as the controller takes it
_MAX_LINE = 64 << 10
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
_UNREACHED = 20  # tries to reach a supervisor: it may have many clients, or be about to end

Reach = Callable[[AttemptUid, int], "socket.socket | None"]


class StreamPeer(Protocol):
    """The controller, as gpuq.client.aio.AgentClient speaks to it."""

    async def read_stream(self, id: str, offset: int, wait_seconds: float) -> bytes: ...

    async def write_stream(
        self, id: str, offset: int, acked: int, piece: bytes, wait_seconds: float
    ) -> tuple[int | None, int | None]: ...

    async def fail_stream(self, id: str, text: str) -> None: ...


class _LinkLost(Exception):
    """The supervisor has closed the connection, or is gone."""


class _Refused(Exception):
    """It never will be, and why."""


class Relays:
    """All streams of this agent. reach connects to the supervisor of a rank that is held here. For one event loop."""

    def __init__(self, peer: StreamPeer, reach: Reach) -> None:
        self._peer, self._reach = peer, reach
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def connect(self, order: StreamOrder) -> None:
        """Begins to carry a stream; asked again, nothing changes."""
        if order.id not in self._tasks:
            logger.info("stream.joined id=%s uid=%s kind=%s", order.id, order.uid, order.aim.kind.value)
            task = asyncio.ensure_future(_Relay(self._peer, self._reach, order).run())
            self._tasks[order.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(order.id, None))

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Relay:
    def __init__(self, peer: StreamPeer, reach: Reach, order: StreamOrder) -> None:
        self._peer, self._reach, self._order = peer, reach, order
        self._id = order.id
        self._heard_at = time.monotonic()  # that the controller knows the stream
        self._link: socket.socket  # while it carries
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()  # something came over the link
        self._taken = 0  # of the client's bytes, by the supervisor
        self._out = Outgoing()

    async def run(self) -> None:
        """Returns when the stream is over, or nobody has asked for it for as long as it could be resumed."""
        pause, unreached = _PAUSE_SECONDS, 0
        while time.monotonic() - self._heard_at < RESUME_SECONDS:
            before = self._heard_at
            try:
                await self._carry()
            except Conflict:
                break
            except _Refused as refusal:
                await self._fail(str(refusal))
                return
            except _LinkLost:
                unreached += 1
                if unreached >= _UNREACHED:
                    await self._fail("its supervisor cannot be reached any more")
                    return
            except GpuqError as error:
                logger.debug("stream.interrupted id=%s text=%s", self._id, error.one_line())
            except Exception:
                logger.exception("stream.failed id=%s", self._id)
                await self._fail("the agent failed at it; its log says how")
                return
            pause = _PAUSE_SECONDS if self._heard_at > before else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)
        await self._leave()

    async def _carry(self) -> None:
        """Passes on what comes; never returns. Raises _LinkLost, _Refused, and what the controller says."""
        await self._peer.write_stream(self._id, 0, 0, b"", 0.0)  # whether anybody still wants it
        self._heard_at = time.monotonic()
        link = self._reach(self._order.uid, self._order.rank)
        if link is None:
            raise _LinkLost
        tasks: list[asyncio.Future[Any]] = []
        with link:
            aim = self._order.aim
            said = await _ask(
                link,
                {
                    "v": 1,
                    "op": "stream",
                    "id": self._id,
                    "kind": aim.kind.value,
                    "port": aim.port,
                    "argv": list(aim.command),
                    "pty": aim.pty,
                    "term": aim.term,
                },
            )
            if "error" in said:
                raise _Refused(str(said["error"]))
            self._link, self._taken, self._out = link, said["taken"], Outgoing(said["base"])
            work: list[Coroutine[Any, Any, None]] = [self._listen(), self._up(), self._down()]
            try:
                tasks = [asyncio.ensure_future(each) for each in work]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _up(self) -> None:
        """The client's bytes, piece by piece: the next is asked for once the supervisor has the last."""
        offset = self._taken
        while True:
            piece = await self._peer.read_stream(self._id, offset, POLL_SECONDS)
            self._heard_at = time.monotonic()
            if piece:
                await self._send(piece)
                offset += len(piece)
            while self._taken < offset:
                await self._news_of()

    async def _down(self) -> None:
        """The job's bytes, which the supervisor gives up once the client has them."""
        while True:
            while not self._out.is_due:
                await self._news_of()
            out, known = self._out, self._out.acked
            piece = out.piece()
            taken, acked = await self._peer.write_stream(self._id, out.position, known, piece, POLL_SECONDS)
            self._heard_at = time.monotonic()
            if not out.answered(taken, acked):
                await asyncio.sleep(_PAUSE_SECONDS)
            if out.acked > known:
                await self._send(b"")

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        buffer = bytearray()
        while True:
            try:
                data = await loop.sock_recv(self._link, _RECEIVE)
            except OSError:
                data = b""
            if not data:
                raise _LinkLost
            buffer += data
            while len(buffer) >= _MESSAGE.size:
                taken, length = _MESSAGE.unpack_from(buffer)
                if len(buffer) < _MESSAGE.size + length:
                    break
                self._taken = max(self._taken, taken)
                self._out.add(bytes(buffer[_MESSAGE.size : _MESSAGE.size + length]))
                del buffer[: _MESSAGE.size + length]
            self._news.set()

    async def _news_of(self) -> None:
        """Returns after the next that comes over the link. Two wait here, so nobody may clear it for the other."""
        self._news.clear()
        await self._news.wait()

    async def _send(self, piece: bytes) -> None:
        async with self._writing:
            try:
                message = _MESSAGE.pack(self._out.acked, len(piece)) + piece
                await asyncio.get_running_loop().sock_sendall(self._link, message)
            except OSError as error:
                raise _LinkLost from error

    async def _fail(self, text: str) -> None:
        """Has the client told; its own patience ends it where this cannot."""
        try:
            await self._peer.fail_stream(self._id, text[:_MAX_TEXT])
        except GpuqError as error:
            logger.warning("stream.not_failed id=%s text=%s", self._id, error.one_line())

    async def _leave(self) -> None:
        link = self._reach(self._order.uid, self._order.rank)
        if link is not None:
            with link:
                try:
                    await _ask(link, {"v": 1, "op": "leave", "id": self._id})
                except (_LinkLost, _Refused):
                    return  # it is gone, and what it held with it


async def _ask(link: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    line = b""
    try:
        await loop.sock_sendall(link, json.dumps(request).encode() + b"\n")
        while not line.endswith(b"\n"):
            # Byte by byte: what comes behind the answer is no line any more.
            part = await loop.sock_recv(link, 1)
            if not part or len(line) > _MAX_LINE:
                raise _LinkLost
            line += part
    except OSError as error:
        raise _LinkLost from error
    answer: dict[str, Any] = json.loads(line)
    return answer
