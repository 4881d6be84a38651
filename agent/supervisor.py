"""One process per rank: starts the job, keeps its limits, ends its tree, and writes down how it ended.

It is forked from the launcher (launcher.py) and outlives launcher, agent, zipapp cache and system Python. So these
files use the standard library and each other only, everything is imported before the fork, and nothing is opened by
name afterwards but /proc, the job's own paths and the run directory, which is held open. Strings here are the values
of gpuq's enums, and the exit record has the fields of model.ExitRecord.

The run directory:

    supervisor   symlink to 'BOOT-ID:PID:START'. Made once, by whoever comes first: a supervisor that finds it made
                 starts nothing, so an agent that makes it ('barred') knows that nothing ever will be started
    traces       symlink to 'LAUNCHER-PID:START:PIPE:PID:START', the last two of what was started last: how to find what
                 is left if this process is killed
    log          what the job writes; it comes through a pipe (spool.py)
    sock         the socket below
    exit.json    the exit record: complete, durable and final as soon as it is there

The socket speaks JSON lines. The connection the launcher hands over first carries one line, what to run, and is then
like any other, watching. Requests are {"v": 1, "op": ...}: `watch` answers with the state now and at each change,
`stop` takes kind and grace (seconds), `extend` takes deadline (seconds of CLOCK_BOOTTIME), `forget` says that the end
is known and need not be kept; an unknown op is answered with an error, so older and newer agents can talk to it.
"""

# ruff: noqa: PTH110
# pathlib would be most of this process' memory.
from __future__ import annotations

import ctypes
import json
import os
import resource  # noqa: F401 -- os.wait4 would import it, from disk, in each supervisor: 0.4 ms
import select
import signal
import socket
import struct
import time
from typing import Any

from agent.process_tree import kill_tree, terminate_tree
from agent.program import become, spawn, why_not
from agent.run_folder import RunFolder
from agent.spool import Spool
from agent.supervisor_client import Client, finite

VERSION = 1
MAX_CLIENTS = 16
# Between the main process' end and SIGTERM to what it left: a `tee` at the end of a pipe writes its last lines then.
SETTLE_SECONDS = 0.5
LEASE_POLL_SECONDS = 1.0  # poll() sleeps through a suspend, CLOCK_BOOTTIME does not: the lease is looked at this often
RETRY_SECONDS = 1.0  # a full disk may have room again
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36  # linux/prctl.h
_SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a service stop or hang-up must not cost the exit record
_STOP_KINDS = ("cancel", "requeue", "time_limit", "fence", "vanished")  # model.StopKind
_SHELL_KEEPS = ("_", "SHLVL", "PWD", "OLDPWD")  # what a shell sets by itself: not a change made by a setup line
# Runs $1 in this shell, then writes its environment to the open file $3. `|| exit` right after eval would turn off the
# `set -e` of a line that asks for it.
_SETUP = """eval "$1"; gpuq_status=$?
[ $gpuq_status -eq 0 ] || exit $gpuq_status
unset gpuq_status
"$2" -0 >"/proc/self/fd/$3"
"""

_libc = ctypes.CDLL(None)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_names = [ctypes.create_string_buffer(name) for name in (b"gpuq-launcher", b"gpuq-supervisor")]


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# ---------------------------------------------------------------- the supervisor


