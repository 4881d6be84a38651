"""The job's end of streams: terminals, pipes and connections that a supervisor holds. Standard library only.

It is the supervisor that has them, for it alone lives as long as the job: agents come and go, and with them the links
over which the bytes are passed on. Either end of a stream keeps what it sent until the other end has it, so a new link
goes on where the last one was. channel.py has one of them; here is who is there, and what poll is to look at.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agent.channel import KEPT_SECONDS, Channel
from agent.program import NO_FILES, Account, Start, fork
from agent.spool import Spool

MAX_CHANNELS = 32  # of one run; each may hold two windows
_LINGER_SECONDS = 5.0  # for another agent, once the job has ended; what run --pty showed last is in the log as well
_CONNECT_SECONDS = 0.2  # on the loopback; whoever does not accept by then has a full queue
_SHELLS = ("/bin/bash", "/bin/sh")  # where $SHELL is not there
_BUSY_SECONDS = 1.0  # until a terminal is read again whose log waits for its disk


class Channels:
    """All channels of one run. poll watches what each of them wants; spool is where the job's terminal is written;
    enter puts the process that calls it into the job's control groups.
    """

    def __init__(self, poll: select.poll, spool: Spool, enter: Callable[[], None]) -> None:
        self._poll, self._spool, self._enter = poll, spool, enter
        self._by_id: dict[str, Channel] = {}
        self._by_fd: dict[int, Channel] = {}
        self.terminal: Channel | None = None  # the job's own, if it has one
        self._terminal_id = ""  # of the stream that has it, or had
        self._kept = KEPT_SECONDS  # without a link

    @property
    def are_open(self) -> bool:
        """Whether somebody has not been told all there is to tell."""
        return bool(self._by_id)

    @property
    def are_full(self) -> bool:
        return len(self._by_id) >= MAX_CHANNELS

    # ---------------- opening

    def known(self, id: str) -> dict[str, Any] | None:
        """Where a stream stands that was opened before."""
        channel = self._by_id.get(id)
        return None if channel is None else {"ok": "stream", "taken": channel.taken, "base": channel.base}

    def open_terminal(self, id: str) -> str:
        """What is wrong, if anything, as with the next two."""
        if self.terminal is None:
            return "the job has no terminal of its own; only one of run --pty has"
        if self._terminal_id:
            return "the job's terminal belongs to the run command that started it"
        self._terminal_id = id
        self._by_id[id] = self.terminal
        return ""

    def open_port(self, id: str, port: int, now: float) -> str:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as peer:
                peer.settimeout(_CONNECT_SECONDS)
                peer.connect((address, port))
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                fd = peer.detach()
                self._add(id, Channel(fd, fd, now))
                return ""
        return f"nothing listens at port {port} of the loopback there"

    def open_shell(
        self, id: str, asked: dict[str, Any], env: dict[str, str], cwd: str, account: Account | None, now: float
    ) -> str:
        """A process beside the job, as it would be one of the job's."""
        env = {**env, "TERM": asked["term"]} if asked["term"] else env
        argv = asked["argv"] or [_shell(env)]
        ours: list[int] = []
        theirs: list[int] = []
        try:
            if asked["pty"]:
                terminal, end = open_terminal(asked["pty"])
                ours, theirs = [terminal], [end]
            else:
                for mine in (1, 0):  # of its input the end that is written, of its output the one that is read
                    pipe = os.pipe2(os.O_CLOEXEC)
                    ours.append(pipe[mine])
                    theirs.append(pipe[1 - mine])
            process, report = fork(Start(argv, env, cwd, (theirs[-1], NO_FILES), -1, self._enter, account, theirs[0]))
        except OSError as error:
            for fd in ours:
                os.close(fd)
            return f"cannot start a process there: {os.strerror(error.errno or 0)}"
        finally:
            for fd in theirs:
                os.close(fd)
        self._add(id, Channel(ours[0], ours[-1], now, process, report, (argv[0], cwd)))
        return ""

    def take_terminal(self, fd: int, process: int, now: float) -> None:
        """The job runs on this pseudo-terminal, which belongs to whoever asks first."""
        self.terminal = Channel(fd, fd, now, process, log=self._spool)
        self._settle(self.terminal)

    def join(self, id: str, link: socket.socket) -> None:
        """A stream's bytes come and go over this connection from now on."""
        channel = self._by_id[id]
        self._forget_link(channel)
        channel.join(link)
        self._settle(channel)

    def _add(self, id: str, channel: Channel) -> None:
        self._by_id[id] = channel
        self._settle(channel)

    def leave(self, id: str) -> None:
        """The client of a stream is gone for good, or has all it wants."""
        if id in self._by_id:
            self._leave(self._by_id[id])

    # ---------------- what happens

    def ready(self, fd: int, now: float) -> bool:
        """Takes care of a descriptor, if it is one of theirs."""
        channel = self._by_fd.get(fd)
        if channel is None:
            return False
        if channel.link is not None and fd == channel.link.fileno() and not channel.listen():
            self._forget_link(channel)
            channel.part(now)
        channel.turn()
        self._settle(channel)
        return True

    def ended(self, process: int, status: int) -> None:
        """A process was waited for; it may be one of theirs."""
        for channel in self._by_id.values():
            if channel.process == process and channel is not self.terminal:
                channel.ended(status)
                self._settle(channel)

    def keep_limits(self, now: float) -> None:
        """Gives up those whose client is gone for good, and reads on where the disk had no room."""
        for channel in self._all():
            if channel.link is None and now - channel.alone_since >= self._kept and not channel.detached:
                self._leave(channel)
            elif channel is self.terminal:
                channel.turn()
                self._settle(channel)

    def wait(self, now: float) -> float | None:
        """Seconds until something of this is due; None: nothing is."""
        times = [c.alone_since + self._kept - now for c in self._all() if c.link is None and not c.detached]
        if self.terminal is not None and self.terminal.is_held_up:
            times.append(_BUSY_SECONDS)
        return max(0.0, min(times)) if times else None

    def hang_up(self) -> None:
        """The job ends, and with it what was attached to it: shells do not heed SIGTERM."""
        for channel in self._by_id.values():
            if channel is not self.terminal:
                channel.hang_up()

    def finish(self) -> None:
        """Nothing of the job lives any more: all that was written to its terminal goes into its log."""
        self._kept = _LINGER_SECONDS
        for channel in self._all():
            channel.finish()
            self._settle(channel)

    def close(self) -> None:
        for channel in self._all():
            self._forget_link(channel)
            channel.part(0.0)
            channel.shut()
            self._settle(channel)

    # ---------------- keeping poll in step

    def _all(self) -> list[Channel]:
        own = [] if self.terminal is None or self._terminal_id in self._by_id else [self.terminal]
        return [*self._by_id.values(), *own]

    def _leave(self, channel: Channel) -> None:
        channel.hang_up()
        self._forget_link(channel)
        channel.part(0.0)
        if channel is self.terminal:
            self._terminal_id = self._terminal_id or "-"
            channel.detach()
        else:
            channel.shut()
        self._settle(channel)
        self._by_id = {id: other for id, other in self._by_id.items() if other is not channel}

    def _forget_link(self, channel: Channel) -> None:
        """Before it is closed: its number may be another's at once."""
        if channel.link is not None:
            self._watch(channel, channel.link.fileno(), 0)

    def _settle(self, channel: Channel) -> None:
        channel.offer()
        wanted = channel.wanted()
        for fd in [fd for fd, other in self._by_fd.items() if other is channel and fd not in wanted]:
            self._watch(channel, fd, 0)
        for fd, mask in wanted.items():
            self._watch(channel, fd, mask)
        channel.close_the_closed()

    def _watch(self, channel: Channel, fd: int, mask: int) -> None:
        # One that is watched for nothing is not registered: poll tells of hang-ups without being asked.
        if mask:
            self._by_fd[fd] = channel
            self._poll.register(fd, mask)
        elif self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)


def open_terminal(size: str) -> tuple[int, int]:
    """A pseudo-terminal of this size, such as '24x80': our end, and the one to run on. Raises OSError."""
    ours, theirs = os.openpty()
    with suppress(ValueError, struct.error, OSError):
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", *map(int, size.split("x")), 0, 0))
    return ours, theirs


def _shell(env: dict[str, str]) -> str:
    return next((path for path in (env.get("SHELL", ""), *_SHELLS) if os.access(path, os.X_OK)), _SHELLS[-1])
