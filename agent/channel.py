"""One stream's end in a supervisor: what waits for the job, what waits for the client. Standard library only.

A link to an agent speaks messages, the same both ways: how far the sender has the other's bytes (8 bytes), a length
(4), and so many bytes, which follow those sent before.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import termios
from contextlib import suppress

from agent.process_tree import hang_up, start_time
from agent.program import why_not
from agent.spool import Spool

KEPT_SECONDS = 600.0  # without a link
# As in gpuq/wire.py, which says what they are.
WINDOW, PAYLOAD = 512 << 10, 16 << 10
FRAME = struct.Struct(">cI")
DATA, SIZE, END, EXIT = b"d", b"s", b"e", b"x"
MESSAGE = struct.Struct(">QI")
_MAX_INPUT = 64 << 10  # bytes that wait for the job to read before the client is asked for no more
_RECEIVE = 256 << 10
_IN, _OUT = select.POLLIN, select.POLLOUT


class Channel:
    """into is written and out_of read; they may be one descriptor, of a terminal or a connection.

    process is the pid of what was started for it, 0 without one; report says why that failed (program.why_not), of
    started: its name and folder. log is where all that is read goes as well.
    """

    def __init__(
        self,
        into: int,
        out_of: int,
        now: float,
        process: int = 0,
        report: int = -1,
        started: tuple[str, str] = ("", ""),
        log: Spool | None = None,
    ) -> None:
        self._into, self._out_of, self._report, self._started, self._log = into, out_of, report, started, log
        for fd in {into, out_of}:
            os.set_blocking(fd, False)
        self.process = process
        self._since = (start_time(process) or 0) if process else 0
        self._last: bytes | None = None  # what is to be said once nothing is left to read
        self.link: socket.socket | None = None
        self.alone_since = now  # when there was a link last
        self.detached = False  # nobody will ever ask for what is read
        self.is_held_up = False  # by the disk of the log
        self.taken = 0  # of the client's bytes
        self.base = 0  # the client has all of ours before
        self._row = bytearray()  # ours, from base on
        self._over = False  # the last of them was said
        self._frames = bytearray()  # the client's, not whole yet
        self._input = bytearray()
        self._no_more_input = False
        self._sent = self._told = 0  # over the present link: how far ours, and how far we said to have theirs
        self._link_in, self._link_out = bytearray(), bytearray()
        self._closed: set[int] = set()  # descriptors to close once nobody polls them

    # ---------------- the link

    def join(self, link: socket.socket) -> None:
        """Goes on over this connection, from where both sides know the other to be."""
        self.part(0.0)
        link.setblocking(False)
        self.link = link
        self._sent, self._told = self.base, self.taken
        self._link_in, self._link_out = bytearray(), bytearray()

    def part(self, now: float) -> None:
        if self.link is not None:
            self.link.close()
            self.link, self.alone_since = None, now

    def listen(self) -> bool:
        """Takes what has come over the link; False if that is gone, or brings what it should not."""
        assert self.link is not None
        try:
            data = self.link.recv(_RECEIVE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._link_in += data
        while len(self._link_in) >= MESSAGE.size:
            acked, length = MESSAGE.unpack_from(self._link_in)
            if length > WINDOW:
                return False
            if len(self._link_in) < MESSAGE.size + length:
                break
            if self.base < acked <= self.base + len(self._row):
                del self._row[: acked - self.base]
                self.base = acked
            piece = bytes(self._link_in[MESSAGE.size : MESSAGE.size + length])
            del self._link_in[: MESSAGE.size + length]
            if not self._take(piece):
                return False
        return bool(data)

    def offer(self) -> None:
        """Sends what the link takes now."""
        while self.link is not None:
            if not self._link_out:
                start = max(self._sent, self.base) - self.base
                piece = self._row[start : start + _RECEIVE]
                # A client that is not told goes no further: so much input waits for the job already.
                taken = self.taken if len(self._input) < _MAX_INPUT else self._told
                if not piece and taken == self._told:
                    return
                self._link_out += MESSAGE.pack(taken, len(piece)) + piece
                self._sent, self._told = self.base + start + len(piece), taken
            try:
                del self._link_out[: self.link.send(self._link_out, socket.MSG_NOSIGNAL)]
            except OSError:
                return  # no room now; or it is gone, which `listen` finds
            if self._link_out:
                return

    def _take(self, piece: bytes) -> bool:
        self.taken += len(piece)
        self._frames += piece
        while len(self._frames) >= FRAME.size:
            kind, length = FRAME.unpack_from(self._frames)
            if length > PAYLOAD:
                return False
            if len(self._frames) < FRAME.size + length:
                break
            payload = bytes(self._frames[FRAME.size : FRAME.size + length])
            del self._frames[: FRAME.size + length]
            if kind == DATA and self._into >= 0 and not self._no_more_input:
                self._input += payload
            elif kind == END:
                self._no_more_input = True
            elif kind == SIZE and length == 4 and self._into >= 0:
                with suppress(OSError):  # it is no terminal
                    fcntl.ioctl(self._into, termios.TIOCSWINSZ, payload + bytes(4))
        return True

    # ---------------- the job's side

    def wanted(self) -> dict[int, int]:
        """What poll is to look for, by descriptor."""
        masks: dict[int, int] = {}
        if self.link is not None:
            masks[self.link.fileno()] = _IN | (_OUT if self._link_out else 0)
        if self._report >= 0:
            masks[self._report] = _IN
        if self._out_of >= 0 and not self.is_held_up and (self.detached or self._has_room()):
            masks[self._out_of] = _IN
        if self._into >= 0 and self._input:
            masks[self._into] = masks.get(self._into, 0) | _OUT
        return masks

    def turn(self, beyond: int = 0) -> None:
        """Moves what can be moved now; beyond: bytes that may be kept on top of the window."""
        self._read_report()
        self._write()
        for _ in range((WINDOW + beyond) // PAYLOAD):  # and then the limits of the job are looked at again
            if not self._read(beyond):
                break
        if self._last is None and not self.process and self._log is None and self._out_of < 0 and self._into < 0:
            self._last = b"{}"
        if self._last is not None and self._out_of < 0 and not self._over:
            self._over = True
            self._say(EXIT, self._last)
            self.shut()

    def ended(self, status: int) -> None:
        """The process has ended; what it wrote is still to be read."""
        signaled = os.WIFSIGNALED(status)
        how = {"signal": os.WTERMSIG(status)} if signaled else {"exit_code": os.WEXITSTATUS(status)}
        self._last = self._last or json.dumps(how).encode()
        self.turn()

    def finish(self) -> None:
        """Nothing of the job lives any more. What was written to its terminal is read, however much waits."""
        self._last = self._last or b"{}"
        self.turn(WINDOW if self._log is not None else 0)

    def hang_up(self) -> None:
        """As a terminal that is closed does to who runs there."""
        if self.process and self._last is None:
            hang_up(self.process, self._since)

    def detach(self) -> None:
        """From now on what is read goes into the log alone."""
        self.detached = True
        self._row.clear()
        self._input.clear()

    def shut(self) -> None:
        self._closed |= {self._into, self._out_of, self._report} - {-1}
        self._into = self._out_of = self._report = -1

    def close_the_closed(self) -> None:
        for fd in self._closed:
            os.close(fd)
        self._closed.clear()

    def _has_room(self, beyond: int = 0) -> bool:
        return len(self._row) + FRAME.size + PAYLOAD <= WINDOW + beyond

    def _say(self, kind: bytes, payload: bytes = b"") -> None:
        if not self.detached:
            self._row += FRAME.pack(kind, len(payload)) + payload

    def _read_report(self) -> None:
        if self._report < 0:
            return
        ready = select.poll()
        ready.register(self._report, _IN)
        if not ready.poll(0):
            return
        failure = os.read(self._report, 100).decode()
        self._closed.add(self._report)
        self._report = -1
        if failure:
            self._last = json.dumps({"error": why_not(failure, *self._started)}).encode()

    def _write(self) -> None:
        while self._into >= 0 and self._input:
            try:
                del self._input[: os.write(self._into, self._input[:_RECEIVE])]
            except BlockingIOError:
                return
            except OSError:
                self._shut_input()
        if self._no_more_input and self._into >= 0:
            self._shut_input()

    def _shut_input(self) -> None:
        self._input.clear()
        if self._into != self._out_of:
            self._closed.add(self._into)
        elif not self.process:  # a connection; of a terminal there is no half
            with suppress(OSError), socket.socket(fileno=os.dup(self._into)) as peer:
                peer.shutdown(socket.SHUT_WR)
        self._into = -1

    def _read(self, beyond: int) -> bool:
        """Reads once; whether there may be more."""
        if self._out_of < 0 or not (self.detached or self._has_room(beyond)):
            return False
        self.is_held_up = self._log is not None and self._log.is_full
        if self.is_held_up and not beyond:
            return False
        try:
            data = os.read(self._out_of, PAYLOAD)
        except BlockingIOError:
            if self._last is None:
                return False
            data = b""  # what it has left running may hold the other end for ever
        except OSError:  # of a terminal: nobody has it open any more
            data = b""
        if data:
            if self._log is not None:
                self._log.put(data)
            self._say(DATA, data)
            return True
        if self._out_of != self._into:
            self._closed.add(self._out_of)
        self._out_of = -1
        if self._last is None:
            self._say(END)
        return False