def prepare_launcher() -> None:
    """Sets what supervisors inherit from their launcher, and makes it the parent of what they leave if they die."""
    for number in _SHIELDED:
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)
    _libc.prctl(_PR_SET_NAME, ctypes.addressof(_names[0]), 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def prepare_supervisor() -> int:
    """A session of its own, and all orphans below it. Returns what is readable after each signal."""
    os.setsid()
    _libc.prctl(_PR_SET_NAME, ctypes.addressof(_names[1]), 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    return wake_read


class Supervisor:
    """Runs the steps of one rank in order (setup lines, then the job) and waits for the end of all they start.

    It takes folder, which it has claimed, and first over; wake is what prepare_supervisor returned, launcher the
    'PID:START' of the launcher.
    """

    def __init__(self, launch: dict[str, Any], folder: RunFolder, first: Client, wake: int, launcher: str) -> None:
        self.folder, self.wake, self.launcher = folder, wake, launcher
        self.pid = os.getpid()
        self.argv: list[str] = launch["argv"]
        self.env: dict[str, str] = launch["env"]
        self.kept = {name: self.env[name] for name in launch["kept"] if name in self.env}
        self.cwd: str = launch["cwd"]
        self.setup: list[tuple[str, str]] = [(label, line) for label, line in launch["setup"]]
        self.time_limit: float | None = launch["time_limit_seconds"]
        self.grace: float = launch["grace_seconds"]
        self.lease: float | None = launch["lease"]
        self.spool = Spool(threaded=self.lease is not None)
        self.spool.open(folder.fd)

        self.phase = "accepted"
        self.stopping = False
        self.stopped: str | None = None
        self.started_at: float | None = None
        self.reason = "never_started"
        self.text = ""
        self.exit: dict[str, Any] | None = None
        self.forgotten = False  # whether the agent has it for good
        self.status: int | None = None  # of the main process, or of the setup line that failed
        self.cpu_seconds = 0.0
        self.max_rss = 0

        self.step = 0  # number of the one that runs; the last is the job itself
        self.child = 0  # its process, 0 between steps and after the last
        self.child_name = ""
        self.child_since = 0.0
        self.exec_report = -1  # says why exec failed, or closes because it succeeded
        self.dump = -1  # where a setup line leaves its environment
        self.done = False  # no further step is to start
        self.limit_at: float | None = None
        self.settle_at: float | None = None
        self.kill_at: float | None = None
        self.read_at: float | None = None  # when to look into the pipe again; None: when there is something

        self.poll = select.poll()
        self.clients: dict[int, Client] = {}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.setblocking(False)
        self.listener.bind(f"/proc/self/fd/{folder.fd}/sock")  # a path in sockaddr_un ends at 108 bytes
        self.listener.listen(MAX_CLIENTS)
        for fd in (self.wake, self.listener.fileno(), self.spool.read_end):
            self.poll.register(fd, select.POLLIN)
        self.first = first
        self._add(first)

    # ---------------- the loop

    def run(self) -> bool:
        """Returns when all has ended and is on record; whether that was an end like any other, nothing forced."""
        self._announce()
        for line in self.first.lines():  # a stop may have come right behind the launch
            self._request(self.first, line)
        self._keep_limits()
        self._start_next()
        while not (self._reap() and self.done):
            self._wait(self._timeout())
            self._keep_limits()
        plain = self.reason == "exited" and not self.stopping
        self._finish()
        self._close()
        return plain

    def _wait(self, seconds: float | None) -> None:
        for fd, _ in self.poll.poll(None if seconds is None else max(0, int(seconds * 1000 + 0.999))):
            if fd == self.wake:
                os.read(self.wake, 4096)
            elif fd == self.spool.read_end:
                self._take_output()
            elif fd == self.exec_report:
                self._read_exec_report()
            elif fd == self.listener.fileno():
                self._accept()
            elif fd in self.clients:
                client = self.clients[fd]
                alive = client.receive()
                for line in client.lines():
                    self._request(client, line)
                if not alive:
                    self._drop(client)

    def _timeout(self) -> float | None:
        now = _boottime()
        times = [t - now for t in (self.limit_at, self.settle_at, self.lease, self.read_at) if t is not None]
        if self.lease is not None:
            times.append(LEASE_POLL_SECONDS)
        if self.kill_at is not None:  # past it: another round now and then, for what was forked during the last one
            times.append(self.kill_at - now if now < self.kill_at else min(1.0, 0.01 + (now - self.kill_at) / 4))
        return min(times) if times else None

    def _keep_limits(self) -> None:
        now = _boottime()
        if self.limit_at is not None and now >= self.limit_at:
            self.limit_at = None
            self._stop("time_limit", self.grace)
        if self.lease is not None and now >= self.lease:
            self.lease = None
            self._stop("fence", self.grace)
        if self.settle_at is not None and now >= self.settle_at:
            self._end_tree(self.grace)
        if self.kill_at is not None and now >= self.kill_at:
            kill_tree(self.pid)
        if self.read_at is not None and now >= self.read_at:
            self.read_at = None
            self.poll.register(self.spool.read_end, select.POLLIN)

    def _take_output(self) -> None:
        seconds = self.spool.take()
        if seconds is not None:
            self.poll.unregister(self.spool.read_end)
            self.read_at = _boottime() + seconds

    # ---------------- steps

    def _start_next(self) -> None:
        if self.done:
            return
        if self.step == len(self.setup):
            if self.lease is None:
                self._spawn()
            else:
                self._fork(self.argv)
            return
        label, line = self.setup[self.step]
        self.spool.note(f"setup {self.step + 1}/{len(self.setup)}: {label}")
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        env = "/usr/bin/env" if os.path.exists("/usr/bin/env") else "/bin/env"
        self.dump = os.memfd_create("gpuq-env")
        self._fork([shell, "-c", _SETUP, "gpuq-setup", line, env, str(self.dump)])

    def _spawn(self) -> None:
        """Starts the job, without being able to act meanwhile."""
        started = spawn(self.argv, self.env, self.cwd, self.spool.write_end)
        if isinstance(started, str):
            self._give_up("launch_failed", why_not(started, self.argv[0], self.cwd))
        else:
            self.child = started
            self._leave_traces()
            self._is_running()

    def _fork(self, argv: list[str]) -> None:
        receive, report = os.pipe2(os.O_CLOEXEC)
        try:
            child = os.fork()
        except OSError as error:
            os.close(receive)
            os.close(report)
            self._give_up("never_started", f"cannot start a process: {os.strerror(error.errno or 0)}")
            return
        if child == 0:
            become(argv, self.env, self.cwd, self.spool.write_end, self.dump, self.pid, report)
        os.close(report)
        self.child, self.child_name, self.child_since = child, argv[0], _boottime()
        self._leave_traces()
        self.exec_report = receive
        self.poll.register(receive, select.POLLIN)

    def _leave_traces(self) -> None:
        self.folder.trace(self.launcher, self.spool.inode, self.child)

    def _read_exec_report(self) -> None:
        """Takes the child's word on exec. Only called when it is there: poll says so, or the child is dead."""
        failure = os.read(self.exec_report, 100).decode()
        self.poll.unregister(self.exec_report)
        os.close(self.exec_report)
        self.exec_report = -1
        if failure:
            self._give_up("launch_failed", why_not(failure, self.child_name, self.cwd))
        elif self.step == len(self.setup) and not self.done:
            self._is_running()

    def _is_running(self) -> None:
        self.reason = "exited"
        self.phase, self.started_at = "running", time.time()
        if self.time_limit is not None:
            self.limit_at = _boottime() + self.time_limit
        self._announce()

    @staticmethod
    def _readable(fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def _give_up(self, reason: str, text: str) -> None:
        if not self.done:  # else it was stopped meanwhile, and that is what ended it
            self.reason, self.text, self.done = reason, text, True

    def _reap(self) -> bool:
        """Takes the status of all that ended; True once there is no process left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                return False
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            self.max_rss = max(self.max_rss, usage.ru_maxrss * 1024)
            if pid == self.child:
                if self.exec_report >= 0:
                    self._read_exec_report()
                self.child = 0
                self._step_ended(status)

    def _step_ended(self, status: int) -> None:
        if self.step < len(self.setup):
            took = _boottime() - self.child_since
            which = f"setup {self.step + 1}/{len(self.setup)}"
            how = f"exit code {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"
            if self.reason == "launch_failed":
                pass
            elif self.done:
                self.status = status
                self.text = f"stopped in {which}"
            elif status:
                self.spool.note(f"{which} failed with {how} after {took:.1f} s")
                self.status = status
                self._give_up("setup_failed", f"{which} ('{self.setup[self.step][0]}') failed with {how}")
            else:
                self.spool.note(f"{which} done in {took:.1f} s")
                self._take_environment()
            os.close(self.dump)
            self.dump = -1
            self.step += 1
            self._start_next()
        elif self.reason == "exited":
            self.status = status
        self.done = self.done or self.child == 0
        if self.done and self.kill_at is None:
            self.limit_at = None
            self.settle_at = _boottime() + SETTLE_SECONDS

    def _take_environment(self) -> None:
        size = os.fstat(self.dump).st_size
        found = os.pread(self.dump, size, 0).decode(errors="surrogateescape")
        if not found:  # the line left its shell by `exit 0`
            return
        pairs = (item.partition("=") for item in found.split("\0"))
        changed = {name: value for name, _, value in pairs if name and name not in _SHELL_KEEPS}
        self.env = {n: self.env[n] for n in _SHELL_KEEPS if n in self.env} | changed | self.kept

    # ---------------- the end

    def _stop(self, kind: str, grace: float) -> None:
        if self.phase == "ended":
            return
        if self.exec_report >= 0 and self._readable(self.exec_report):
            self._read_exec_report()  # it may be the job since a moment ago
        if not self.done and self.stopped is None:
            self.stopped = kind
            if self.step < len(self.setup) and self.child:
                self.reason = "setup_failed"
        self.done = True
        self._end_tree(grace)

    def _end_tree(self, grace: float) -> None:
        """SIGTERM now, SIGKILL after grace seconds; asked again, it can only become sooner."""
        at = _boottime() + max(0.0, grace)
        self.settle_at = None
        if self.kill_at is not None:
            self.kill_at = min(self.kill_at, at)
            return
        self.kill_at = at
        if self.child and self.exec_report >= 0:
            # Not a program yet: it may hang in chdir or exec on a dead file server, and must never become one now.
            os.kill(self.child, signal.SIGKILL)
        self.stopping = True
        self._announce()
        terminate_tree(self.pid)

    def _finish(self) -> None:
        size = self.spool.finish()
        if self.spool.lost:
            lost = f"the disk was full: the last {self.spool.lost} bytes of the log are lost"
            self.text = f"{self.text}; {lost}" if self.text else lost
        status = self.status
        self.exit = {
            "v": VERSION,
            "reason": self.reason,
            "ended_at": time.time(),
            "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            "stopped": self.stopped,
            "text": self.text.encode(errors="replace").decode(),
            "started_at": self.started_at,
            "log_size": size,
            "cpu_seconds": round(self.cpu_seconds, 6),
            "max_rss_bytes": self.max_rss,
        }
        self.phase = "ended"
        self.lease = self.kill_at = self.settle_at = None
        if self.read_at is None:
            self.poll.unregister(self.spool.read_end)
        saved = self.folder.save(self.exit, self.spool)
        self._announce()
        until = _boottime() + RETRY_SECONDS
        while not saved and not self.forgotten:  # if the agent is gone, this process is the only one that knows
            if (left := until - _boottime()) > 0:
                self._wait(left)
            else:
                saved = self.folder.save(self.exit, self.spool)
                until = _boottime() + RETRY_SECONDS

    def _close(self) -> None:
        """Lets go of all that was of this run."""
        for client in list(self.clients.values()):
            self._drop(client)
        self.listener.close()
        self.spool.close()
        self.folder.close()
        os.chdir("/")

    # ---------------- clients

    def _state(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "phase": self.phase,
            "stopping": self.stopping,
            "started_at": self.started_at,
            "pid": self.child if self.phase == "running" and self.child else None,
            "exit": self.exit,
            "saved": self.folder.saved,
        }

    def _announce(self) -> None:
        state = self._state()
        for client in list(self.clients.values()):
            if client.watching and not client.send(state):
                self._drop(client)

    def _add(self, client: Client) -> None:
        self.clients[client.sock.fileno()] = client
        self.poll.register(client.sock.fileno(), select.POLLIN)

    def _drop(self, client: Client) -> None:
        fd = client.sock.fileno()
        if self.clients.pop(fd, None):
            self.poll.unregister(fd)
            client.sock.close()

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if len(self.clients) >= MAX_CLIENTS or uid not in (0, os.getuid()):
            sock.close()
        else:
            self._add(Client(sock))

    def _request(self, client: Client, line: bytes) -> None:
        try:
            request = json.loads(line)
            op = request["op"]
        except (ValueError, TypeError, KeyError, RecursionError):
            request, op = {}, None
        error = ""
        if op == "watch":
            client.watching = True
        elif op == "stop":
            kind, grace = request.get("kind"), finite(request.get("grace"))
            if kind in _STOP_KINDS and grace is not None:
                self._stop(kind, grace)
            else:
                error = "stop needs a known kind and grace"
        elif op == "extend":
            deadline = finite(request.get("deadline"))
            if deadline is None:
                error = "extend needs deadline"
            elif self.lease is not None:  # a late one must not shorten it, and none revives a lease that has ended
                self.lease = max(self.lease, deadline)
        elif op == "forget":
            self.forgotten = self.phase == "ended"
        else:
            error = "unknown request"
        done = self._state() if op == "watch" else {"v": VERSION, "ok": op}
        answer = {"v": VERSION, "error": error} if error else done
        if client.sock.fileno() >= 0 and not client.send(answer):
            self._drop(client)
