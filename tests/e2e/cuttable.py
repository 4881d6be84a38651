"""A way to the controller that can be cut: a proxy for bytes, whose connections break when the test says so."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing is a reset, and what was under way is lost


class Way:
    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.cuts = 0  # connections that were broken
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Breaks every connection there is now."""
        for pair in list(self._pairs):
            self.cuts += 1
            for end in pair:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                pair = near, socket.create_connection(self._to)
            except OSError:
                near.close()
                continue
            self._pairs.add(pair)
            both = [threading.Thread(target=_pump, args=ends, daemon=True) for ends in (pair, pair[::-1])]
            threading.Thread(target=self._see_off, args=(pair, both), daemon=True).start()

    def _see_off(self, pair: tuple[socket.socket, socket.socket], both: list[threading.Thread]) -> None:
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        self._pairs.discard(pair)
        for end in pair:
            end.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def way(url: str) -> Iterator[Way]:
    """A way to this controller."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    made = Way((host, int(port)))
    try:
        yield made
    finally:
        made.close()
