"""A connection of lines, driven by the event loop with bare reader and writer callbacks.

asyncio's streams cost about ten times as much for each connection, and the agent makes one for every run.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_READ = 1 << 16


class SocketLink:
    """Calls on_line for each line received, and on_close once when the other end closes, but not after `close`."""

    def __init__(self, sock: socket.socket, on_line: Callable[[bytes], None], on_close: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._on_line, self._on_close = sock, on_line, on_close
        self._received = b""
        self._unsent = b""
        self._closed = False
        self._writing = False  # whether a writer is registered: asking the loop about one that is not takes 40 us
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    def send(self, data: bytes) -> None:
        """Sends now or as soon as there is room. To an end that has closed it is lost; on_close tells."""
        if self._closed:
            return
        if not self._unsent:
            self._unsent = data
            self._write()
            if self._unsent and not self._closed:
                self._writing = True
                self._loop.add_writer(self._sock, self._write)
        else:
            self._unsent += data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)
            if self._writing:
                self._loop.remove_writer(self._sock)
            self._sock.close()

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)  # it has closed; what it said before is still to be read
        self._unsent = self._unsent[sent:]
        if not self._unsent and self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            if not self._closed:
                self._on_line(line)
        if not data and not self._closed:
            self.close()
            self._on_close()
