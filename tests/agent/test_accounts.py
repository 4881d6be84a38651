"""Whose jobs an agent that is root runs, and what such a job may do: real accounts, of a machine of the test's own."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from agent import accounts as accounts_module
from agent.accounts import AccountRefused, AccountRules, LocalAccounts, local_accounts, look_up, read_rules
from agent.cgroups import find_cgroups
from agent.executor import Executor
from agent.run_cgroup import remove_all
from agent.runs import SCRIPTS
from gpuq.accounts import Accounts, JobsOf, Refusal
from gpuq.errors import InvalidRequest
from gpuq.model import EndReason, StopKind
from tests.agent.executions import Machine, alive, boottime, order, shell, until
from tests.agent.own_accounts import PASSWD, OwnMachine, with_accounts

# ---------------------------------------------------------------- whose jobs run


@with_accounts
async def test_a_job_runs_in_its_users_account_with_its_groups_home_and_shell(m: OwnMachine) -> None:
    who = 'id -u; id -g; id -G; echo "$HOME $USER $LOGNAME $SHELL"; umask; pwd'
    said = await m.says("alice", who, environment={"PATH": os.environ["PATH"], "HOME": "/elsewhere"}, cwd=None)
    home = m.folder / "home" / "alice"
    assert said == ["12001", "12000", "12000 12100", f"{home} alice alice /bin/sh", "0022", str(home)]
    assert await m.says("bob", "id -un; id -Gn") == ["bob", "users guests"]
    fenced = m.of_user("alice", shell("id -u"))
    await m.result(fenced, lease_deadline=boottime() + 60)
    assert m.log(fenced) == b"12001\n"


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("root", "does not allow root: uid 0 is root's (see agent --root-jobs)"),
        ("toor", "does not allow toor: uid 0 is root's (see agent --root-jobs)"),
        ("daemon", "does not allow daemon: uid 1 is below 1000"),
        ("nobody", "does not allow nobody: uid 65534 with group 65534 is nobody's"),
        ("unchanged", "does not allow unchanged: uid -1 is below 1000"),
        ("gone", "does not allow gone: its shell is /usr/sbin/nologin"),
        ("carol", "has no account carol"),
        ("12001", "has no account 12001"),
        ("alice/../root", "does not allow 'alice/../root': no account can be called that"),
        ("..", "does not allow '..': no account can be called that"),
        ("", "does not allow '': no account can be called that"),
        ("alice\0", "does not allow 'alice\\x00': no account can be called that"),
        ("alice:x:0:0", "does not allow 'alice:x:0:0': no account can be called that"),
        ("alice\n", "does not allow 'alice\\n': no account can be called that"),
    ],
)
def test_nobody_gets_root_or_a_system_account_by_whatever_name(user: str, text: str) -> None:
    @with_accounts
    async def scenario(m: OwnMachine) -> None:
        job = m.of_user(user, shell("id", setup=("id",)))
        end = await m.result(job)
        assert (end.reason, end.text) == (EndReason.NEVER_STARTED, f"a1 {text}")
        assert not (m.run_dir(job) / "log").exists()
        assert m.accounts.stated == Accounts(JobsOf.EACH, refused=(Refusal(user, text),))

    scenario()


def test_without_root_an_agent_runs_its_owners_jobs_only_whatever_it_is_ordered(tmp_path: Path) -> None:
    async def scenario() -> None:
        m = Machine(tmp_path)
        m.executor = Executor(tmp_path, m.events.append, LocalAccounts(Accounts(JobsOf.OWNER, "anna")))
        await m.executor.start()
        try:
            for script in (None, "#!/bin/sh\nid\n"):
                job = order("id", script=script)
                end = await m.result(replace(job, job=replace(job.job, user="bert")))
                assert (end.reason, end.text) == (EndReason.NEVER_STARTED, "a1 runs only jobs of anna")
            job = order("true")
            assert (await m.result(replace(job, job=replace(job.job, user="anna")))).exit_code == 0
        finally:
            await m.executor.close()

    asyncio.run(scenario())


@with_accounts
async def test_an_account_that_vanishes_after_its_order_was_taken_starts_nothing_until_it_is_back(
    m: OwnMachine,
) -> None:
    told: list[Accounts] = []
    m.accounts.changed = lambda: told.append(m.accounts.stated)
    assert await m.says("alice", "id -un") == ["alice"]
    m.passwd("root", "bob")
    job = m.of_user("alice", shell("id"))
    assert (await m.result(job)).text == "a1 has no account alice"
    assert told[-1].refusal("alice") == "has no account alice"
    await m.accounts.check_again()
    assert len(told) == 1
    m.passwd(*PASSWD)
    await m.accounts.check_again()
    assert told[1:] == [Accounts(JobsOf.EACH)]
    assert await m.says("alice", "id -un") == ["alice"]


@with_accounts
async def test_a_directory_service_that_does_not_answer_holds_up_that_account_alone(m: OwnMachine) -> None:
    real, accounts_module.LOOKUP_SECONDS = pwd.getpwnam, 0.2
    reading, writing = os.pipe()

    def slow(name: str) -> object:
        return os.read(reading, 1) and real(name) if name == "alice" else real(name)

    pwd.getpwnam = slow  # type: ignore[assignment]
    jobs = [m.of_user("alice", shell("true")) for _ in range(3)]
    for job in jobs:
        m.executor.launch(job)
    assert await m.says("bob", "id -un") == ["bob"]
    for job in jobs:
        assert (await m.end(job)).text == "a1 did not find the account alice within 0 s"
    os.write(writing, b"xxx")
    await until(lambda: not m.accounts._asked)
    assert await m.says("alice", "id -un") == ["alice"]
    assert m.accounts.stated.refused == ()


@with_accounts
async def test_rules_of_the_machine_say_who_may_and_a_change_counts_from_the_next_job_on(m: OwnMachine) -> None:
    def refused(user: str) -> str:
        try:
            look_up(user, read_rules(m.state_dir / "accounts.toml"))
        except AccountRefused as refusal:
            return str(refusal)
        return ""

    assert (refused("alice"), refused("bob")) == ("", "")
    m.rules("min_uid = 12002")
    assert (refused("alice"), refused("bob")) == ("does not allow alice: uid 12001 is below 12002", "")
    m.rules('allow_groups = ["gpu", "nowhere"]')
    assert (refused("alice"), refused("bob")) == ("", "does not allow bob: it is not in group gpu or nowhere")
    m.rules('deny_groups = ["guests"]')
    assert (refused("alice"), refused("bob")) == ("", "does not allow bob: it is in group guests")
    m.rules('deny_groups = ["users"]')
    assert refused("alice") == "does not allow alice: it is in group users"
    m.rules('deny_groups = ["nowhere"]')
    assert refused("alice") == "does not allow alice: there is no group nowhere, which is denied"
    m.rules("allow_nologin = true")
    assert refused("gone") == ""
    m.rules("min_uid = 1")
    assert refused("toor").startswith("does not allow toor: uid 0")
    m.rules("min_uid = many")
    job = m.of_user("alice", shell("id"))
    assert (await m.result(job)).text == "a1 runs nobody's jobs: its accounts.toml cannot be used"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("min_uid = 0", "min_uid must be at least 1"),
        ("min_uid = true", "min_uid must be a number"),
        ('allow_groups = "gpu"', 'allow_groups must be a list of names such as ["gpu"]'),
        ("allow_nologin = 1", "allow_nologin must be true or false"),
        ("minuid = 5", "there is no setting 'minuid'"),
        ("=", "is not valid TOML"),
    ],
)
def test_rules_that_say_nothing_sensible_are_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "accounts.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        read_rules(path)
    assert says in refused.value.one_line()
    assert str(path) in refused.value.one_line()


def test_rules_that_others_may_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    assert read_rules(path) == AccountRules()
    path.write_text("min_uid = 2000")
    assert read_rules(path) == AccountRules(min_uid=2000)
    path.chmod(0o660)
    with pytest.raises(InvalidRequest, match="may be written by others"):
        read_rules(path)
    if os.geteuid() == 0:
        path.chmod(0o600)
        os.chown(path, 12001, -1)
        with pytest.raises(InvalidRequest, match="may be written by others"):
            read_rules(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes accounts")
def test_root_runs_roots_own_jobs_only_if_it_was_started_so(tmp_path: Path) -> None:
    plain, with_root, shared = (
        local_accounts(tmp_path, shared_account=shared, root_jobs=root)
        for shared, root in ((False, False), (False, True), (True, False))
    )
    assert plain.stated.refusal("root").startswith("does not allow root")
    assert not plain.runs_as_agent("root")
    assert (with_root.stated.refusal("root"), with_root.runs_as_agent("root")) == ("", True)
    assert not with_root.runs_as_agent("toor")
    assert shared.runs_as_agent("anyone")
    (tmp_path / "accounts.toml").write_text("min_uid = -1")
    with pytest.raises(InvalidRequest):
        local_accounts(tmp_path, shared_account=False, root_jobs=True)


# ---------------------------------------------------------------- what such a job finds


@with_accounts
async def test_set_up_lines_and_the_login_environment_are_the_accounts_too(m: OwnMachine) -> None:
    (m.folder / "home" / "alice" / ".profile").write_text("export FROM=$(id -un):$(pwd)\n")
    job = m.of_user("alice", shell('echo "$FROM $LINE"', setup=("export LINE=$(id -un)",)))
    job = replace(job, spec=replace(job.spec, environment=None))
    assert (await m.result(job)).exit_code == 0
    home = m.folder / "home" / "alice"
    assert m.log(job).decode().splitlines()[-1] == f"alice:{home} alice"


@with_accounts
async def test_a_script_is_its_accounts_alone_and_gone_with_the_run(m: OwnMachine) -> None:
    text = '#!/bin/sh\ncat "$0" >/dev/null && id -un && ls -A "$(dirname "$0")" 2>/dev/null\nsleep 300\n'
    job = m.of_user("alice", order(script=text))
    m.executor.launch(job)
    await m.logged(job, b"alice\n")
    (script,) = SCRIPTS.iterdir()
    assert (script.stat().st_uid, script.stat().st_mode & 0o777) == (12001, 0o700)
    assert await m.says("bob", f"cat {script} 2>/dev/null || echo refused") == ["refused"]
    m.executor.stop(job.uid, 0, StopKind.CANCEL, 5)
    assert (await m.end(job)).signal == signal.SIGTERM
    assert m.log(job) == b"alice\n"
    m.executor.remove(job.uid, 0)
    await until(lambda: not any(SCRIPTS.iterdir()))


@with_accounts
async def test_outputs_can_be_opened_again_by_name(m: OwnMachine) -> None:
    assert await m.says("alice", "echo one >/dev/stderr; echo two >/dev/stdout; echo three") == ["one", "two", "three"]


@with_accounts
async def test_files_of_the_output_are_the_accounts_and_only_where_it_may_write(m: OwnMachine) -> None:
    assert await m.says("alice", "echo mine", cwd=str(m.folder / "home" / "alice"), output="out") == ["mine"]
    file = m.folder / "home" / "alice" / "out"
    assert (file.read_text(), file.stat().st_uid) == ("mine\n", 12001)
    end = await m.result(m.of_user("alice", shell("echo", output="/etc/out-of-alice")))
    assert end.text == "cannot write the files of -o and -e: Permission denied"
    assert not Path("/etc/out-of-alice").exists()


@with_accounts
async def test_a_folder_that_only_root_may_enter_is_not_entered(m: OwnMachine) -> None:
    secret = m.folder / "roots"
    secret.mkdir(mode=0o700)
    end = await m.result(m.of_user("alice", shell("pwd", cwd=str(secret))))
    assert end.reason is EndReason.LAUNCH_FAILED
    assert end.text == f"cannot enter the working directory '{secret}': Permission denied"


# ---------------------------------------------------------------- attacks


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
@with_accounts
async def test_a_job_cannot_get_at_root_its_supervisor_or_what_gpuq_keeps(m: OwnMachine) -> None:
    other = m.of_user("bob", shell("echo up; sleep 300", environment={"PATH": os.environ["PATH"], "SECRET": "bobs"}))
    m.executor.launch(other)
    await m.logged(other, b"up")
    (m.state_dir / "journal").mkdir(mode=0o700)
    (m.state_dir / "journal" / "orders").write_text("secret")
    theirs = alive(other.uid)[0]
    job = m.of_user("alice", shell(""))
    run = m.run_dir(job)
    attempts = [
        "setpriv --reuid 0 id",
        "setpriv --regid 0 id",
        "setpriv --groups 0 --reuid 12001 id",
        f"ls {run}",
        f"cat {run}/log",
        f"echo forged >{run}/log",
        f"echo forged >{run}/exit.json",
        f"ls {m.state_dir}/runs",
        f"cat {m.state_dir}/journal/orders",
        f"test -S {run}/sock",
        "cat /proc/$PPID/environ",
        "ls /proc/$PPID/fd/",
        "ls /proc/$PPID/cwd/",
        "kill -9 $PPID",
        "kill -STOP $PPID",
        f"kill -9 {m.executor._launcher.pid}",
        f"cat /proc/{m.executor._launcher.pid}/environ",
        f"cat /proc/{theirs}/environ",
        f"kill -9 {theirs}",
        f"rm -rf {SCRIPTS}/x && touch {SCRIPTS}/mine",
    ]
    tries = "\n".join(f"({line}) >/dev/null 2>&1 && echo 'it could: {line}'" for line in attempts)
    job = replace(job, spec=replace(job.spec, command=("sh", "-c", f"{tries}\necho tried")))
    assert (await m.result(job)).exit_code == 0
    assert m.log(job) == b"tried\n"
    assert alive(other.uid)


@with_accounts
async def test_nothing_of_one_job_reaches_the_next_of_the_same_supervisor(m: OwnMachine) -> None:
    environment = {"PATH": os.environ["PATH"], "SECRET": "of-alice"}
    first = m.of_user(
        "alice", shell("umask 0; cd /; exec 9</etc/passwd; ulimit -n 50; true", environment=environment, cwd="/usr")
    )
    await m.result(first)
    looks = "env; echo; id -u; id -G; umask; pwd; ulimit -n; ls /proc/self/fd"
    second = m.of_user("bob", shell(looks, cwd="/"))
    await m.result(second)
    assert m.supervisor(first) == m.supervisor(second)
    said = m.log(second).decode()
    assert "of-alice" not in said
    assert "alice" not in said
    limit = os.popen("ulimit -n").read().strip()
    assert said.partition("\n\n")[2].splitlines() == ["12002", "12000 12200", "0022", "/", limit, "0", "1", "2", "3"]
    own = m.of_user("bob", shell("touch mine && stat -c %u mine", cwd=str(m.folder / "home" / "bob")))
    await m.result(own)
    assert m.log(own) == b"12002\n"


@with_accounts
async def test_the_kernel_still_ends_a_job_whose_supervisor_is_killed(m: OwnMachine) -> None:
    job = m.of_user("alice", order("sleep", "300"))
    m.executor.launch(job)
    await m.running(job)
    supervisor, launcher = m.supervisor(job), m.executor._launcher.pid
    await m.executor.close()  # neither the agent nor the launcher is there to look for survivors
    os.kill(launcher, signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    m.executor._runs.clear()
    try:
        await until(lambda: not alive(job.uid))
    finally:
        for left in alive(job.uid):
            os.kill(left, signal.SIGKILL)
        remove_all(find_cgroups().left_of(job.uid))  # which the next agent would have done
