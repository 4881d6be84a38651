"""A cluster that root runs for several people: each job in its user's account, and a reason where there is none.

Its daemons have accounts of their own, in a mount namespace; the machine is not changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.e2e.cluster import Cluster, until
from tests.e2e.conftest import MakeCluster

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may take other accounts, in a namespace"
)

PASSWD = "root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nalice:x:12001:12000::/:/bin/sh\n"
MOUNTS = "mount --bind {root}/passwd /etc/passwd && mount --bind {root}/group /etc/group && mount -t tmpfs own /var/lib"


def inside(cluster: Cluster, *arguments: str) -> list[str]:
    """A command of gpuq's, as it is typed where these accounts are."""
    mounts = MOUNTS.format(root=cluster.root)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *map(str, cluster.command(*arguments))]


@pytest.fixture(scope="module")
def shared(make_cluster: MakeCluster) -> Cluster:
    made = make_cluster()
    made.root.chmod(0o755)
    made.folder.chmod(0o777)
    (made.root / "passwd").write_text(PASSWD)
    (made.root / "group").write_text("root:x:0:\nusers:x:12000:\n")
    up = inside(made, "up", "--detach", "--simulate-gpus", "2xH100-80GB")
    done = subprocess.run(up, env=made.environment(), cwd=made.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trust       each job runs in the account of its user, root's as root" in done.stdout
    return made


@pytest.fixture(scope="module")
def as_user(shared: Cluster) -> dict[str, dict[str, str]]:
    """What to set to be somebody."""
    tokens = {}
    for name in ("alice", "bob", "daemon", "toor"):
        shared.gpuq("user", "add", name)
        tokens[name] = {"GPUQ_TOKEN": shared.ok("token", "create", "--role", "user", "--user", name).strip()}
    return tokens


def test_each_job_runs_in_the_account_of_its_user(shared: Cluster, as_user: dict[str, dict[str, str]]) -> None:
    script = shared.folder / "whoami.sh"
    script.write_text('#!/bin/sh\nid -un\ntouch "made-by-$(id -un)"\necho "$HOME $USER"\n')
    script.chmod(0o755)
    for name in ("alice", "root"):
        id = shared.submit(script, **as_user.get(name, {}))
        assert shared.ended(id)["state"] == "SUCCEEDED"
        assert shared.log(id).decode().splitlines()[0] == name
        assert (shared.folder / f"made-by-{name}").stat().st_uid == (12001 if name == "alice" else 0)
    assert shared.log(shared.submit("-W", script, **as_user["alice"])).decode().splitlines() == ["alice", "/ alice"]


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("bob", "has no account bob"),
        ("daemon", "does not allow daemon: uid 1 is below 1000"),
        ("toor", "has no account toor"),
    ],
)
def test_a_user_whom_no_node_knows_is_told_so_and_it_costs_the_job_nothing(
    shared: Cluster, as_user: dict[str, dict[str, str]], name: str, refusal: str
) -> None:
    id = shared.submit("true", **as_user[name])
    reason = until(lambda: (r := shared.job(id)["reason"]) and r["code"] == "account" and r)
    (node,) = shared.json("nodes")["items"]
    assert reason["text"] == f"no node runs jobs of {name}: {node['name']} {refusal}"
    job = shared.job(id)
    assert (job["state"], job["losses_used"], job["retries_used"]) == ("QUEUED", 0, 0)
    assert reason["text"] in shared.ok("why", id)
    before = job["attempt"]
    again = shared.submit("true", **as_user[name])
    assert until(lambda: shared.job(again)["reason"])["code"] == "account"
    assert (shared.job(again)["attempt"], shared.job(id)["attempt"]) == (0, before), "it is not tried again"
    shared.ok("cancel", id, again)


def test_an_agent_of_roots_runs_nothing_as_root_unless_told_so(
    shared: Cluster, as_user: dict[str, dict[str, str]]
) -> None:
    line = shared.ok("token", "create", "--role", "join").strip()
    url = shared.json("status")["controller"]["url"]
    options = ("--controller", url, "--token", "-", "--name", "second", "--simulate-gpus", "1xH100-80GB")
    home = str(shared.root / "second")
    agent = subprocess.Popen(
        inside(shared, "agent", *options, "--home", home),
        env=shared.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert agent.stdin
        with agent.stdin:
            agent.stdin.write(line)
        until(lambda: [n for n in shared.json("nodes")["items"] if (n["name"], n["state"]) == ("second", "up")])
        roots = shared.submit("-w", "second", "true")
        reason = until(lambda: shared.job(roots)["reason"])
        assert reason == {
            "code": "account",
            "text": "no node it may run on runs jobs of root: "
            "second does not allow root: uid 0 is root's (see agent --root-jobs)",
        }
        alices = shared.submit("-w", "second", "id", "-un", **as_user["alice"])
        assert shared.ended(alices)["state"] == "SUCCEEDED"
        assert shared.log(alices) == b"alice\n"
        shared.ok("cancel", roots)
    finally:
        agent.terminate()
        assert agent.wait(30) == 0
    assert json.loads(shared.ok("show", roots, "--json"))["attempt"] == 0
