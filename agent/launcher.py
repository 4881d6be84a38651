"""A small process that forks supervisors: a grown Python forks at 85 a second, a small one at more than 1,000.

The agent starts it from copies of this file and those it imports, in its own state directory, and sends one message per
run, holding nothing but a connection: the supervisor reads from it what to run, and reports on it. So a connection
that closes before its first report means that nothing was started. When the agent's end of the channel closes, the
launcher takes no more orders, and ends when its last supervisor does.

Until then it is what the kernel hands the processes of a supervisor that was killed: without one nobody would keep
their limits, so they are killed at once, whatever they did to hide. All its children that it has not forked are such.

A supervisor whose run came to a plain end asks for another, and gets the next one within IDLE_SECONDS or is dismissed:
of the 4.6 ms of processor time a run takes with a fresh one, most goes into the fork and the page faults of its copy of
this process' memory; with those behind it, a run takes 1.2 ms, the job's own 0.6 included. One that had to force
anything serves no second run.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any, NoReturn

from agent.process_tree import children, kill_tree, start_time
from agent.run_folder import RunFolder
from agent.supervisor import Supervisor
from agent.supervisor_socket import Client

LAUNCH_SECONDS = 60.0  # to receive the launch line from an agent that is alive but very busy
MAX_LAUNCH = 16 << 20  # the kernel takes 2 MiB of arguments and environment, which JSON may make six times as long
IDLE_SECONDS = 1.0  # a supervisor without a run stays for this long
RUNS_EACH = 100  # of one supervisor: whatever a run may leave behind in it does not add up
_RECEIVE = 1 << 16
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36  # linux/prctl.h
_SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a service stop or hang-up must not cost the exit record

_libc = ctypes.CDLL(None)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_names = [ctypes.create_string_buffer(name) for name in (b"gpuq-launcher", b"gpuq-supervisor")]


def main(channel_fd: int) -> None:
    """Serves until the agent closes its end of the channel, a SOCK_SEQPACKET socket."""
    os.set_inheritable(channel_fd, False)
    channel = socket.socket(fileno=channel_fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _become_launcher()
    # It does nothing but wake whoever polls: here and, since they inherit it, in the supervisors.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # A collection after the fork would touch, and so copy, every page this process shares with its supervisors.
    gc.collect()
    gc.freeze()
    gc.disable()
    _Launcher(channel).run()


def _become_launcher() -> None:
    """Sets what supervisors inherit from their launcher, and makes it the parent of what they leave if they die."""
    for number in _SHIELDED:
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)
    _libc.prctl(_PR_SET_NAME, ctypes.addressof(_names[0]), 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _Launcher:
    def __init__(self, channel: socket.socket) -> None:
        self._channel: socket.socket | None = channel
        self._identity = f"{os.getpid()}:{start_time(os.getpid())}"
        self._supervisors: dict[int, socket.socket] = {}  # the line to each, by descriptor
        self._idle: dict[int, float] = {}  # since when, by descriptor; the longest idle first
        self._pids: set[int] = set()  # of the supervisors
        self._leftovers = False  # whether a child was there that is none of them
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._poll = select.poll()
        for fd in (channel.fileno(), self._wake):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        while self._channel is not None or self._pids or self._leftovers:
            ready = {fd for fd, _ in self._poll.poll(IDLE_SECONDS * 1000 if self._idle else None)}
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            for fd in ready & self._supervisors.keys():  # first those who may take what has come
                self._hear(fd)
            if self._channel is not None and self._channel.fileno() in ready:
                self._take_order(self._channel)
            longest = time.monotonic() - IDLE_SECONDS
            for fd in [fd for fd, since in self._idle.items() if since <= longest or self._channel is None]:
                self._dismiss(fd)

    def _take_order(self, channel: socket.socket) -> None:
        message, fds, _, _ = socket.recv_fds(channel, 16, 1)
        for conn in fds:
            os.set_inheritable(conn, False)
            if not self._hand_over(conn):
                self._fork(conn)
            os.close(conn)
        if not message:  # the agent has gone
            if len(self._idle) < len(self._supervisors):
                with suppress(OSError):
                    channel.send(b".")  # not to be waited for
            self._poll.unregister(channel)
            channel.close()
            self._channel = None

    def _reap(self) -> None:
        """Takes the status of all that ended, and kills what supervisors that were killed have left."""
        look = self._leftovers
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            look = look or status != 0 or pid not in self._pids
            self._pids.discard(pid)
        if look:
            left = [pid for pid in children(os.getpid()) if pid not in self._pids]
            self._leftovers = bool(left)
            for pid in left:
                kill_tree(pid)
                os.kill(pid, signal.SIGKILL)  # ours, and nobody's else before we take its status

    def _hear(self, fd: int) -> None:
        """A supervisor asks for another run, or is gone."""
        try:
            asks = bool(self._supervisors[fd].recv(16))
        except OSError:
            asks = False
        if asks:
            self._idle[fd] = time.monotonic()
        else:
            self._dismiss(fd)

    def _dismiss(self, fd: int) -> None:
        self._idle.pop(fd, None)
        self._poll.unregister(fd)
        self._supervisors.pop(fd).close()

    def _hand_over(self, conn: int) -> bool:
        """Whether a supervisor without a run takes this one: of several, the last to end one, so that the rest go."""
        while self._idle:
            fd, _ = self._idle.popitem()
            try:
                socket.send_fds(self._supervisors[fd], [b"+"], [conn])
            except OSError:
                self._dismiss(fd)  # killed meanwhile
            else:
                return True
        return False

    def _fork(self, conn: int) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child = os.fork()
        except OSError as error:  # too many processes, or no memory: the agent hears why
            os.write(conn, b'{"error":"cannot start a supervisor: %s"}\n' % os.strerror(error.errno or 0).encode())
            return
        if child == 0:
            for line in (self._channel, ours, *self._supervisors.values()):
                if line is not None:  # whoever holds a copy of an end keeps the other from learning that it was closed
                    line.close()
            os.close(self._wake)
            _live(theirs, conn, self._identity, self._wake_write)
        theirs.close()
        self._pids.add(child)
        self._supervisors[ours.fileno()] = ours
        self._poll.register(ours, select.POLLIN)


def _become_supervisor() -> int:
    """A session of its own, and all orphans below it. Returns what is readable after each signal."""
    os.setsid()
    _libc.prctl(_PR_SET_NAME, ctypes.addressof(_names[1]), 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    return wake_read


def _live(line: socket.socket, conn: int, launcher: str, launchers_wake: int) -> NoReturn:
    """The whole life of a supervisor, in a process of its own that was just forked."""
    try:
        wake = _become_supervisor()
        os.close(launchers_wake)
        left = RUNS_EACH
        while supervise(socket.socket(fileno=conn), wake, launcher) and (left := left - 1):
            with suppress(OSError):  # the launcher has ended: then so does the line
                line.send(b".")
            _, fds, _, _ = socket.recv_fds(line, 16, 1)
            if not fds:
                break
            conn = fds[0]
            os.set_inheritable(conn, False)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 -- the top of a process; what is left to do is to say why
        trace, number = error.__traceback__, 0
        while trace:
            number, trace = trace.tb_lineno, trace.tb_next
        os.write(2, f"gpuq-supervisor {os.getpid()}: line {number}: {error!r}\n".encode(errors="replace"))
    finally:
        os._exit(70)


def supervise(conn: socket.socket, wake: int, launcher: str) -> bool:
    """One run, from its launch line to its end; whether that was such that another may follow in this process."""
    received = _receive_launch(conn)
    if received is None:
        return False
    launch, rest = received
    folder = RunFolder(launch["run_dir"], launch["boot_id"])
    if not folder.claim():
        return False
    return Supervisor(launch, folder, Client(conn, rest, watching=True), wake, launcher).run()


def _receive_launch(conn: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The launch line and whatever came behind it; None if the agent went away before all of it was sent."""
    conn.settimeout(LAUNCH_SECONDS)
    data = bytearray()
    while b"\n" not in data[-_RECEIVE:]:
        part = conn.recv(_RECEIVE)
        data += part
        if not part or len(data) > MAX_LAUNCH:
            return None
    line, _, rest = bytes(data).partition(b"\n")
    return json.loads(line), rest
