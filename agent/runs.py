"""The directory of one rank on this machine: what the supervisor (supervisor.py) and the agent tell each other by it.

STATE/runs/UID.RANK/   supervisor  traces  log  sock  exit.json  job/script

The script lies below a directory of its own: 'rm -rf "$(dirname "$0")"' at the end of a job is to delete nothing else.
That of a job in another account lies in SCRIPTS, since nothing of STATE may be entered but by the agent's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.process_tree import start_time
from agent.survivors import Launched
from gpuq.codec import decode
from gpuq.errors import InvalidRequest
from gpuq.model import AttemptUid, EndReason, ExitRecord, RankPhase

SCRIPTS = Path("/var/lib/gpuq-scripts")  # may be entered, not listed; each script is its account's alone
_BARRED = "barred"
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # descriptors, memory
# The end last: half a run never misleads.
_FILES = ("log", "job/script", "sock", "traces", "supervisor", "exit.json")


@dataclass(frozen=True, slots=True)
class RunEvent:
    """What became of a rank. Phases only advance; exit is set with ENDED, when the whole process tree is gone.

    recorded: the exit record is on disk, for good, in the run's directory.
    """

    uid: AttemptUid
    rank: int
    phase: RankPhase
    stopping: bool = False
    started_at: float | None = None
    exit: ExitRecord | None = None
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Who supervises a run: a pid alone could be anybody's by now."""

    boot_id: str
    pid: int
    start: int  # clock ticks from boot

    def alive(self) -> bool:
        """Whether that process runs; only meaningful under the same boot id."""
        return start_time(self.pid) == self.start


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def script(self) -> Path:
        return self.path / "job" / "script"

    @property
    def handed_script(self) -> Path:
        """Where the script is if the job runs in another account."""
        return SCRIPTS / self.path.name

    @property
    def sock(self) -> Path:
        return self.path / "sock"

    def create(self, script: str | None) -> None:
        """Makes the directory, with the job's script in it. Raises OSError."""
        self.path.mkdir(mode=0o700)
        if script is not None:
            self.script.parent.mkdir(mode=0o700)
            _write_script(self.script, script, -1)

    def hand_script(self, script: str, uid: int) -> None:
        """Makes the script of a job that runs in the account of this uid. Raises OSError."""
        if not SCRIPTS.is_dir():
            SCRIPTS.mkdir(exist_ok=True)
            SCRIPTS.chmod(0o711)  # whatever the umask is
        _write_script(self.handed_script, script, uid)

    def connect(self) -> socket.socket | None:
        """A connection to the run's supervisor, or None if it cannot be reached now."""
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return None  # too many files are open
        sock.setblocking(False)
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sock.connect(f"/proc/self/fd/{fd}/sock")  # a path in sockaddr_un ends at 108 bytes
            finally:
                os.close(fd)
        except OSError:
            sock.close()
            return None
        return sock

    def identity(self) -> Identity | None:
        """The supervisor's identity, or None if there never was one and, since now, never will be.

        That is made sure by taking its name: a supervisor that is late (the launcher may still have its order) finds
        it taken and starts nothing. Raises OSError if the name cannot be taken.
        """
        mark = self.path / "supervisor"
        with contextlib.suppress(FileExistsError):
            mark.symlink_to(_BARRED)
        return _identity(str(mark.readlink()))

    def supervisor(self) -> Identity | None:
        """As `identity`, but for a mere look: one that is late may still come."""
        try:
            return _identity(str((self.path / "supervisor").readlink()))
        except OSError:
            return None

    @property
    def has_ended(self) -> bool:
        return (self.path / "exit.json").exists()

    def exit_record(self) -> ExitRecord | None:
        """The supervisor's record of the end, if it has written one.

        Raises ValueError if it cannot be read: it is renamed into place whole and fsynced, so that is a damaged disk,
        not a moment in between. Raises OSError if this process lacks what it takes to look, which says nothing of it.
        """
        try:
            return decode(ExitRecord, json.loads((self.path / "exit.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, InvalidRequest) as error:
            if isinstance(error, OSError) and error.errno in _SHORT_OF:
                raise
            raise ValueError(f"the exit record is damaged: {error}") from error

    def launched(self) -> Launched | None:
        """What the supervisor noted of what it started last, if it came to that."""
        try:
            text = (self.path / "traces").read_text().partition("\n")[0]
            launcher, since, pipe, leader, start = map(int, text.split(":"))
        except (OSError, ValueError):
            return None
        return Launched((launcher, since), pipe, (leader, start))

    @property
    def was_begun(self) -> bool:
        """Whether a supervisor has left anything here."""
        return any(os.path.lexists(self.path / name) for name in ("log", "sock", "traces", "exit.json"))

    def end(self, reason: EndReason, at: float, text: str) -> ExitRecord:
        """The end of a run whose supervisor cannot tell it: nothing is made up but that it ended."""
        return ExitRecord(reason, at, text=text, log_size=self.log_size())

    def log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except OSError:  # it never came to be
            return 0

    def remove(self) -> None:
        """Deletes it, as far as it can be deleted."""
        for path in (*(f"{self.path}/{name}" for name in _FILES), f"{SCRIPTS}/{self.path.name}"):
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 -- half the time of a Path, and there are many
        try:
            with contextlib.suppress(FileNotFoundError):
                self.script.parent.rmdir()
            self.path.rmdir()
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)  # the job has put something there


def _identity(text: str) -> Identity | None:
    if text == _BARRED:
        return None
    boot_id, pid, start = text.split(":")
    return Identity(boot_id, int(pid), int(start))


def _write_script(path: Path, text: str, uid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode(errors="surrogateescape"))
        os.fchown(fd, uid, -1)


def existing(runs: Path) -> Iterator[tuple[AttemptUid, int, RunDir]]:
    """Every run below a directory of runs, by name."""
    for path in sorted(runs.iterdir()):
        uid, _, rank = path.name.rpartition(".")
        if uid and rank.isdigit():
            yield AttemptUid(uid), int(rank), RunDir(path)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
