"""The account's login environment, for jobs that came without one: real shells."""

from __future__ import annotations

import asyncio
import os
import pwd
import uuid
from dataclasses import replace

import pytest

from agent import login as login_module
from agent.login import login_environment
from agent.process_tree import start_time
from gpuq.model import AttemptUid, EndReason, StopKind
from tests.agent.executions import PATH, machine, order


def test_job_without_an_environment_gets_the_login_environment_of_its_account(tmp_path, monkeypatch):
    async def scenario():
        asked = []

        async def login(account):
            asked.append(1)
            await asyncio.sleep(0.01)
            return {"PATH": PATH, "FROM_LOGIN": "1", "SSH_AUTH_SOCK": "x"}

        monkeypatch.setattr(login_module, "login_environment", login)
        async with machine(tmp_path) as m:
            plain = order("env", cwd=None)
            jobs = [
                replace(plain, uid=AttemptUid(uuid.uuid4().hex), spec=replace(plain.spec, environment=None))
                for _ in range(3)
            ]
            for job in jobs:
                m.executor.launch(job)
            for job in jobs:
                await m.end(job)
                assert b"FROM_LOGIN=1\n" in m.log(job)
                assert b"SSH_AUTH_SOCK" not in m.log(job)
            assert asked == [1]

    asyncio.run(scenario())


def test_stop_while_the_login_environment_is_read_starts_nothing(tmp_path, monkeypatch):
    async def scenario():
        async def login(account):
            await asyncio.sleep(3600)

        monkeypatch.setattr(login_module, "login_environment", login)
        async with machine(tmp_path) as m:
            plain = order("true")
            job = replace(plain, spec=replace(plain.spec, environment=None))
            m.executor.launch(job)
            await asyncio.sleep(0)
            assert m.executor.stop(job.uid, 0, StopKind.CANCEL, 30)
            end = await m.end(job)
            assert (end.reason, end.stopped) == (EndReason.NEVER_STARTED, StopKind.CANCEL)

    asyncio.run(scenario())


def test_login_environment_is_what_the_account_exports():
    found = asyncio.run(login_environment())
    assert found["HOME"]
    assert found["PATH"]
    assert not {"GPUQ_ATTEMPT", "PYTEST_CURRENT_TEST"} & set(found)


@pytest.mark.parametrize(
    ("profile", "survives"),
    [
        ("export MINE=1; echo hello; printf 'A=1\\0'", True),
        ("export MINE=1; sleep 50 & echo $! >background", True),
        ("export MINE=1; setsid sh -c 'trap \"\" TERM HUP; echo $$ >background; sleep 50' & sleep 0.2", True),
        ("setsid sh -c 'echo $$ >background; sleep 50' & sleep 50", False),
        ("export MINE=1; head -c 65M /dev/zero || touch refused", False),
        ("sleep 50", False),
        ("exit 3", False),
    ],
)
def test_a_profile_that_talks_or_hangs_does_no_harm(tmp_path, monkeypatch, profile, survives):
    (tmp_path / ".profile").write_text(profile)
    account = pwd.getpwuid(os.getuid())
    fields = [account.pw_name, "x", account.pw_uid, account.pw_gid, "", str(tmp_path), "/bin/sh"]
    monkeypatch.setattr(pwd, "getpwuid", lambda _: type(account)(fields))
    monkeypatch.setattr(login_module, "LOGIN_SECONDS", 1.0)
    found = asyncio.run(login_environment())
    if (tmp_path / "background").exists():
        pid = int((tmp_path / "background").read_text())
        assert start_time(pid) is None, "it is in no job, and would run for ever"
    assert found["HOME"] == str(tmp_path)
    assert (found.get("MINE") == "1") is survives
    assert "A" not in found
    assert (tmp_path / "refused").exists() is ("refused" in profile)
