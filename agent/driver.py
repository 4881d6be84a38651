"""Asking the NVIDIA driver with a deadline: a child process does (agent/driver_child.py), and is given up on.

A sick driver can block a call for minutes or for ever. While a call is stuck no other is made: asking then fails at
once, and the first answer, which is thrown away since it tells of another time, ends that. A child that is stuck for
GIVE_UP_SECONDS is killed; one that the kernel keeps from dying is not replaced, so that they do not pile up.

The child costs about 13 MB on a machine with GPUs, and nothing on others: without a driver it is not kept.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.nvml import DriverAbsent, DriverFailing, DriverReading
from gpuq.codec import decode
from gpuq.errors import InvalidRequest

# Opening NVML without persistence mode takes seconds on a machine with many GPUs: a child is given more than one call.
GIVE_UP_SECONDS = 120.0
# Between looks for a driver on a machine that has none: one costs 40 ms of a core.
ABSENT_SECONDS = 300.0
# A child that dies is replaced no faster than this.
RESTART_SECONDS = 30.0
_MAIN = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from agent.driver_child import main; main()"
_DEVICE = Path("/dev/nvidiactl")  # there from when the driver's kernel part is


class DriverSilent(Exception):
    """No answer in time."""


class Driver:
    """The driver of this machine; for one caller at a time. now is in monotonic seconds throughout."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._buffer = b""
        self._asked_at: float | None = None  # by the real clock, while an answer is owed
        self._started_at = float("-inf")
        self._absent: tuple[float, str] | None = None
        self._death = ""

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return None if self._child is None else self._child.pid

    def read(self, now: float, timeout: float, fresh: bool = False) -> DriverReading:
        """Every device with its sample, in a new session of the library if fresh.

        Raises DriverAbsent, DriverFailing, or DriverSilent after timeout seconds, at once while an earlier call hangs.
        """
        if self._absent is not None and 0 <= now - self._absent[0] < ABSENT_SECONDS and not _DEVICE.exists():
            raise DriverAbsent(self._absent[1])
        self._absent = None
        self._settle()
        link = self._link or self._start()
        try:
            link.sendall(json.dumps({"now": now, "fresh": fresh}).encode() + b"\n")
        except OSError:
            raise DriverFailing(self._died()) from None
        self._asked_at = time.monotonic()
        answer = self._answer(timeout)
        if answer is None:
            raise DriverSilent
        if "absent" in answer:
            self._absent = (now, answer["absent"])
            self.close()
            raise DriverAbsent(answer["absent"])
        if "failing" in answer:
            raise DriverFailing(answer["failing"])
        try:
            return decode(DriverReading, answer["reading"])
        except InvalidRequest as error:
            raise DriverFailing(f"the NVIDIA driver says what cannot be: {error.message}") from error

    def close(self, patience: float = 1.0) -> None:
        """Ends the child: in peace if it answers, else killed. Never waits longer than patience, in seconds."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._buffer, self._asked_at = b"", None
        if self._child is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(patience)
        self._kill()

    def _settle(self) -> None:
        """Makes sure that no call is under way and that a child which died is replaced; raises if that is not so."""
        if self._asked_at is not None and self._link is not None and self._answer(0) is None:
            if time.monotonic() - self._asked_at >= GIVE_UP_SECONDS:
                self._link.close()
                self._link = None
                self._kill()
            raise DriverSilent
        if self._child is not None and self._link is None and self._child.poll() is None:
            raise DriverSilent  # killed, and not dead: it hangs in the kernel

    def _start(self) -> socket.socket:
        """Starts a child. Raises DriverFailing."""
        if time.monotonic() - self._started_at < RESTART_SECONDS and self._death:
            raise DriverFailing(self._death)
        self._started_at = time.monotonic()
        ours, theirs = socket.socketpair()
        path = json.dumps([entry or os.getcwd() for entry in sys.path])  # noqa: PTH109
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _MAIN, path],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=None,  # the agent's own: where it logs
                    env={name: value for name, value in os.environ.items() if not name.startswith("GPUQ_")},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise DriverFailing(f"the process that asks the driver cannot be started: {error.strerror}") from error
        self._link, self._buffer, self._asked_at = ours, b"", None
        return ours

    def _answer(self, timeout: float) -> dict[str, Any] | None:
        """The answer that is owed, or None if it does not come in time. Raises DriverFailing if the child died."""
        assert self._link is not None
        until = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._link], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                return None
            try:
                part = self._link.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                raise DriverFailing(self._died())
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._asked_at = None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> str:
        """Lets go of a child that hung up; what became of it, in words."""
        assert self._link is not None
        self._link.close()
        self._link, self._buffer, self._asked_at = None, b"", None
        status = None
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                status = self._child.wait(1.0)
        self._kill()
        how = "" if status is None else f" (signal {-status})" if status < 0 else f" (exit code {status})"
        self._death = f"the process that asks the NVIDIA driver died{how}"
        return self._death

    def _kill(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(1.0)
        if self._child is not None and self._child.poll() is not None:
            self._child = None
