"""This command's standard input and output at a stream: a terminal in raw mode, or whatever else they are."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from gpuq.cli.escape import Escape
from gpuq.cli.terminal import note
from gpuq.client.stream import Stream
from gpuq.errors import GpuqError
from gpuq.wire import DATA, END, EXIT, SIZE, STREAM_PAYLOAD

HUNG_UP = 128 + signal.SIGHUP  # what a shell says of who lost the terminal: so leaving ends it
_FULL_SECONDS = 0.05  # between two looks whether there is room again
_LEAVING = (signal.SIGHUP, signal.SIGTERM)
_HELP = "\r\n~.  leave, which hangs up\r\n~~  one ~\r\n~?  this; each only at the beginning of a line\r\n"


class Ending(NamedTuple):
    """said: the job's last word, with exit_code, signal or neither; None if this end has left, by a signal or not."""

    said: dict[str, Any] | None
    signal: int = signal.SIGHUP

    @property
    def status(self) -> int:
        if self.said is None:
            return 128 + self.signal
        return 128 + int(self.said["signal"]) if "signal" in self.said else int(self.said.get("exit_code", 0))


def size() -> str:
    """Of this terminal, such as '24x80'."""
    rows, columns = struct.unpack("2H", _window())
    return f"{min(rows, 9999)}x{min(columns, 9999)}"


class Conversation:
    """One stream and the two standard streams, until the job's end has said its last, or this one leaves.

    trouble is for the stream: what it is told shows whole on a terminal in raw mode too.
    """

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._signals: list[int] = []
        self._said: dict[str, Any] | None = None
        self._failed: GpuqError | BrokenPipeError | None = None
        self._over = False
        self.shown = False  # whether there was any output

    def trouble(self, error: GpuqError | None) -> None:
        text = "connected again" if error is None else f"{error.one_line()}; trying on"
        if self._raw:
            os.write(2, f"\r\n[gpuq] {text}\r\n".encode())
        else:
            note(text)

    def hold(self, stream: Stream) -> Ending:
        """Raises what has ended the stream, if the job's end could not say so itself. Closes the stream."""
        with self._terminal(), self._listening_to_signals():
            threading.Thread(target=self._show, args=(stream,), name="output", daemon=True).start()
            try:
                self._type(stream)
            finally:
                stream.close()
        if self._failed is not None and not self._signals:  # else it is what came of leaving
            raise self._failed
        return Ending(self._said, *self._signals[:1])

    # ------------------------------------------------------------ out

    def _show(self, stream: Stream) -> None:
        try:
            for kind, payload in stream.received():
                if kind == DATA:
                    self.shown = True
                    _write(payload)
                elif kind == EXIT:
                    self._said = json.loads(payload)
        except GpuqError as error:
            self._failed = error
        except BrokenPipeError as error:
            self._failed = error
        except OSError:
            self._signals.append(signal.SIGHUP)  # the terminal has gone, and said so here first
        finally:
            self._over = True
            self._stir()

    # ------------------------------------------------------------ in

    def _type(self, stream: Stream) -> None:
        """Passes on what is typed, until it is over or somebody leaves."""
        escape = Escape() if self._raw else None
        reads, resized = True, self._raw
        while not (self._over or self._signals):
            if resized and stream.has_room:
                stream.send(SIZE, _window())
                resized = False
            room = stream.has_room
            sources = [self._wake, 0] if reads and room else [self._wake]
            ready, _, _ = select.select(sources, [], [], None if room else _FULL_SECONDS)
            if self._wake in ready:
                os.read(self._wake, 4096)
                resized = self._raw  # or continued, or it is over: no harm is done
            if 0 in ready:
                reads = self._pass_on(stream, escape)

    def _pass_on(self, stream: Stream, escape: Escape | None) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(0, STREAM_PAYLOAD // 2)  # what was held back of the last may come with it
        except OSError:
            data = b""
        ended = not data
        if escape is not None and data:
            data, wish = escape.typed(data)
            if wish == "help":
                os.write(2, _HELP.encode())
            elif wish == "leave":
                self._signals.append(signal.SIGHUP)
        if data:
            stream.send(DATA, data)
        elif ended and escape is None:
            stream.send(END)
        elif ended:
            self._signals.append(signal.SIGHUP)
        return not ended

    # ------------------------------------------------------------ this end

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """The terminal gives every key as it is; afterwards it is as it was."""
        if not self._raw:
            yield
            return
        before = termios.tcgetattr(0)
        try:
            _make_raw()
            yield
        finally:
            with suppress(termios.error):  # it has gone
                termios.tcsetattr(0, termios.TCSANOW, before)

    @contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        def leave(number: int, _frame: object) -> None:
            self._signals.append(number)
            self._stir()

        def look(number: int, _frame: object) -> None:
            if number == signal.SIGCONT:
                with suppress(termios.error):  # in the background
                    _make_raw()  # whoever stopped us has had the terminal meanwhile
            self._stir()

        wanted = dict.fromkeys(_LEAVING, leave) | (
            dict.fromkeys((signal.SIGWINCH, signal.SIGCONT), look) if self._raw else {}
        )
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stir(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake_write, b".")


def _make_raw() -> None:
    tty.setraw(0, termios.TCSADRAIN)  # and not FLUSH: what was typed ahead counts


def _window() -> bytes:
    """Rows and columns, as the frame has them."""
    with suppress(OSError):
        return fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))[:4]
    return bytes(4)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
