"""One process per rank: starts the job, keeps its limits, ends its tree, and writes down how it ended.

It is forked from the launcher (launcher.py) and outlives launcher, agent, zipapp cache and system Python. So these
files use the standard library and each other only, everything is imported before the fork, and nothing is opened by
name afterwards but /proc, the job's own paths and the run directory, which is held open. Strings here are the values
of gpuq's enums, and the exit record has the fields of model.ExitRecord.

The run directory:

    supervisor   symlink to 'BOOT-ID:PID:START'. Made once, by whoever comes first: a supervisor that finds it made
                 starts nothing, so an agent that makes it ('barred') knows that nothing ever will be started
    traces       'LAUNCHER-PID:START:PIPE:PID:START' in its first line, the last two of what was started last: how to
                 find what is left if this process is killed. It becomes exit.json
    log          what the job writes; it comes through a pipe (spool.py)
    sock         the socket, where others ask and are told (supervisor_socket.py)
    exit.json    the exit record: complete, durable and final as soon as it is there
"""

from __future__ import annotations

import os
import resource  # noqa: F401 -- os.wait4 would import it, from disk, in each supervisor: 0.4 ms
import select
import signal
import time
from typing import Any

from agent.channels import MAX_CHANNELS, Channels, open_terminal
from agent.limits import Limits
from agent.output_files import Files
from agent.process_tree import terminate_tree, warn_tree
from agent.program import NO_FILES, Account, Start, fork, spawn, why_not
from agent.run_cgroup import RunCgroup
from agent.run_folder import RunFolder
from agent.setup_line import environment_after, setup_command
from agent.shutdown import goes_down, may_be_shutdown
from agent.spool import Spool
from agent.supervisor_socket import VERSION, Client, Clients
from agent.tree_end import TreeEnd

