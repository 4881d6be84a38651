"""The agent's side of the launcher: starts it from copies of its code, hands it connections, replaces it if it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from importlib import resources
from pathlib import Path
from threading import Thread

logger = logging.getLogger(__name__)

_CODE = (
    "launcher.py",
    "supervisor.py",
    "supervisor_socket.py",
    "channels.py",
    "channel.py",
    "limits.py",
    "tree_end.py",
    "setup_line.py",
    "shutdown.py",
    "run_cgroup.py",
    "run_folder.py",
    "spool.py",
    "output_files.py",
    "program.py",
    "process_tree.py",
)
_MAIN = "import sys; sys.path.insert(0, sys.argv[1]); from agent.launcher import main; main(int(sys.argv[2]))"
_PASSED_ON = ("LD_LIBRARY_PATH",)  # some Pythons find their own library by it
# A launcher that dies sooner than this after its start would do so again at once: wait a moment first.
_SHORT_LIFE_SECONDS, _PAUSE_SECONDS = 5.0, 1.0
_PARTING_SECONDS = 5.0  # for a launcher to say whether it stays


class LauncherLink:
    """One launcher process, there from `start` until `close`. Runs it has started do not depend on it.

    It stays for them, though, for as long as there are any: see launcher.py.
    """

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir / "launcher"
        # Read now: the zipapp's cache may be gone when the launcher has to be replaced.
        self._code = {name: resources.files("agent").joinpath(name).read_bytes() for name in _CODE}
        self._processes: list[subprocess.Popen[bytes]] = []  # the last is the present one
        self._channel: socket.socket | None = None
        self._started = 0.0
        self._waiting: deque[socket.socket] = deque()
        self._closed = False

    @property
    def pid(self) -> int:
        """Of the present launcher, or of the last one while it is being replaced."""
        return self._processes[-1].pid

    def start(self) -> None:
        """Raises OSError if the code cannot be written or Python cannot be started."""
        package = self._dir / "agent"
        package.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, code in {"__init__.py": b"", **self._code}.items():
            (package / name).write_bytes(code)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # -I -S: nothing of PYTHONPATH, user site or site-packages; utf8: names and arguments whatever the locale is.
        flags = ["-I", "-S", "-B", "-X", "utf8"]
        with theirs, (self._dir / "launcher.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *flags, "-c", _MAIN, str(self._dir), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._processes = [p for p in self._processes if p.poll() is None] + [process]
        self._channel, self._started = ours, time.monotonic()
        asyncio.get_running_loop().add_reader(ours, self._died)
        self._flush()

    def send(self, connection: socket.socket) -> None:
        """Has a supervisor started that serves this connection, which is taken over. If none can be, it closes."""
        self._waiting.append(connection)
        self._flush()

    async def close(self) -> None:
        """Ends the launcher, at once or with the last of its runs; connections not yet handed over are closed."""
        self._closed = True
        stays = await self._part()
        self._hang_up()
        while self._waiting:
            self._waiting.popleft().close()
        processes, self._processes = self._processes, []
        for process in processes:
            if stays and process is processes[-1]:
                # Nobody waits for it but this thread, and nobody for this thread.
                Thread(target=process.wait, name="launcher", daemon=True).start()
            else:
                await asyncio.to_thread(process.wait)

    async def _part(self) -> bool:
        """Tells the launcher that no more will come; returns whether it stays, for runs that go on."""
        if self._channel is None:
            return False
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel)
        loop.remove_writer(self._channel)
        try:
            self._channel.shutdown(socket.SHUT_WR)
            return bool(await asyncio.wait_for(loop.sock_recv(self._channel, 16), _PARTING_SECONDS))
        except asyncio.TimeoutError:
            return True
        except OSError:
            return False  # it has died

    def _flush(self) -> None:
        if self._channel is None:
            return
        loop = asyncio.get_running_loop()
        while self._waiting:
            try:
                socket.send_fds(self._channel, [b"+"], [self._waiting[0].fileno()])
            except BlockingIOError:
                loop.add_writer(self._channel, self._flush)
                return
            except OSError:
                return  # it has died; the reader will be called, and these go to the next one
            self._waiting.popleft().close()
        loop.remove_writer(self._channel)

    def _hang_up(self) -> None:
        if self._channel is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._channel)
            loop.remove_writer(self._channel)
            self._channel.close()
            self._channel = None

    def _died(self) -> None:
        """The channel is readable: the launcher never writes, so it has ended."""
        self._hang_up()
        logger.error("launcher.died pid=%s", self.pid)
        short = time.monotonic() - self._started < _SHORT_LIFE_SECONDS
        asyncio.get_running_loop().call_later(_PAUSE_SECONDS if short else 0.0, self._restart)

    def _restart(self) -> None:
        if self._closed or self._channel is not None:
            return
        try:
            self.start()
        except OSError as error:
            logger.error("launcher.restart_failed error=%s", error)  # noqa: TRY400 -- a full disk needs no traceback
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._restart)
