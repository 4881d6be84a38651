from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpuq.cli.connect import without_token
from gpuq.errors import InvalidRequest
from tests.cli.gpuq_process import environment, gpuq
from tests.client.scripted import Request, ScriptedController, answer

CLUSTER = {"version": "1", "nodes": {"up": 1}, "gpus": {"total": 0, "busy": 0, "simulated": 0}, "jobs": {}}


class Cluster:
    """A scripted controller that shows its CA, and lets `ask` hold every other answer back."""

    def __init__(self, home: Path) -> None:
        self.asked, self.release = threading.Event(), threading.Event()
        self.release.set()
        self.controller = ScriptedController(home, self.reply)

    def reply(self, request: Request) -> bytes | None:
        if request.target == "/api/v1/ca":
            return answer(self.controller.ca_pem.encode())
        self.asked.set()
        self.release.wait(60)
        return answer(CLUSTER)

    def tokens(self) -> set[str | None]:
        return {r.headers.get("authorization") for r in self.controller.requests if r.target != "/api/v1/ca"}


@pytest.fixture
def cluster(tmp_path: Path):
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster")
    yield made
    made.release.set()
    made.controller.close()


def test_a_token_given_as_argument_is_gone_from_the_process_list(cluster: Cluster, tmp_path: Path) -> None:
    token = cluster.controller.token
    cluster.release.clear()
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuq", "status", "--controller", cluster.controller.url, "--token", token],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert cluster.asked.wait(60)
    proc = Path(f"/proc/{process.pid}")
    shown = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    cluster.release.set()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "nodes       1 up" in out
    assert token.encode() not in shown
    assert cluster.tokens() == {f"Bearer {token}"}


def test_a_token_comes_from_standard_input_or_the_environment(cluster: Cluster, tmp_path: Path) -> None:
    url, token = cluster.controller.url, cluster.controller.token
    assert gpuq(tmp_path, "status", "--controller", url, "--token", "-", stdin=f"{token}\n").returncode == 0
    assert gpuq(tmp_path, "status", GPUQ_URL=url, GPUQ_TOKEN=token).returncode == 0
    assert cluster.tokens() == {f"Bearer {token}"}
    # The CA was fetched by the first and kept for the second.
    assert [r.target for r in cluster.controller.requests].count("/api/v1/ca") == 1


def test_a_token_of_another_cluster_is_never_sent(cluster: Cluster, tmp_path: Path) -> None:
    foreign = f"gpuq_user_{'x' * 32}_{'0' * 64}"
    done = gpuq(tmp_path, "status", GPUQ_URL=cluster.controller.url, GPUQ_TOKEN=foreign)
    assert done.returncode == 5
    assert "is not the controller this token is for" in done.stdout + done.stderr
    assert cluster.tokens() == set()


@pytest.mark.parametrize("token", ["", "nonsense", "gpuq_user_x_12", f"gpuq_user_\u00fc_{'0' * 64}"])
def test_what_is_no_token_is_said_to_be_none(cluster: Cluster, tmp_path: Path, token: str) -> None:
    done = gpuq(tmp_path, "queue", "--controller", cluster.controller.url, "--token", "-", stdin=token)
    assert done.returncode == (4 if token else 2)
    assert "token" in done.stderr
    assert done.stderr.count("\n") == 1
    assert cluster.tokens() == set()


@pytest.mark.parametrize("token", ["x" * 100_000, f"gpuq_user_{'x' * 100_000}_{'0' * 64}"])
def test_an_argument_that_can_be_no_token_is_refused_at_once(cluster: Cluster, tmp_path: Path, token: str) -> None:
    done = gpuq(tmp_path, "queue", "--controller", cluster.controller.url, "--token", token)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("gpuq: this is not a gpuq token")
    assert done.stderr.count("\n") == 1


def test_only_gpuqs_own_token_option_is_taken_away() -> None:
    before = ["python", "-m", "gpuq", "run", "--token", "T", "train.py", "--token", "T"]
    assert without_token(before, "T", "fd:3") == [*before[:5], "fd:3", *before[6:]]
    assert without_token(["gpuq", "run", "--token=T", "x"], "T", "fd:3") == ["gpuq", "run", "--token=fd:3", "x"]
    with pytest.raises(InvalidRequest):
        without_token(["gpuq", "run"], "T", "fd:3")
