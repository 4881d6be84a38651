"""Known secrets are planted in a real cluster, and then looked for wherever somebody else might read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.gpuq_process import ROOT, gpuq

VALUE = "hunter2-planted-value"
WORD = "hunter3-planted-word"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("cluster")
    started = gpuq(home, "up", "--detach", "--simulate-gpus", "1xH100-80GB")
    assert started.returncode == 0, started.stderr
    yield home
    assert gpuq(home, "down", "--stop-jobs").returncode == 0


@pytest.fixture(scope="module")
def secrets(home: Path) -> set[str]:
    """What was planted: the secret parts of tokens of each kind, a variable's value, a word of a command."""
    assert gpuq(home, "user", "add", "ann").returncode == 0
    made = [gpuq(home, "token", "create", *words).stdout.strip() for words in (["--user", "ann"], ["--role", "join"])]
    folder = daemons(home)
    made += [(folder / name).read_text().strip() for name in ("controller/admin.token", "agent/node.token")]
    assert all(token.startswith("gpuq_") for token in made)
    ran = gpuq(home, "run", "--env", f"PASSWORD={VALUE}", "sh", "-c", f": {WORD}; test -n $PASSWORD")
    assert ran.returncode == 0, ran.stderr
    assert gpuq(home, "run", "--env", f"PASSWORD={VALUE}", "--name", "fails", f"/no/{WORD}").returncode != 0
    bad = made[0][:-1] + ("0" if made[0][-1] != "0" else "1")
    for token in (made[0], bad, made[1]):  # one that is good, one of no cluster, one that may not
        gpuq(home, "nodes", "--token", token)
        gpuq(home, "agent", "--token", token, "--name", "../x", "--home", str(home / "other"))
    return {token.split("_", 2)[2].rpartition("_")[0] for token in made} | {VALUE}


def daemons(home: Path) -> Path:
    (folder,) = (home / "hosts").iterdir()
    return folder


def found_in(text: str, secrets: set[str]) -> list[str]:
    return [secret[:12] for secret in secrets if secret in text]


def test_no_log_of_a_daemon_holds_a_secret_or_a_command(home: Path, secrets: set[str]) -> None:
    logs = list(home.rglob("daemon.log*"))
    assert len(logs) == 2
    for log in logs:
        assert not found_in(log.read_text(), {*secrets, WORD}), log


def test_no_process_of_gpuq_shows_a_secret(home: Path, secrets: set[str]) -> None:
    pids = {json.loads(path.read_text())["pid"] for path in home.rglob("daemon.json")}
    assert len(pids) == 2
    for pid in pids:
        for part in ("cmdline", "environ"):
            assert not found_in(Path(f"/proc/{pid}/{part}").read_bytes().decode("utf-8", "replace"), {*secrets, WORD})


def test_no_list_or_event_holds_a_secret_and_none_of_a_strangers_a_command(home: Path, secrets: set[str]) -> None:
    ann = gpuq(home, "token", "create", "--user", "ann").stdout.strip()
    everything = [
        *(["queue", "--all", "--json"], ["history", "--json"], ["show", "1", "--json"], ["why", "1"], ["status"]),
        *(["events", "--limit", "1000", "--json"], ["nodes", "--json"], ["gpus"], ["token", "list", "--all", "--json"]),
        *(["user", "list", "--json"], ["login", "--json"]),
    ]
    for words in everything:
        as_admin = gpuq(home, *words)
        assert not found_in(as_admin.stdout + as_admin.stderr, secrets), words
        as_ann = gpuq(home, *words, GPUQ_TOKEN=ann)
        assert not found_in(as_ann.stdout + as_ann.stderr, {*secrets, WORD}), words


def test_a_crash_file_holds_no_token(home: Path, secrets: set[str], tmp_path: Path) -> None:
    """A defect, planted in the one place where every verb has its token in hand."""
    token = (daemons(home) / "controller" / "admin.token").read_text().strip()
    code = (
        "import gpuq.client.http, sys\n"
        "def fails(*_): raise RuntimeError('defect')\n"
        "gpuq.client.http.Client._once = fails\n"
        "from gpuq.cli.main import main\n"
        "sys.exit(main(['nodes', '--token', '-']))\n"
    )
    environ = {**os.environ, "GPUQ_HOME": str(home), "PYTHONPATH": str(ROOT)}
    crashed = subprocess.run(
        [sys.executable, "-c", code], env=environ, input=token, capture_output=True, text=True, check=False
    )
    assert crashed.returncode == 1
    assert "please report it" in crashed.stderr
    crashes = list(home.rglob("crash-*.log"))
    assert crashes
    for crash in crashes:
        assert "defect" in crash.read_text()
        assert not found_in(crash.read_text() + crashed.stderr, secrets)


def test_what_must_hold_secrets_is_its_accounts_alone(home: Path, secrets: set[str]) -> None:
    holders = [
        path
        for path in home.rglob("*")
        if path.is_file() and found_in(path.read_bytes().decode("utf-8", "replace"), secrets)
    ]
    assert {path.name for path in holders} >= {"admin.token", "node.token"}
    for path in holders:
        private = path.stat().st_mode & 0o077 == 0 or any(
            parent.stat().st_mode & 0o077 == 0 for parent in path.parents if parent.is_relative_to(home)
        )
        assert private, path
