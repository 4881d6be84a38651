"""What a job sees of its place, and what nobody else sees of it."""

from __future__ import annotations

import stat

import pytest

from tests.e2e.cluster import Cluster, processes

SECRET = "planted-sEcReT-4711"


def seen(cluster: Cluster, id: str) -> dict[str, str]:
    assert cluster.ended(id)["state"] == "SUCCEEDED"
    return dict(line.split("=", 1) for line in cluster.log(id).decode().splitlines() if "=" in line)


def test_a_job_is_told_what_it_was_granted(cluster: Cluster) -> None:
    id = cluster.submit("-G", "2", "-c", "1", "-J", "told", "env")
    env = seen(cluster, id)
    job = cluster.job(id)
    gpus = ",".join(map(str, job["nodes"][0]["gpus"]))
    assert len(gpus.split(",")) == 2
    expected = {
        "CUDA_VISIBLE_DEVICES": gpus,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "GPUQ_JOB_ID": id,
        "GPUQ_JOB_NAME": "told",
        "GPUQ_GPUS": gpus,
        "GPUQ_ATTEMPT_NUMBER": "1",
        "GPUQ_NNODES": "1",
        "GPUQ_NODE_RANK": "0",
        "GPUQ_NODELIST": job["nodes"][0]["node"],
        "GPUQ_CPUS": "1",
        "SLURM_JOB_ID": id,
        "PWD": str(cluster.folder),
    }
    assert {name: env.get(name) for name in expected} == expected
    without = seen(cluster, cluster.submit("env"))
    assert without["CUDA_VISIBLE_DEVICES"] == ""


def test_the_submitters_environment_comes_along_without_what_is_not_the_jobs(cluster: Cluster) -> None:
    mine = {
        "COLOR": "blue",
        "GPUQ_TOKEN": cluster.wire.token,
        "SSH_AUTH_SOCK": "/tmp/agent",
        "SSH_CONNECTION": "1 2 3 4",
        "DISPLAY": ":0",
        "XDG_RUNTIME_DIR": "/run/user/0",
        "CUDA_VISIBLE_DEVICES": "7",
        "GPUQ_WHATEVER": "1",
        "SLURM_JOB_ID": "99",
        "LINES_WITH": "a=b",
    }
    env = seen(cluster, cluster.submit("-G", "1", "env", **mine))
    assert (env["COLOR"], env["LINES_WITH"]) == ("blue", "a=b")
    for name in (
        "GPUQ_TOKEN",
        "SSH_AUTH_SOCK",
        "SSH_CONNECTION",
        "DISPLAY",
        "XDG_RUNTIME_DIR",
        "GPUQ_WHATEVER",
        "GPUQ_HOME",
    ):
        assert name not in env
    assert cluster.wire.token not in "".join(env.values())
    assert env["SLURM_JOB_ID"] != "99"
    assert len(env["CUDA_VISIBLE_DEVICES"]) == 1


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        (["--export", "NONE"], {"HOME": None}, ["COLOR"]),
        (["--export", "COLOR"], {"COLOR": "blue"}, ["SHAPE"]),
        (["--export", "ALL,COLOR=red"], {"COLOR": "red", "SHAPE": "round"}, []),
        (["--env", "COLOR=green", "--env", "NEW=a b"], {"COLOR": "green", "NEW": "a b", "SHAPE": "round"}, []),
        (["--export", "NONE", "--env", "SHAPE=flat"], {"SHAPE": "flat"}, ["COLOR"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_exported_can_be_chosen(
    cluster: Cluster, options: list[str], present: dict[str, str | None], absent: list[str]
) -> None:
    env = seen(cluster, cluster.submit(*options, "env", COLOR="blue", SHAPE="round"))
    for name, value in present.items():
        assert name in env
        assert value is None or env[name] == value
    assert not set(absent) & set(env)


def test_a_job_gets_clean_descriptors_signals_and_umask(cluster: Cluster) -> None:
    line = "ls -l /proc/self/fd | wc -l; umask; grep -E 'SigIgn|SigBlk' /proc/self/status; cat; ulimit -c"
    id = cluster.submit("sh", "-c", line)
    assert cluster.ended(id)["state"] == "SUCCEEDED"
    lines = cluster.log(id).decode().splitlines()
    assert int(lines[0]) <= 5  # 'total', 0, 1, 2 and the folder ls reads
    assert lines[1] == "0022"
    internal = 0b11 << 31  # 32 and 33, which glibc's posix_spawn leaves ignored and its pthreads take back
    assert [int(line.split()[1], 16) & ~internal for line in lines[2:4]] == [0, 0]


def test_secrets_show_nowhere(cluster: Cluster) -> None:
    id = cluster.submit("--env", f"SECRET={SECRET}", "-G", "1", "sh", "-c", "echo $SECRET | wc -c; sleep 1000")
    cluster.says(id, f"{len(SECRET) + 1}\n".encode())
    token = cluster.wire.token
    node_token = (cluster.state / "agent" / "node.token").read_text().strip()
    for pid, arguments, _ in processes():
        for secret in (SECRET, token, node_token):
            assert secret.encode() not in arguments, pid
    daemons = (cluster.pid("controller"), cluster.pid("agent"))
    for pid, _, environment in processes():
        if pid in daemons:
            for secret in (SECRET, token, node_token):
                assert secret.encode() not in environment
    shown = [
        cluster.ok(*verb)
        for verb in (["queue"], ["show", id], ["show", id, "--json"], ["events"], ["events", "--json"])
    ]
    shown += [cluster.ok("queue", "--json"), cluster.ok("nodes", "--json"), cluster.ok("why", id), cluster.ok("status")]
    shown += [path.read_text() for path in cluster.state.glob("*/daemon.log*")]
    shown += [path.read_text() for path in cluster.state.glob("agent/launcher/*.log")]
    for text in shown:
        for secret in (SECRET, token, token.split("_", 2)[2].rpartition("_")[0], node_token):
            assert secret not in text
    cluster.ok("cancel", id)
    cluster.ended(id)
    assert SECRET in cluster.call("GET", f"/jobs/{id}/environment").body.decode()  # for its owner alone


def test_files_with_secrets_are_for_their_owner_only(cluster: Cluster) -> None:
    for path in (cluster.state, cluster.state / "controller", cluster.state / "agent"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    secrets = (cluster.wire.token, (cluster.state / "agent" / "node.token").read_text().strip())
    found = set()
    for path in cluster.home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for secret in secrets:
                if secret.encode() in content:
                    found.add(path.name)
                    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert found == {"admin.token", "node.token"}
