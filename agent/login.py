"""The environment of an account's login shell on this machine, for jobs that came without one."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

from agent.accounts import Account, own_account

logger = logging.getLogger(__name__)

LOGIN_SECONDS = 20.0  # a profile that waits for a dead file server or asks a question must not hold up the job for ever
LOGIN_KEPT_SECONDS = 300.0  # a login shell takes 10 to 500 ms; a changed profile counts a few minutes later
_PASSED_ON = ("LD_LIBRARY_PATH",)  # some Pythons find their own library by it
_MARKER = r"\0gpuq-environment\0"  # as printf takes it
_MAX_ENVIRONMENT = 4 << 20  # bytes that are read: twice what the kernel takes of one
_MAX_OUTPUT = 64 << 20  # of a profile: it lies in memory, and is held against the agent
_PARTING_SECONDS = 2.0  # to end what a profile has started; what then still hangs in the kernel is waited for no more
_CHILD = resources.files("agent").joinpath("login_child.py").read_text()
# A login shell starts at home, which root may not be let into (NFS): so that is gone to in the account.
_GO_HOME = 'cd "$HOME" 2>/dev/null; exec "$@"'


class Login:
    """The login environment, read when it is first asked for, and again when it is LOGIN_KEPT_SECONDS old.

    account: whose; None is this process' own.
    """

    def __init__(self, account: Account | None = None) -> None:
        self._account = account
        self._kept: tuple[float, dict[str, str]] | None = None  # until when, and what
        self._lock = asyncio.Lock()

    def known(self) -> dict[str, str] | None:
        """What `environment` would give, if that needs no wait."""
        return self._kept[1] if self._kept is not None and time.monotonic() < self._kept[0] else None

    async def environment(self) -> dict[str, str]:
        """Who asks while it is being read gets the same."""
        async with self._lock:
            known = self.known()
            if known is None:
                until, known = time.monotonic() + LOGIN_KEPT_SECONDS, await login_environment(self._account)
                self._kept = until, known
            return known


async def login_environment(other: Account | None = None) -> dict[str, str]:
    """What the account's login shell on this machine exports; a minimal environment if it fails or takes too long.

    other: another account than this process' own, which only root may take.
    """
    account = other or own_account()
    known = Path(account.shell).name in ("bash", "zsh", "ksh", "dash", "sh")  # csh has no -l -c, nologin no -c
    shell = account.shell if known else "/bin/sh"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    minimal = {**account.variables, "SHELL": shell, "PATH": path}
    taken: dict[str, Any] = {}
    if other is not None:
        taken = {"user": other.uid, "group": other.gid, "extra_groups": other.groups}
    script = f"printf '{_MARKER}'; exec env -0"
    argv = ["/bin/sh", "-c", _GO_HOME, "sh", shell, "-lc", script]
    asked = {"argv": argv, "env": minimal, "seconds": LOGIN_SECONDS, "taken": taken}
    # Not a pipe: what a profile leaves running in the background would keep it open.
    output = os.memfd_create("gpuq-login", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(output, _MAX_OUTPUT)
        fcntl.fcntl(output, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _CHILD, json.dumps(asked)),
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(process.wait(), LOGIN_SECONDS + _PARTING_SECONDS)
        finally:
            if process.returncode is None:
                process.terminate()
        # A profile may print what it likes: only what follows the mark counts.
        size = os.lseek(output, 0, os.SEEK_CUR)
        written = os.pread(output, _MAX_ENVIRONMENT, max(0, size - _MAX_ENVIRONMENT))
        _, mark, found = written.rpartition(b"\0gpuq-environment\0")
    except (OSError, asyncio.TimeoutError) as error:
        logger.warning("login.failed shell=%s error=%r", shell, error)
        return minimal
    finally:
        os.close(output)
    if not mark:
        logger.warning("login.failed shell=%s error=it printed no environment", shell)
        return minimal
    pairs = (item.decode(errors="surrogateescape").partition("=") for item in found.split(b"\0"))
    return {name: value for name, _, value in pairs if name}
