"""The one file on every Python of this machine, from a cold cache, and under daemons while it is replaced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from targets import CLIENTS

from tests.build.test_contents import Contents
from tests.e2e.cluster import Cluster, until
from tests.e2e.conftest import MakeCluster

PYENV = Path.home() / ".pyenv" / "versions"


@dataclass
class Elsewhere(Cluster):
    """A cluster whose commands, and so its daemons, run on another Python, or start the program in another way."""

    start_by: tuple[str | Path, ...] = ()

    def command(self, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        return [*self.start_by, *arguments]


def interpreter(version: str) -> str:
    """A Python of that version, or the system's; skips where there is none."""
    candidates: list[Path] = (
        [Path("/usr/bin/python3")] if version == "system" else sorted(PYENV.glob(f"{version}.*/bin/python"))
    )
    for found in candidates:
        asked = [str(found), "-c", "import sys; print(sys.version_info >= (3, 10))"]
        if found.exists() and subprocess.run(asked, capture_output=True, text=True, check=False).stdout == "True\n":
            return str(found)
    pytest.skip(f"no Python {version}" if version != "system" else "no system Python of 3.10 or newer")


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14", "system"])
def test_a_cluster_from_a_cold_cache_on_this_python(program: Path, tmp_path: Path, version: str) -> None:
    python = interpreter(version)
    root = Path(tempfile.mkdtemp(prefix="gpuq-e2e-"))
    cluster = Elsewhere(program, root, tmp_path / "cache", start_by=(python, "-I", "-S", program))
    try:
        told = cluster.json("version")
        assert "3." + told["targets"][0].split("-")[1][1:] == "3.10"
        cluster.up()
        assert cluster.ok("run", "-G", "1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0\n"
        (node,) = cluster.json("nodes")["items"]
        assert node["state"] == "up"
        shown = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], capture_output=True)
        assert told["python"] == shown.stdout.decode().strip()
        cluster.ok("down")
    finally:
        cluster.remove()


def test_what_macos_unpacks_is_a_whole_client(pyz: Path, make_cluster: MakeCluster, tmp_path: Path) -> None:
    """No macOS here: the same files, on this Python, which has modules for none of what is compiled."""
    here = make_cluster()
    here.up()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    Contents(pyz).extract(next(target for target in CLIENTS if target.python == version), tmp_path / "site")
    with zipfile.ZipFile(pyz) as archive:
        (tmp_path / "site" / "__main__.py").write_bytes(archive.read("__main__.py"))
    client = Elsewhere(pyz, here.root, here.cache, start_by=(sys.executable, "-I", "-S", tmp_path / "site"))
    assert client.ok("run", "-G", "1", "echo", "hello") == "hello\n"
    id = client.submit("sh", "-c", "sleep 1000")
    here.becomes(id, "RUNNING")
    for words in (["queue"], ["show", id], ["why", id], ["nodes"], ["gpus"], ["history"], ["events"], ["status"]):
        client.ok(*words)
    client.ok("cancel", id)
    assert f"job {id} CANCELED" in client.gpuq("wait", id).line


@pytest.fixture
def own(make_cluster: MakeCluster, program: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that was started from a file and a cache that are its own."""
    file = Path(shutil.copy(program, tmp_path / "gpuq.pyz"))
    made = make_cluster(pyz=file, cache=tmp_path / "cache")
    made.up()
    yield made
    made.pyz = program


def test_daemons_do_not_notice_that_file_and_cache_are_replaced(own: Cluster, program: Path) -> None:
    running = own.sh("sleep 1000")
    own.becomes(running, "RUNNING")
    pids = [own.pid(kind) for kind in ("controller", "agent")]
    own.pyz.write_bytes(b"another version, half copied")
    for file in (own.cache / "gpuq").rglob("*.py*"):
        file.unlink()
    shutil.rmtree(own.cache)
    own.pyz = program
    assert own.ok("run", "-G", "1", "echo", "still here") == "still here\n"
    for path in ("/docs", "/openapi.json", f"/jobs/{running}/why", "/history", "/events"):
        assert own.call("GET", path).status == 200
    own.ok("cancel", running)
    assert own.ended(running)["state"] == "CANCELED"
    assert [own.pid(kind) for kind in ("controller", "agent")] == pids


def copies(cluster: Cluster) -> list[str]:
    return sorted(path.parent.name for path in cluster.state.glob("*/program-*"))


def test_each_daemon_has_one_copy_and_leaves_none(own: Cluster) -> None:
    assert copies(own) == ["agent", "controller"]
    own.up()
    assert copies(own) == ["agent", "controller"]
    own.ok("down")
    assert copies(own) == []


def test_the_copy_of_a_killed_daemon_is_swept_and_that_of_a_living_one_is_not(own: Cluster) -> None:
    (before,) = own.state.glob("agent/program-*")
    (living,) = own.state.glob("controller/program-*")
    own.kill("agent")
    for copy in (before, living):
        os.utime(copy, (0, 0))  # long ago
    own.up()
    until(lambda: not before.exists(), "the copy of the killed agent to be gone")
    refused = own.gpuq("controller", "--listen", "127.0.0.1:0")
    assert "a controller already runs" in refused.line
    assert copies(own) == ["agent", "controller"]
    assert living.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_daemon_makes_no_copy_that_would_fill_its_disk(make_cluster: MakeCluster, tmp_path: Path) -> None:
    own = make_cluster()
    mount = f'mount -t tmpfs -o size=24m gpuq-test {tmp_path} && "$@"; du -sk {tmp_path}'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", *map(str, own.command("agent"))]
    done = subprocess.run(
        command, env=own.environment(GPUQ_HOME=str(tmp_path)), capture_output=True, text=True, check=False
    )
    first, *others = done.stderr.splitlines()
    assert re.fullmatch(r"gpuq agent: runs from the cache, .*: it takes [\d.]+M, and \S+ has [\d.]+M left", first), (
        first
    )
    assert len(others) == 1  # it knows of no controller
    assert int(done.stdout.split()[0]) < 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize(
    ("noexec", "said"),
    [
        (("GPUQ_CACHE", "TMPDIR", "GPUQ_HOME"), "noexec: set GPUQ_CACHE to a directory that is not"),
        (("GPUQ_HOME",), "runs from the cache, which must not be emptied"),
    ],
    ids=["everywhere", "its home"],
)
def test_a_daemon_says_where_it_can_load_no_compiled_module(
    make_cluster: MakeCluster, tmp_path: Path, noexec: tuple[str, ...], said: str
) -> None:
    own = make_cluster()
    variables = {name: str(tmp_path / name) for name in ("GPUQ_CACHE", "TMPDIR", "GPUQ_HOME")}
    for place in variables.values():
        Path(place).mkdir()
    mounts = " && ".join(f"mount -t tmpfs -o noexec gpuq-test {variables[name]}" for name in noexec)
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *map(str, own.command("agent"))]
    done = subprocess.run(command, env=own.environment(**variables), capture_output=True, text=True, check=False)
    assert done.returncode != 0  # it knows of no controller
    assert said in done.stderr
    assert all(line.startswith("gpuq") for line in done.stderr.splitlines()), done.stderr
