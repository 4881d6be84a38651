"""Control groups: what is found on a machine, what runs are held to, and that nothing gets out of them."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cgroups import Cgroups, find_cgroups, with_earlier
from agent.process_tree import descendants, start_time
from agent.run_cgroup import RunCgroup, processes
from gpuq.enforced import Enforced
from gpuq.model import EndReason, Rank, StopKind
from tests.agent.executions import alive, machine, order, shell, until

GROUPS = find_cgroups()
with_limits = pytest.mark.skipif(not GROUPS.memory, reason=f"no memory limits for this account: {GROUPS.note}")
with_groups = pytest.mark.skipif(not GROUPS.version, reason=GROUPS.note)

MIB = 1 << 20
TAKES_200_MIB = "x = b'x' * (200 << 20)"


def granted(job, memory_mib: int = 0, cpus: int = 0):
    """The order with so much reserved."""
    return replace(job, ranks=(Rank(job.ranks[0].node, (), cpus, memory_mib * MIB),))


def folders(job) -> list[Path]:
    return [Path(path) for path in GROUPS.left_of(job.uid)]


@with_groups
def test_a_job_is_in_its_groups_from_its_first_instruction_and_they_go_with_it(tmp_path):
    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            job = granted(shell("cat /proc/self/cgroup"), 100, 1)
            end = await m.result(job)
            inside = [line for line in m.log(job).decode().splitlines() if line.endswith(f"/gpuq/{job.uid}.0")]
            roots = {GROUPS.kill, GROUPS.memory, GROUPS.cpu, GROUPS.pids} - {""}
            assert (end.exit_code, len(inside)) == (0, len(roots))
            assert folders(job) == []

    asyncio.run(scenario())


@with_limits
def test_a_job_beyond_its_memory_is_killed_and_the_kernel_says_why(tmp_path):
    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            end = await m.result(granted(order("python3", "-S", "-c", TAKES_200_MIB), 64))
            assert (end.signal, end.stopped, end.oom_kills) == (signal.SIGKILL, None, 1)
            free = await m.result(granted(order("python3", "-S", "-c", TAKES_200_MIB)))
            assert (free.exit_code, free.oom_kills) == (0, 0)

    asyncio.run(scenario())


@with_limits
def test_a_job_that_has_not_the_memory_to_start_costs_nobody_but_itself(tmp_path):
    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            job = order("true")
            end = await m.result(replace(job, ranks=(Rank(job.ranks[0].node, (), 0, 64 << 10),)))
            assert (end.reason, end.signal, end.oom_kills) == (EndReason.EXITED, signal.SIGKILL, 1)

    asyncio.run(scenario())


@with_limits
def test_a_killed_child_is_counted_though_the_job_ends_by_itself(tmp_path):
    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            end = await m.result(granted(shell(f'python3 -S -c "{TAKES_200_MIB}"; exit 3'), 64))
            assert (end.exit_code, end.oom_kills) == (3, 1)

    asyncio.run(scenario())


@pytest.mark.skipif(not GROUPS.cpu, reason="no limits of CPUs for this account")
def test_cpus_that_were_reserved_are_the_most_a_job_gets(tmp_path):
    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            job = granted(shell("sleep 300"), cpus=3)
            m.executor.launch(job)
            await m.running(job)
            group = Path(GROUPS.cpu) / f"{job.uid}.0"
            assert processes(str(group)) == [child for child in descendants(m.supervisor(job)) if start_time(child)]
            names = ("cpu.max",) if GROUPS.version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            assert " ".join((group / name).read_text().strip() for name in names) == "300000 100000"

    asyncio.run(scenario())


@pytest.mark.skipif(not GROUPS.pids, reason="no limits of processes for this account")
def test_a_fork_bomb_has_an_end(tmp_path):
    bomb = (
        "import os\nn = 0\ntry:\n  while n < 500:\n    n += 1\n    if not os.fork(): os.pause()\nexcept OSError: pass\n"
    )
    bomb = bomb.replace("os.pause()", "__import__('signal').pause()") + "print(n)"

    async def scenario():
        async with machine(tmp_path, replace(GROUPS, processes=40)) as m:
            job = order("python3", "-S", "-c", bomb, grace=0)
            end = await m.result(job)
            assert (end.exit_code, m.log(job)) == (0, b"40\n")  # itself and 39 more; the 40th was refused
            assert alive(job.uid) == []

    asyncio.run(scenario())


@with_groups
def test_a_thousand_that_hide_and_ignore_sigterm_are_gone_before_the_end_is_told(tmp_path):
    many = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for n in range(1000):\n"
        "  if not os.fork():\n"
        "    os.setsid()\n"
        "    if not n: os.write(1, b'')\n"
        "    signal.pause()\n"
        "os.write(1, b'all')\n"
        "signal.pause()\n"
    )

    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            job = order("python3", "-S", "-c", many)
            m.executor.launch(job)
            await m.logged(job, b"all")
            left = descendants(m.supervisor(job))
            assert len(left) == 1001
            m.executor.stop(job.uid, 0, StopKind.CANCEL, 0.2)
            end = await m.end(job)
            assert not any(map(start_time, left))
            assert (end.signal, end.stopped) == (signal.SIGKILL, StopKind.CANCEL)
            assert folders(job) == []

    asyncio.run(scenario())


@with_groups
def test_without_supervisor_and_launcher_what_hid_completely_is_still_ended(tmp_path):
    async def scenario():
        async with machine(tmp_path, GROUPS) as m:
            job = shell("env -i setsid sleep 603 > /dev/null 2>&1 < /dev/null & exec sleep 604")
            m.executor.launch(job)
            await m.running(job)
            await until(lambda: len(processes(str(folders(job)[0]))) == 2)
            left = processes(str(folders(job)[0]))
            os.kill(m.executor._launcher.pid, signal.SIGKILL)
            await until(lambda: start_time(m.executor._launcher.pid))
            os.kill(m.supervisor(job), signal.SIGKILL)
            end = await m.end(job)
            assert not any(map(start_time, left))
            assert end.reason is EndReason.SUPERVISOR_LOST
            assert end.text == "the supervisor of this rank died; all that it had started was killed"
            assert folders(job) == []

    asyncio.run(scenario())


@with_limits
def test_an_agent_that_is_started_again_finds_the_groups_as_they_were(tmp_path):
    async def scenario():
        job = granted(shell(f'echo up; sleep 1; exec python3 -S -c "{TAKES_200_MIB}"'), 64)
        async with machine(tmp_path, GROUPS) as m:
            m.executor.launch(job)
            await m.logged(job, b"up")
            await m.executor.close()
            m.executor._runs.clear()
        async with machine(tmp_path, GROUPS) as again:
            end = await again.end(job)
            assert (end.signal, end.oom_kills) == (signal.SIGKILL, 1)
            assert folders(job) == []

    asyncio.run(scenario())


def test_a_limit_that_cannot_be_set_is_said_in_the_log_and_the_job_runs(tmp_path):
    nowhere = Cgroups(2, memory=str(tmp_path / "no-such-folder"))

    async def scenario():
        async with machine(tmp_path / "state", nowhere) as m:
            job = granted(shell("echo ran"), 64)
            end = await m.result(job)
            said = b"[gpuq] limits of this job are not enforced: no control group: No such file or directory\nran\n"
            assert (end.exit_code, m.log(job)) == (0, said)

    asyncio.run(scenario())


# ---------------------------------------------------------------- what is found


def tree(root: Path, groups: dict[str, str]) -> None:
    """Folders as a cgroup2 mount has them; the value is what the group hands on to those below it."""
    for name, handed_on in groups.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("")
        (folder / "cgroup.subtree_control").write_text(handed_on)


def machine_with(proc: Path, own: str, mounts: str) -> Path:
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(own)
    (proc / "self" / "mountinfo").write_text(mounts)
    return proc


def test_version_2_is_used_as_far_up_as_the_account_may_change_it(tmp_path):
    mount = tmp_path / "cg"
    user = "user.slice/user@1000.service"
    service = f"{user}/app.slice/agent.service"
    all_three = "cpu memory pids"
    tree(mount, {"user.slice": "", user: all_three, f"{user}/app.slice": "", service: "", f"{user}/gpuq": all_three})
    (mount / "user.slice" / "cgroup.procs").unlink()  # somebody else's: not to be written
    proc = machine_with(
        tmp_path / "proc",
        f"0::/{service}\n",
        f"30 23 0:26 / {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
    )
    found = find_cgroups(proc)
    folder = f"{mount}/{user}/gpuq"
    assert (found.kill, found.memory, found.cpu, found.pids) == (folder,) * 4
    assert found.enforced == Enforced("v2", memory=True, cpus=True, processes=True)
    ((path, limits, home),) = found.of_run("abc.0", 3 * MIB, 2)
    assert (path, home) == (f"{folder}/abc.0", f"{mount}/{service}")
    assert limits["memory.max"] == str(3 * MIB)
    assert limits["cpu.max"] == "200000 100000"


def test_version_2_without_controllers_ends_jobs_and_says_what_is_not_enforced(tmp_path):
    mount = tmp_path / "cg"
    tree(mount, {".": "", "gpuq": ""})
    proc = machine_with(tmp_path / "proc", "0::/\n", f"30 23 0:26 / {mount} rw - cgroup2 cgroup2 rw\n")
    found = find_cgroups(proc)
    assert found.of_run("abc.0", 3 * MIB, 2) == [(f"{mount}/gpuq/abc.0", {}, str(mount))]
    assert found.enforced == Enforced("v2", note=f"{mount} may not hand out memory, cpu or pids")


def test_version_1_below_the_own_group_of_each_hierarchy_that_may_be_changed(tmp_path):
    memory, cpu = tmp_path / "memory", tmp_path / "cpu"
    tree(memory, {"": "", "slice/gpuq": ""})
    cpu.mkdir()
    proc = machine_with(
        tmp_path / "proc",
        "4:memory:/box/slice\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/../elsewhere\n",
        f"31 23 0:27 /box {memory} rw - cgroup cgroup rw,memory\n"
        f"32 23 0:28 / {cpu} rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 23 0:29 / {tmp_path} rw - cgroup2 cgroup2 rw\n",
    )
    found = find_cgroups(proc)
    assert (found.version, found.kill, found.memory) == (1, "", f"{memory}/slice/gpuq")
    assert found.enforced == Enforced("v1", memory=True, note="without the controller cpu and pids")
    memory_files = found.of_run("abc.0", 3 * MIB, 2)[0][1]
    assert memory_files["memory.limit_in_bytes"] == str(3 * MIB)


def test_without_control_groups_nothing_is_promised(tmp_path):
    found = find_cgroups(machine_with(tmp_path / "proc", "", ""))
    assert found.of_run("abc.0", 3 * MIB, 2) == []
    assert found.enforced == Enforced(note="there are no control groups")


def test_runs_of_an_agent_that_was_started_in_another_group_are_found_by_the_next(tmp_path: Path) -> None:
    kept, there, here = tmp_path / "cgroups", tmp_path / "there", tmp_path / "here"
    for root in (there, here):
        (root / "ab.0").mkdir(parents=True)
    first = with_earlier(Cgroups(1, memory=str(there)), kept)
    assert (first.earlier, first.left_of("ab")) == ((), [str(there / "ab.0")])
    second = with_earlier(Cgroups(1, pids=str(here), memory=str(here)), kept)
    assert second.earlier == (str(there),)
    assert second.left_of("ab") == second.left_of_run("ab.0") == [str(here / "ab.0"), str(there / "ab.0")]
    assert second.left_of_run("ab.1") == []
    (there / "ab.0").rmdir()
    there.rmdir()
    assert with_earlier(Cgroups(1, memory=str(here)), kept).earlier == ()
    assert kept.read_text() == f"{here}\n"


@pytest.mark.parametrize(
    ("offered", "used"), [(("cgroup.procs", "tasks"), "tasks"), (("cgroup.procs",), "cgroup.procs")]
)
def test_a_thread_enters_by_itself_where_the_kernel_lets_it(
    tmp_path: Path, offered: tuple[str, ...], used: str
) -> None:
    """Version 1 does. For a whole process the kernel waits for all processors."""
    groups = [tmp_path / "job", tmp_path / "home"]
    for group in groups:
        group.mkdir()
        for name in offered:
            (group / name).touch()
    cgroup = RunCgroup([(str(groups[0]), {}, str(groups[1]))])
    assert cgroup.make() == ""
    cgroup.join()
    cgroup.leave()
    written = [{name for name in offered if (group / name).read_text() == "0"} for group in groups]
    assert written == [{used}, {used}]
