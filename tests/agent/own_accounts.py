"""A machine with accounts of its own, for tests as root: in a mount namespace that ends with the test.

    @with_accounts
    async def test_...(m): ...

runs the coroutine in a forked process in which /etc/passwd and /etc/group are files of the test's own and /var/lib is
empty, on an executor that takes the accounts of users. The machine itself is not changed.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.accounts import LocalAccounts
from agent.cgroups import find_cgroups
from agent.executor import Executor
from gpuq.accounts import Accounts, JobsOf
from gpuq.model import RankPhase
from gpuq.protocol import RunOrder
from tests.agent.executions import Machine, shell, until

_CLONE_NEWNS = 0x00020000
PASSWD = {
    "root": "root:x:0:0::/root:/bin/sh",
    "toor": "toor:x:0:0::/root:/bin/sh",
    "daemon": "daemon:x:1:1::/:/bin/sh",
    "nobody": "nobody:x:65534:65534::/:/bin/sh",
    "unchanged": "unchanged:x:4294967295:4294967295::/:/bin/sh",
    "alice": "alice:x:12001:12000::{home}/alice:/bin/sh",
    "bob": "bob:x:12002:12000::{home}/bob:/bin/sh",
    "gone": "gone:x:12003:12000::/:/usr/sbin/nologin",
}
GROUP = "root:x:0:\nusers:x:12000:\ngpu:x:12100:alice\nguests:x:12200:bob\n"


class OwnMachine(Machine):
    """folder is all it has on disk; state_dir, below it, the agent's. own: whose jobs run as root."""

    def __init__(self, folder: Path, own: str | None = None) -> None:
        super().__init__(folder / "state")
        self.folder = folder
        self.accounts = LocalAccounts(Accounts(JobsOf.EACH), folder / "state" / "accounts.toml", own)
        self.executor = Executor(self.state_dir, self.events.append, self.accounts, find_cgroups())

    def rules(self, text: str) -> None:
        self.state_dir.mkdir(exist_ok=True)
        (self.state_dir / "accounts.toml").write_text(text)

    def passwd(self, *names: str) -> None:
        """The accounts there are from now on."""
        lines = [PASSWD[name].format(home=self.folder / "home") + "\n" for name in names]
        (self.folder / "passwd").write_text("".join(lines))  # in place: it is mounted

    def of_user(self, user: str, job: RunOrder) -> RunOrder:
        return replace(job, job=replace(job.job, user=user))

    async def says(self, user: str, line: str, **options: Any) -> list[str]:
        """What a line of shell prints as a job of this user, which has to succeed."""
        job = self.of_user(user, shell(line, **options))
        end = await self.result(job)
        assert (end.exit_code, end.text) == (0, ""), (end, self.log(job))
        return self.log(job).decode().splitlines()


Test = Callable[[OwnMachine], Awaitable[None]]


def with_accounts(test: Test) -> Callable[[], None]:
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may take another account")
    @pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
    def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="gpuq-accounts-"))
        folder.chmod(0o755)  # so that only gpuq's own folders keep others out
        reading, writing = os.pipe()
        try:
            child = os.fork()
            if child == 0:
                os.close(reading)
                _live(test, folder, writing)
            os.close(writing)
            with open(reading, "rb") as file:
                said = file.read().decode()
            os.waitpid(child, 0)
            assert said == "passed", said
        finally:
            shutil.rmtree(folder)

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined] # or pytest takes its parameter for a fixture
    return run


def _live(test: Test, folder: Path, writing: int) -> None:
    said = "passed"
    try:
        _enter(folder)
        asyncio.run(_scenario(test, folder))
    except BaseException:  # noqa: BLE001 -- whatever it is, it is the test's failure
        said = traceback.format_exc()
    os.write(writing, said.encode())
    sys.stderr.flush()
    os._exit(0)


def _enter(folder: Path) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "cannot have a mount namespace")
    (folder / "group").write_text(GROUP)
    OwnMachine(folder).passwd(*PASSWD)
    for name, uid in (("alice", 12001), ("bob", 12002)):
        home = folder / "home" / name
        home.mkdir(parents=True)
        home.chmod(0o700)
        os.chown(home, uid, 12000)
    for words in (
        ("--make-rprivate", "/"),
        ("--bind", str(folder / "passwd"), "/etc/passwd"),
        ("--bind", str(folder / "group"), "/etc/group"),
        ("-t", "tmpfs", "own", "/var/lib"),
    ):
        subprocess.run(["mount", *words], check=True)


async def _scenario(test: Test, folder: Path) -> None:
    m = OwnMachine(folder)
    await m.executor.start()
    try:
        await test(m)
    finally:
        try:
            await m.stop_all()
        finally:
            await m.executor.close()
        ended = {e.uid for e in m.events if e.phase is RankPhase.ENDED}
        await until(lambda: {uid for uid, _ in m.executor._runs} <= ended)
