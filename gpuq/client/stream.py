"""A command's end of a stream to a running job: bytes both ways, in two threads, through whatever happens in between.

Standard library only, as the other verbs' client. What the bytes are, frames, is written and read here as well.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gpuq.client.http import Answer, Client, Params, jittered
from gpuq.client.outgoing import FRAME_BYTES, Outgoing
from gpuq.errors import GpuqError, NotFound, Unavailable
from gpuq.wire import EXIT, POLL_SECONDS, RESUME_SECONDS, STREAM_FRAME, STREAM_PIECE

_HEAD = struct.Struct(STREAM_FRAME)
_ANSWER_SECONDS = POLL_SECONDS + 5.0  # a lost network is noticed after so long, and the request made again
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_QUIET_SECONDS = 2.0  # an outage shorter than this is nobody's concern
_FLUSH_SECONDS = 2.0  # for what was sent last, when it is closed

Trouble = Callable[["GpuqError | None"], None]


class Frame(NamedTuple):
    kind: bytes
    payload: bytes


class Stream:
    """One stream. `send` is for one thread, `received` for another.

    trouble is told of an outage that lasts, and with None that it is over. Raises what the controller says to it,
    Unreachable, or Unavailable.
    """

    def __init__(self, client: Client, job: str, aim: dict[str, Any], trouble: Trouble) -> None:
        self._client, self._sending = client.another(), client.another()
        self._job, self._aim, self._trouble = job, aim, trouble
        self._id = os.urandom(16).hex()
        self._out = Outgoing()
        self._moved = threading.Condition()
        self._closed = False
        self._open(self._client)
        threading.Thread(target=self._send_all, name="stream", daemon=True).start()

    def send(self, kind: bytes, payload: bytes = b"") -> bool:
        """Has a frame delivered, waiting while too much is under way; False if it never will be."""
        with self._moved:
            while self._out.room < _HEAD.size + len(payload) and not self._closed:
                self._moved.wait()
            self._out.add(_HEAD.pack(kind, len(payload)) + payload)
            self._moved.notify_all()
            return not self._closed

    @property
    def has_room(self) -> bool:
        """Whether a frame would be taken without waiting."""
        with self._moved:
            return self._out.room >= FRAME_BYTES

    def received(self) -> Iterator[Frame]:
        """What the job's end sends, as far as the last, an EXIT; raises the error that has ended the stream instead."""
        offset, buffer, silent = 0, bytearray(), False
        while True:
            answer = self._ask(
                self._client, "GET", {"offset": offset, "limit": STREAM_PIECE, "wait": POLL_SECONDS}, None
            )
            offset += len(answer.body)
            buffer += answer.body
            node = answer.headers.get("gpuq-stream-silent")
            if (node is not None) != silent:
                silent = node is not None
                self._trouble(Unavailable(f"nothing is heard of node {node}") if silent else None)
            while len(buffer) >= _HEAD.size:
                kind, length = _HEAD.unpack_from(buffer)
                if len(buffer) < _HEAD.size + length:
                    break
                frame = Frame(kind, bytes(buffer[_HEAD.size : _HEAD.size + length]))
                del buffer[: _HEAD.size + length]
                yield frame
                if kind == EXIT:
                    return

    def close(self, patience: float = _FLUSH_SECONDS) -> None:
        """Says goodbye, after what was sent last if patience lasts. From any thread, any number of times."""
        deadline = time.monotonic() + patience
        with self._moved:
            while self._out.position < self._out.end and not self._closed and time.monotonic() < deadline:
                self._moved.wait(_FIRST_PAUSE_SECONDS)
            if self._closed:
                return
            self._closed = True
            self._moved.notify_all()
        leaving = self._client.another()
        try:
            leaving.once("DELETE", f"/streams/{self._id}", None, None, _FLUSH_SECONDS)
        except GpuqError:
            return  # it is over already, or will be missed in ten minutes
        finally:
            leaving.close()

    def _open(self, client: Client) -> None:
        client.post(f"/jobs/{self._job}/streams", self._aim, request_id=self._id)

    def _send_all(self) -> None:
        try:
            while True:
                with self._moved:
                    while not (self._out.is_due or self._closed):
                        self._moved.wait()
                    if self._closed:
                        return
                    piece = self._out.piece()
                    params = {"offset": self._out.position, "acked": self._out.acked, "wait": POLL_SECONDS}
                said = json.loads(self._ask(self._sending, "POST", params, piece).body)
                with self._moved:
                    moved = self._out.answered(said["taken"], said["acked"])
                    self._moved.notify_all()
                if not moved:
                    time.sleep(_FIRST_PAUSE_SECONDS)
        except GpuqError:  # `received` meets it as well, and says it
            with self._moved:
                self._closed = True
                self._moved.notify_all()
        finally:
            self._sending.close()

    def _ask(self, client: Client, method: str, params: Params, content: bytes | None) -> Answer:
        """Repeats a request until it is answered, opening the stream again if the controller has forgotten it."""
        since: float | None = None
        told = False
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                try:
                    answer = client.once(method, f"/streams/{self._id}", params, content, _ANSWER_SECONDS)
                except NotFound:
                    self._open(client)
                    continue
            except Unavailable as error:
                since = since or time.monotonic()
                if self._closed or time.monotonic() - since > RESUME_SECONDS:
                    raise
                if not told and time.monotonic() - since > _QUIET_SECONDS and method == "GET":
                    told = True
                    self._trouble(error)
                time.sleep(jittered(pause))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                if told:
                    self._trouble(None)
                return answer
