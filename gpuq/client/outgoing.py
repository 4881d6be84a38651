"""Bytes on their way to the other end of a stream, kept until it has them. Pure: whoever has one does the asking."""

from __future__ import annotations

import struct

from gpuq.wire import STREAM_FRAME, STREAM_PAYLOAD, STREAM_PIECE, STREAM_WINDOW

FRAME_BYTES = struct.calcsize(STREAM_FRAME) + STREAM_PAYLOAD  # of the longest


class Outgoing:
    """One direction, as its sender knows it.

    position is where the next piece begins: behind what was taken on the way, and back where it was if that is lost.
    """

    def __init__(self, acked: int = 0) -> None:
        self.acked = self.position = acked
        self._data = bytearray()  # from acked on

    @property
    def room(self) -> int:
        """Bytes that may be added now."""
        return STREAM_WINDOW - len(self._data)

    @property
    def end(self) -> int:
        return self.acked + len(self._data)

    @property
    def is_due(self) -> bool:
        """Whether there is something to ask: bytes to bring, or, with no room for a frame, what has arrived."""
        return self.position < self.end or self.room < FRAME_BYTES

    def add(self, data: bytes) -> None:
        self._data += data

    def piece(self) -> bytes:
        """What to bring next, from position on."""
        start = self.position - self.acked
        return bytes(self._data[start : start + STREAM_PIECE])

    def answered(self, taken: int | None, acked: int | None) -> bool:
        """Takes an answer: how far the way has taken it, and what has arrived; None: nobody knows that now.

        False if nothing was moved by it, so that there is no haste to ask again.
        """
        before = self.acked, self.position
        if acked is not None and self.acked < acked <= self.end:
            del self._data[: acked - self.acked]
            self.acked = acked
        if taken is not None:
            self.position = min(max(taken, self.acked), self.end)
        return (self.acked, self.position) != before
