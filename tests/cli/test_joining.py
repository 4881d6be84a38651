"""How machines become nodes and stay it: joining, starting in any order, names, and a controller that moved."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.api.server import DEADLINE, Running, start, until
from tests.cli.gpuq_process import environment, gpuq


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    controller = start(tmp_path_factory.mktemp("head") / "controller")
    yield controller
    controller.stop()


@contextmanager
def agent(home: Path, *words: str, stdin: str = "") -> Iterator[subprocess.Popen[str]]:
    """An agent in the foreground, with a pretend GPU; ended at the end."""
    command = [sys.executable, "-m", "gpuq", "agent", "--simulate-gpus", "1xH100-80GB", *words]
    log: IO[str]
    with (home / "said").open("a") as log:
        process = subprocess.Popen(
            command, env=environment(home), stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE)


def join_token(running: Running, **asked: str) -> str:
    return str(running.ask("POST", "/tokens", "root", {"role": "join", **asked}).json["token"])


def state(running: Running, name: str) -> str | None:
    return next((node["state"] for node in running.get("/nodes")["items"] if node["name"] == name), None)


def is_up(running: Running, name: str) -> bool:
    return state(running, name) == "up"


def is_heard_again(running: Running, name: str) -> None:
    """Waits for the next word of this node."""
    before = running.get(f"/nodes/{name}")["last_seen_at"]
    until(lambda: running.get(f"/nodes/{name}")["last_seen_at"] != before)


def kept(home: Path, name: str) -> str:
    (found,) = home.rglob(f"agent/{name}")
    return found.read_text().strip()


def test_one_line_makes_a_machine_a_node_and_nothing_has_to_be_said_again(running: Running, tmp_path: Path) -> None:
    token = join_token(running)
    with agent(tmp_path, "--controller", running.url, "--name", "a1", "--token", "-", stdin=token) as process:
        until(lambda: is_up(running, "a1"))
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"gpuq_" not in shown
    assert kept(tmp_path, "node.token").startswith("gpuq_node_")
    assert json.loads(kept(tmp_path, "node.json")) == {"name": "a1", "url": running.url}
    assert not any(token in path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    with agent(tmp_path):
        is_heard_again(running, "a1")


def test_the_line_given_again_starts_the_same_node_even_when_its_token_has_run_out(
    running: Running, tmp_path: Path
) -> None:
    token = join_token(running)
    words = ["--controller", running.url, "--name", "a2", "--token", "-"]
    with agent(tmp_path, *words, stdin=token):
        until(lambda: is_up(running, "a2"))
    own = kept(tmp_path, "node.token")
    id = [made["id"] for made in running.get("/tokens")["items"] if made["role"] == "join"][-1]
    for expired in (False, True):
        if expired:  # as good as
            running.ask("POST", f"/tokens/{id}/revoke", "root", {})
        with agent(tmp_path, *words, stdin=token):
            is_heard_again(running, "a2")
    assert kept(tmp_path, "node.token") == own
    assert "node a2 joined earlier and goes on under its own token" in (tmp_path / "said").read_text()


def test_a_name_that_is_taken_is_refused_in_one_line_that_says_what_to_do(running: Running, tmp_path: Path) -> None:
    assert running.ask("POST", "/nodes", "root", {"name": "a3"}).status == 201
    done = gpuq(
        tmp_path, "agent", "--controller", running.url, "--name", "a3", "--token", "-", stdin=join_token(running)
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gpuq: a node named a3 exists already: give the agent another --name; if this is a3")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("node.token"))


def test_a_node_that_was_removed_joins_again(running: Running, tmp_path: Path) -> None:
    words = ["--controller", running.url, "--name", "a4", "--token", "-"]
    with agent(tmp_path, *words, stdin=join_token(running)):
        until(lambda: is_up(running, "a4"))
        assert running.ask("POST", "/nodes/a4/remove", "root", {}).status == 200
        until(lambda: "the token of node a4 was revoked: the node was removed" in (tmp_path / "said").read_text())
    assert state(running, "a4") is None
    with agent(tmp_path, *words, stdin=join_token(running)):
        until(lambda: is_up(running, "a4"))


def test_an_agent_that_was_started_first_waits_for_its_controller_and_says_so_once(tmp_path: Path) -> None:
    head, node = tmp_path / "head", tmp_path / "node"
    node.mkdir()
    first = start(head)
    token, url = join_token(first), first.url
    first.stop()
    with agent(node, "--controller", url, "--name", "a5", "--token", "-", stdin=token):
        until(lambda: "waiting for the controller" in (node / "said").read_text())
        again = start(head, first.tokens)
        until(lambda: is_up(again, "a5"))
        assert (node / "said").read_text().count("waiting for the controller") == 1
        again.stop()


def test_a_controller_that_moved_is_found_by_its_new_address_alone(tmp_path: Path) -> None:
    head, node = tmp_path / "head", tmp_path / "node"
    node.mkdir()
    first = start(head)
    with agent(node, "--controller", first.url, "--name", "a6", "--token", "-", stdin=join_token(first)):
        until(lambda: is_up(first, "a6"))
    own = kept(node, "node.token")
    first.stop()
    (head / "port").unlink()
    moved = start(head, first.tokens)
    assert moved.url != first.url
    with agent(node, "--controller", moved.url):
        until(lambda: is_up(moved, "a6"))
    assert kept(node, "node.token") == own
    with agent(node):
        is_heard_again(moved, "a6")
    moved.stop()


def test_another_clusters_controller_is_refused_at_once_and_not_waited_for(running: Running, tmp_path: Path) -> None:
    other = start(tmp_path / "other")
    done = gpuq(tmp_path, "agent", "--controller", other.url, "--token", "-", stdin=join_token(running))
    assert done.returncode == 5
    assert "is not the controller this token is for" in done.stderr
    other.stop()


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        ("", 4, "this machine is no node yet"),
        ("ann", 4, "a person's token makes no node"),
        ("gpuq_join_x", 4, "not a gpuq token"),
    ],
)
def test_what_makes_no_node_is_said(running: Running, tmp_path: Path, token: str, status: int, said: str) -> None:
    words = ["--token", "-"] if token else []
    done = gpuq(tmp_path, "agent", "--controller", running.url, *words, stdin=running.tokens.get(token, token))
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_node_does_not_start_under_a_name_that_is_not_its_own(running: Running, tmp_path: Path) -> None:
    with agent(tmp_path, "--controller", running.url, "--name", "a7", "--token", "-", stdin=join_token(running)):
        until(lambda: is_up(running, "a7"))
    done = gpuq(tmp_path, "agent", "--name", "a8")
    assert done.returncode == 1
    assert "this machine is node a7" in done.stderr


def test_to_a_terminal_token_create_prints_the_line_that_joins(running: Running, tmp_path: Path) -> None:
    ours, its = pty.openpty()
    variables = environment(tmp_path, GPUQ_URL=running.url, GPUQ_TOKEN=running.tokens["root"])
    command = [sys.executable, "-m", "gpuq", "token", "create", "--role", "join"]
    with subprocess.Popen(command, env=variables, stdout=its, stderr=subprocess.PIPE) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        _, errors = process.communicate()
    os.close(ours)
    (line,) = [line.strip() for line in shown.decode().splitlines() if "gpuq.pyz" in line and "echo" in line]
    assert b"answers on its own machine only" in errors
    program = tmp_path / "gpuq.pyz"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gpuq "$@" --name a9 --simulate-gpus 1xH100-80GB\n')
    program.chmod(0o755)
    with subprocess.Popen(
        ["sh", "-c", line], cwd=tmp_path, env=environment(tmp_path), start_new_session=True
    ) as joined:
        until(lambda: is_up(running, "a9"))
        os.killpg(joined.pid, signal.SIGTERM)
    until(lambda: not list(tmp_path.rglob("agent/daemon.json")))
