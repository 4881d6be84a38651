"""The daemons of this machine: started apart from the terminal, found again, told to end. Only this file signals them.

A running daemon holds a lock on HOME/KIND/daemon.lock and describes itself in HOME/KIND/daemon.json. A pid is believed
only if the process that has it started at the recorded moment of the recorded boot and is called as a daemon is: files
of a machine that crashed, and pids that were given out again, are then seen for what they are.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gpuq.cli.systemd import manager_of
from gpuq.config import make_private, read_text, write_private
from gpuq.errors import Conflict, Unavailable
from gpuq.ownlog import MAX_BYTES
from gpuq.version import VERSION

LOG_BYTES = MAX_BYTES  # beyond this a log becomes daemon.log.1 when its daemon starts next, if not before
START_SECONDS = 60.0  # a controller with 100,000 jobs to load needs seconds; a slow disk multiplies that
STOP_SECONDS = 20.0  # both daemons end within a second unless a disk hangs
_POLL_SECONDS = 0.02
_PRIVATE = ("GPUQ_TOKEN", "GPUQ_URL")  # a daemon has its own; and what jobs inherit from it must not hold a token


class Running(NamedTuple):
    """A daemon that runs now, in its own words. facts: what else `registered` was given."""

    pid: int
    version: str
    build: str
    facts: Mapping[str, str]

    @property
    def is_this_gpuq(self) -> bool:
        return (self.version, self.build) == (VERSION, build_id())


class Daemon:
    """The controller or the agent of one home, running or not."""

    def __init__(self, home: str, kind: str) -> None:
        self.kind = kind
        self.directory = Path(home) / kind
        self.log = self.directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None  # if it was started by us
        self._log_start = 0

    def running(self) -> Running | None:
        try:
            found = json.loads((self.directory / "daemon.json").read_text("utf-8"))
            pid, identity = int(found["pid"]), str(found["identity"])
            running = Running(pid, str(found["version"]), str(found["build"]), dict(found["facts"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return running if _identity(pid) == identity and self._is_called_so(pid) else None

    @property
    def url(self) -> str:
        """Where the controller of this home answers; '' while it does not."""
        description = read_text(str(self.directory / "controller.json"))
        return str(json.loads(description)["url"]) if description else ""

    def start(self, arguments: Sequence[str], secret: str = "", ready: int | None = None) -> subprocess.Popen[bytes]:
        """Starts it in a session of its own, its output appended to daemon.log. secret goes to its standard input.

        ready: the writing end of a pipe for it to inherit.
        """
        make_private(str(self.directory))
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._log_start = os.fstat(descriptor).st_size
            process = subprocess.Popen(
                [*program(), self.kind, *arguments],
                stdin=subprocess.PIPE if secret else subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                cwd="/",  # no file system is kept busy by a daemon
                env=environment,
                pass_fds=() if ready is None else (ready,),
            )
        finally:
            os.close(descriptor)
        if process.stdin:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(secret.encode() + b"\n")
        self.process = process
        return process

    def stop(self, running: Running) -> bool:
        """Asks it to end, and kills it if it has not in STOP_SECONDS; whether asking was enough.

        Being killed costs neither anything: the controller recovers from its store, the agent finds its jobs again.
        """
        if systemd := manager_of(self.kind, running.pid):
            systemd.stop(self.kind)  # which would start it again
            return True
        identity = _identity(running.pid)
        for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            if identity is None or self.running() != running:
                return True
            with suppress(ProcessLookupError):
                os.kill(running.pid, number)
            if _gone(running.pid, identity, patience):
                return number == signal.SIGTERM
        raise Unavailable(f"the {self.kind} (pid {running.pid}) cannot be killed", "its disk or driver hangs")

    def last_words(self) -> str:
        """The last line it wrote since it was started here, or where to look."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - 8192))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
            said = next((line for line in reversed(lines) if line), "")
            if said:
                return said.removeprefix("gpuq: ")
        return f"it wrote nothing to {self.log}"

    def _is_called_so(self, pid: int) -> bool:
        try:
            return self.kind.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False


@contextmanager
def registered(home: str, kind: str, facts: Mapping[str, str]) -> Iterator[None]:
    """Within it, this process is the one `kind` of `home`; raises Conflict if there is one already.

    A POSIX record lock: no child inherits it, so a job's supervisor cannot keep its agent's successor out.
    """
    directory = Path(home) / kind
    make_private(str(directory))
    description = directory / "daemon.json"
    lock = os.open(directory / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            other = Daemon(home, kind).running()
            who = f"pid {other.pid}" if other else "perhaps in another container"
            raise Conflict(f"{article(kind)} already runs in {home} ({who})", "stop it first: gpuq down") from error
        own = {"pid": os.getpid(), "identity": _identity(os.getpid()), "version": VERSION, "build": build_id()}
        write_private(str(description), json.dumps({**own, "facts": dict(facts)}))
        try:
            yield
        finally:
            description.unlink(missing_ok=True)
    finally:
        os.close(lock)


def article(kind: str) -> str:
    return f"an {kind}" if kind == "agent" else f"a {kind}"


@contextmanager
def alone(home: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Lets one `up` or `down` of a home work at a time; others wait their turn, after saying so by `waiting`."""
    try:
        make_private(home)
        file = (Path(home) / "up.lock").open("w")
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
        raise Conflict(
            f"gpuq's state cannot be kept in {home} ({why})", "give --home DIR or set GPUQ_HOME, on a local disk"
        ) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def log_to_stderr() -> None:
    """What a daemon logs: to its standard error, times in UTC."""
    import logging

    logging.Formatter.converter = time.gmtime
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "httpcore", "uvicorn.access"):  # a line for each exchange
        logging.getLogger(chatty).setLevel(logging.WARNING)


def await_ready(process: subprocess.Popen[bytes], pipe: int) -> str | None:
    """The line a starting daemon writes to its pipe, or None if it ended without."""
    deadline = time.monotonic() + START_SECONDS
    said = b""
    while not said.endswith(b"\n"):
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            process.terminate()
            raise Unavailable(f"the daemon (pid {process.pid}) was not ready after {START_SECONDS:.0f} s")
        piece = os.read(pipe, 4096)
        if not piece:
            process.wait()
            return None
        said += piece
    return said.decode().strip()


def program() -> list[str]:
    """The words that start this same gpuq again, whatever the working directory and the environment."""
    bootstrap = sys.modules.get("gpuq_bootstrap")
    if bootstrap:
        return list(bootstrap.command())
    source = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {source!r}); from gpuq.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", code]


def build_id() -> str:
    """What tells apart two builds of one version; a source checkout is always itself."""
    return str(getattr(sys.modules.get("gpuq_bootstrap"), "BUILD_ID", "source"))


def _identity(pid: int) -> str | None:
    """Boot id and start time of a process; None if there is none, or only what is left of one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else f"{boot}:{fields[19]}"


def _gone(pid: int, identity: str, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while _identity(pid) == identity:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