RETRY_SECONDS = 1.0  # a full disk may have room again


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Supervisor:
    """Runs the steps of one rank in order (setup lines, then the job) and waits for the end of all they start.

    It takes folder, which it has claimed, and first over; wake is readable after each signal, launcher the
    'PID:START' of the launcher.
    """

    def __init__(self, launch: dict[str, Any], folder: RunFolder, first: Client, wake: int, launcher: str) -> None:
        self.folder, self.wake, self.launcher = folder, wake, launcher
        self.pid = os.getpid()
        self.argv: list[str] = launch["argv"]
        self.env: dict[str, str] = launch["env"]
        self.kept = {name: self.env[name] for name in launch["kept"] if name in self.env}
        self.cwd: str = launch["cwd"]
        self.files: Files = launch["files"]
        self.account: Account | None = launch["account"]  # None: this process' own
        self.setup: list[tuple[str, str]] = [(label, line) for label, line in launch["setup"]]
        self.grace: float = launch["grace_seconds"]
        self.pty: str = launch["pty"]  # the size of the terminal that the job runs on, if it does
        self.waits: bool = launch["waits"]  # with the job, until all ranks of its gang are ready
        self.warning: tuple[int, int, bool] | None = launch["warning"]  # signal, seconds before the limit, main only
        before = None if self.warning is None else self.warning[1]
        self.limits = Limits(launch["time_limit_seconds"], before, launch["lease"])
        self.spool = Spool(threaded=self.limits.leased, cap=launch["log_cap"])
        self.spool.open(folder.fd)
        self.cgroup = RunCgroup(launch["cgroups"])

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
        self.warned = 0  # the signal that was sent
        self.end = TreeEnd(self.pid, self.cgroup)
        self.read_at: float | None = None  # when to look into the pipe again; None: when there is something

        self.poll = select.poll()
        for fd in (self.wake, self.spool.read_end):
            self.poll.register(fd, select.POLLIN)
        self.first = first
        self.clients = Clients(self.poll, folder.fd, first)
        self.channels = Channels(self.poll, self.spool, self.cgroup.join)

    # ---------------- the loop

    def run(self) -> bool:
        """Returns when all has ended and is on record; whether that was an end like any other, nothing forced."""
        self._announce()
        self.clients.serve(self.first, self._act)  # a stop may have come right behind the launch
        self._enclose()
        self.limits.begin(_boottime())
        self._keep_limits()
        self._start_next()
        while not (self._reap() and self.done):
            self._wait(self._timeout())
            self._keep_limits()
        plain = self.reason == "exited" and not self.stopping and not self.cgroup.inside
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
            elif not self.channels.ready(fd, _boottime()):
                self.clients.ready(fd, self._act)
                for id, link in self.clients.take_links():
                    self.channels.join(id, link)

    def _timeout(self) -> float | None:
        now = _boottime()
        until_read = None if self.read_at is None else self.read_at - now
        waits = self.limits.wait(now), until_read, self.end.wait(now), self.channels.wait(now)
        return min((seconds for seconds in waits if seconds is not None), default=None)

    def _keep_limits(self) -> None:
        now = _boottime()
        if self.limits.warning_is_due(now):
            self._warn()
        for kind in self.limits.over(now):
            self._stop(kind, self.grace)
        if self.end.is_due(now):
            self._end_tree(self.grace)
        self.end.kill_if_due(now)
        self.channels.keep_limits(now)
        if self.read_at is not None and now >= self.read_at:
            self.read_at = None
            self.poll.register(self.spool.read_end, select.POLLIN)

    def _take_output(self) -> None:
        seconds = self.spool.take()
        if seconds is not None:
            self.poll.unregister(self.spool.read_end)
            self.read_at = _boottime() + seconds

    # ---------------- steps

    def _enclose(self) -> None:
        if failed := self.cgroup.make():
            self.spool.note(f"limits of this job are not enforced: {failed}")

    def _start_next(self) -> None:
        if self.done:
            return
        if self.step == len(self.setup) and self.waits:
            self.phase = "ready"
            self._announce()
            return
        if self.step == len(self.setup):
            plain = not self.limits.leased and self.account is None and not any(self.files) and not self.pty
            self._spawn() if plain and self.cgroup.has_way_back else self._fork(self.argv, self.files)
            return
        label, line = self.setup[self.step]
        self.spool.note(f"setup {self.step + 1}/{len(self.setup)}: {label}")
        self.dump = os.memfd_create("gpuq-env")
        self._fork(setup_command(line, self.dump))

    def _go(self) -> None:
        if self.phase == "ready" and self.waits:
            self.waits = False
            self._start_next()

    def _spawn(self) -> None:
        """Starts the job, without being able to act meanwhile."""
        try:
            self.cgroup.join()
            started = spawn(self.argv, self.env, self.cwd, self.spool.write_end)
        except OSError as error:
            started = f"cgroup {error.errno}"
        self.cgroup.leave()
        if isinstance(started, str):
            self._cannot_start(started, self.argv[0])
        else:
            self.child = started
            self._leave_traces()
            self._is_running()

    def _fork(self, argv: list[str], files: Files = NO_FILES) -> None:
        terminal = theirs = -1
        try:
            if self.pty and self.step == len(self.setup):
                terminal, theirs = open_terminal(self.pty)
            outputs = (self.spool.write_end if theirs < 0 else theirs), files
            enter = self.cgroup.join
            start = Start(argv, self.env, self.cwd, outputs, self.dump, enter, self.account, theirs)
            child, receive = fork(start)
        except OSError as error:
            for fd in {terminal, theirs} - {-1}:
                os.close(fd)
            self._give_up("never_started", f"cannot start a process: {os.strerror(error.errno or 0)}")
            return
        if terminal >= 0:
            os.close(theirs)
            self.channels.take_terminal(terminal, child, _boottime())
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
            self._cannot_start(failure, self.child_name)
        elif self.step == len(self.setup) and not self.done:
            self._is_running()

    def _is_running(self) -> None:
        self.reason = "exited"
        self.phase, self.started_at = "running", time.time()
        self.limits.running()
        self._announce()

    def _warn(self) -> None:
        if self.warning is None or not self.child or self.done:
            return
        self.warned, before, main_only = self.warning
        self.spool.note(f"{signal.Signals(self.warned).name} is sent to this job, {before} s before its time limit")
        warn_tree(self.child, self.warned, main_only)

    @staticmethod
    def _readable(fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def _cannot_start(self, failure: str, name: str) -> None:
        ours = failure.startswith("cgroup")  # nothing that the job could have done otherwise
        self._give_up("never_started" if ours else "launch_failed", why_not(failure, name, self.cwd))

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
            else:
                self.channels.ended(pid, status)

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
                self._ended_for_another_reason(status)
            else:
                self.spool.note(f"{which} done in {took:.1f} s")
                self.env = environment_after(self.env, self.dump) | self.kept
            os.close(self.dump)
            self.dump = -1
            self.step += 1
            self._start_next()
        elif self.reason == "exited":
            self.status = status
            self._ended_for_another_reason(status)
        self.done = self.done or (self.child == 0 and not self.waits)
        if self.done and not self.end.begun:
            self.limits.main_ended()
            self.end.settle(_boottime())
            self.channels.hang_up()

    def _ended_for_another_reason(self, status: int) -> None:
        """Where what ended the job was nobody's wish that it end: its time was up, or the machine's."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        if self.stopped is not None:
            return
        if self.warned and self.warned in (number, (code or 0) - 128):
            self.stopped = "time_limit"
            self.text = f"ended by {signal.Signals(self.warned).name}, which told it that its time limit was near"
        elif may_be_shutdown(code, number) and goes_down():
            self.reason, self.text = "node_lost", "the machine was shut down under it"

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
        if not self.end.begin(_boottime(), grace):
            return
        if self.child and self.exec_report >= 0:
            # Not a program yet: it may hang in chdir or exec on a dead file server, and must never become one now.
            os.kill(self.child, signal.SIGKILL)
        self.stopping = True
        self._announce()
        self.channels.hang_up()
        terminate_tree(self.pid)

    def _finish(self) -> None:
        self.channels.finish()
        size = self.spool.finish()
        if self.spool.lost:
            lost = f"the disk was full: the last {self.spool.lost} bytes of the log are lost"
            self.text = f"{self.text}; {lost}" if self.text else lost
        status = self.status
        oom_kills = self.cgroup.oom_kills()
        self.cgroup.remove()
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
            "oom_kills": oom_kills,
        }
        self.phase = "ended"
        self.limits.all_ended()
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
        while self.channels.are_open:  # what was written last is on its way to who is connected
            self._wait(self.channels.wait(_boottime()))
            self.channels.keep_limits(_boottime())

    def _close(self) -> None:
        """Lets go of all that was of this run."""
        self.clients.close()
        self.channels.close()
        self.spool.close()
        self.folder.close()
        os.chdir("/")

    # ---------------- what others are told, and ask for

    def _state(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "stopping": self.stopping,
            "started_at": self.started_at,
            "pid": self.child if self.phase == "running" and self.child else None,
            "exit": self.exit,
            "saved": self.folder.saved,
        }

    def _announce(self) -> None:
        self.clients.announce(self._state())

    def _act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Carries out what supervisor_socket.request has understood; gives the answer."""
        op = asked["op"]
        if op == "watch":
            return self._state()
        if op == "stop":
            self._stop(asked["kind"], asked["grace"])
        elif op == "go":
            self._go()
        elif op == "extend":
            self.limits.extend(asked["deadline"])
        elif op == "stream":
            return self._stream(asked)
        elif op == "leave":
            self.channels.leave(asked["id"])
        elif op == "forget":
            self.forgotten = self.phase == "ended"
        return {"ok": op}

    def _stream(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Opens a stream, or takes it up again."""
        id, channels = asked["id"], self.channels
        if (known := channels.known(id)) is not None:
            return known
        if self.phase != "running" or self.done:
            return {"error": "the job does not run any more" if self.done else "the job does not run yet"}
        if asked["kind"] == "terminal":
            wrong = channels.open_terminal(id)
        elif channels.are_full:
            wrong = f"there are {MAX_CHANNELS} streams to this job, which is the most"
        elif asked["kind"] == "port":
            wrong = channels.open_port(id, asked["port"], _boottime())
        else:
            wrong = channels.open_shell(id, asked, self.env, self.cwd, self.account, _boottime())
        return {"error": wrong} if wrong else channels.known(id) or {}
