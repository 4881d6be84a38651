"""attach, forward and run --pty: what a person meets at them, and what becomes of them when something breaks."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.e2e.cluster import DEADLINE_SECONDS, Cluster, alive, processes, until
from tests.e2e.cuttable import way
from tests.e2e.keyboard import keyboard

# Says the port it listens at, and gives back whatever it gets.
ECHO = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
print("port", server.getsockname()[1], "end", flush=True)
def serve(peer):
    while data := peer.recv(1 << 16):
        peer.sendall(data)
    peer.close()
while True:
    threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
# Answers each line, and ends with the input.
ANSWERS = "while read x; do echo got $x; done; exit 6"


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> str:
    """One with a GPU, that runs for as long as the tests do."""
    id = cluster.sh("sleep 1000", "-G", "1", "--env", "SECRET=17", "--env", "SHELL=/bin/sh", "--env", "PS1=$ ")
    cluster.becomes(id, "RUNNING")
    return id


def url(cluster: Cluster) -> str:
    found: str = cluster.json("status")["controller"]["url"]
    return found


class Lines:
    """An `attach` to ANSWERS, through pipes, that is asked one line after the other."""

    def __init__(self, cluster: Cluster, job: str, **more: str) -> None:
        self.process = subprocess.Popen(
            cluster.command("attach", job, "sh", "-c", ANSWERS),
            env=cluster.environment(**more),
            cwd=cluster.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.asked = 0
        self.heard = b""

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.asked}\n".encode())
        self.process.stdin.flush()
        self.asked += 1

    def hear(self) -> None:
        """Waits for all answers, which came once each and in order."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.heard.count(b"\n") < self.asked:
            assert time.monotonic() < deadline, (self.heard, self.process.poll())
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                assert data, (self.heard, self.process.communicate())
                self.heard += data
        assert self.heard == b"".join(b"got %d\n" % number for number in range(self.asked))

    def end(self) -> None:
        out, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        assert (self.process.returncode, out) == (6, b""), err


# ---------------------------------------------------------------- what is in the way breaks


@pytest.mark.parametrize("killed", [("agent",), ("controller",), ("agent", "controller")], ids="-".join)
def test_a_shell_goes_on_when_daemons_are_killed(cluster: Cluster, job: str, killed: tuple[str, ...]) -> None:
    lines = Lines(cluster, job)
    lines.ask()
    lines.hear()
    cluster.kill(*killed)
    lines.ask()
    cluster.up()
    lines.ask()
    lines.hear()
    lines.end()


def test_a_shell_goes_on_when_its_clients_connections_are_cut(cluster: Cluster, job: str) -> None:
    with way(url(cluster)) as there:
        lines = Lines(cluster, job, GPUQ_URL=there.url, GPUQ_TOKEN=cluster.wire.token)
        for _ in range(15):
            lines.ask()
            there.cut()
            lines.ask()
            lines.hear()
        assert there.cuts > 15
        lines.end()


@contextmanager
def forwarded(cluster: Cluster, job: str, port: str, **more: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The port here that leads there, and the command that leads it."""
    process = cluster.start("forward", job, f"0:{port}", **more)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("http://127.0.0.1:"), (line, process.poll())
        yield int(line.split()[0].rpartition(":")[2]), process
    finally:
        process.send_signal(signal.SIGINT)
        done = cluster.end(process)
        assert done.status == 0, done


@pytest.fixture(scope="module")
def echo(cluster: Cluster) -> tuple[str, str]:
    """A job that gives back what it gets, and its port."""
    id = cluster.submit(sys.executable, "-c", ECHO)
    cluster.says(id, b" end\n")
    return id, cluster.log(id).split()[1].decode()


def test_50_mb_come_back_through_a_forward_whose_connections_are_cut(cluster: Cluster, echo: tuple[str, str]) -> None:
    block = os.urandom(1 << 20)
    sent, got = hashlib.sha256(block * 50), hashlib.sha256()
    over = threading.Event()
    with (
        way(url(cluster)) as there,
        forwarded(cluster, *echo, GPUQ_URL=there.url, GPUQ_TOKEN=cluster.wire.token) as (port, _),
        socket.create_connection(("127.0.0.1", port)) as peer,
    ):

        def send() -> None:
            for _ in range(50):
                peer.sendall(block)
            peer.shutdown(socket.SHUT_WR)

        def cut() -> None:
            while not over.wait(1.0):
                there.cut()

        threads = [threading.Thread(target=work) for work in (send, cut)]
        for thread in threads:
            thread.start()
        try:
            peer.settimeout(DEADLINE_SECONDS)
            while data := peer.recv(1 << 16):
                got.update(data)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert there.cuts
    assert got.hexdigest() == sent.hexdigest()


def test_a_forward_goes_on_when_both_daemons_are_killed(cluster: Cluster, echo: tuple[str, str]) -> None:
    with forwarded(cluster, *echo) as (port, _), socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(DEADLINE_SECONDS)
        with peer.makefile("rb") as answers:
            peer.sendall(b"before\n")
            assert answers.readline() == b"before\n"
            peer.sendall(bytes(200_000) + b"\n")
            cluster.kill("agent", "controller")
            cluster.up()
            peer.sendall(b"after\n")
            assert answers.readline() == bytes(200_000) + b"\n"
            assert answers.readline() == b"after\n"
            peer.shutdown(socket.SHUT_WR)
            assert answers.read() == b""


def test_a_port_where_nothing_listens_is_closed_with_one_line(cluster: Cluster, job: str) -> None:
    with forwarded(cluster, job, "9") as (port, process), socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(DEADLINE_SECONDS)
        assert peer.recv(100) == b""
        assert process.stderr is not None
        assert process.stderr.readline() == b"gpuq: nothing listens at port 9 of the loopback there\n"


# ---------------------------------------------------------------- at a terminal


def test_a_shell_beside_a_job_is_in_its_place_and_leaves_the_terminal_as_it_was(cluster: Cluster, job: str) -> None:
    with keyboard(cluster, "attach", job) as person:
        person.shows("$ ")
        person.type("echo $GPUQ_JOB_ID/$CUDA_VISIBLE_DEVICES/$SECRET/$TERM/$PWD; stty size\r")
        person.shows(f"\n{job}/0/17/xterm/{cluster.folder}\r\n30 100\r\n")
        person.resize(40, 120)
        person.type("until [ $(stty size | tr ' ' x) = 40x120 ]; do sleep 0.02; done; echo res'ized'\r")
        person.shows("resized\r\n")
        person.type("sleep 1234; echo status $?\r")
        person.shows("$?\r\n")
        until(lambda: any(line == b"sleep\x001234\x00" for _, line, _ in processes()), "sleep to run")
        person.type("\x03")
        person.shows("$ ")
        assert not person.restored
        person.type("echo 'ä'\r")
        person.shows("\nä\r\n")
        person.type("exit 9\r")
        assert person.ends() == 9
        assert person.restored


@pytest.mark.parametrize(("how", "status"), [("\r~.", 129), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_who_leaves_a_shell_ends_it_and_has_the_terminal_back(
    cluster: Cluster, job: str, how: str | signal.Signals, status: int
) -> None:
    with keyboard(cluster, "attach", job) as person:
        person.shows("$ ")
        told = cluster.folder / "shell"
        person.type(f"echo $$ > {told}; echo to'ld'\r")
        person.shows("told\r\n")
        shell = int(told.read_text())
        if isinstance(how, str):
            person.type(how)
        else:
            person.process.send_signal(how)
        assert person.ends() == status
        assert person.restored
        until(lambda: not alive(shell), "the shell to be hung up")
    assert cluster.job(job)["state"] == "RUNNING"


def test_a_shell_dies_with_its_job_and_is_not_its_end(cluster: Cluster) -> None:
    gate = cluster.folder / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done; exit 5"
    id = cluster.sh(wait, "--env", "SHELL=/bin/sh", "--env", "PS1=$ ")
    cluster.becomes(id, "RUNNING")
    with keyboard(cluster, "attach", id) as person:
        person.shows("$ ")
        person.type("sleep 1000 & true\r")
        gate.touch()
        ended = cluster.ended(id, seconds=10)  # and not the 30 s of grace that a shell would sit out
        assert (ended["state"], ended["exit_code"], ended["cause"]["code"]) == ("FAILED", 5, "exit_code")
        assert person.ends() == 129
        assert person.restored


def test_a_job_on_a_terminal_has_its_keys_its_log_and_its_exit_status(cluster: Cluster) -> None:
    with keyboard(cluster, "run", "--pty", "-G", "1", "sh", "-c", "stty size; cat; exit 7") as person:
        person.shows("submitted job ")
        person.shows("30 100\r\n")
        person.type("something\r")
        person.shows("something\r\nsomething\r\n")
        person.type("\x04")
        assert person.ends() == 7
        assert person.restored
    id = cluster.json("history")["items"][0]["id"]
    assert cluster.log(id) == b"30 100\r\nsomething\r\nsomething\r\n"


def test_a_job_that_loses_its_terminal_is_hung_up(cluster: Cluster) -> None:
    with keyboard(cluster, "run", "--pty", "sh") as person:
        person.shows("submitted job ")
        person.shows("$ ")
        person.type("\r~.")
        assert person.ends() == 129
        assert person.restored
    id = max((job["id"] for job in cluster.json("history")["items"]), key=int)
    assert cluster.ended(id)["signal"] == signal.SIGHUP


def test_a_job_that_ended_before_its_terminal_was_there_is_shown_by_its_log(cluster: Cluster) -> None:
    with keyboard(cluster, "run", "--pty", "sh", "-c", "echo short; exit 3") as person:
        person.shows("short")
        assert person.ends() == 3
        assert person.seen.count(b"short") == 0


# ---------------------------------------------------------------- who may, and when


def test_what_cannot_be_is_said_in_one_line(cluster: Cluster, job: str) -> None:
    ended = cluster.sh("true")
    cluster.ended(ended)
    waits = cluster.sh("true", "-H")
    for id, said in (
        (ended, f"job {ended} is SUCCEEDED: there is nothing to connect to"),
        (waits, f"job {waits} is QUEUED: there is nothing to connect to"),
        ("999", "there is no job 999"),
    ):
        for verb in (["attach", id], ["forward", id, "80"]):
            done = cluster.gpuq(*verb)
            assert said in done.line
            assert done.status in (1, 3, 125)
    assert "--pty needs a terminal" in cluster.gpuq("run", "--pty", "true").line
    assert "no such" in cluster.gpuq("attach", job, "no-such-program").line.lower()
    assert "is no port" in cluster.gpuq("forward", job, "x").line


def test_it_is_the_owners_alone_and_on_record(cluster: Cluster, job: str, echo: tuple[str, str]) -> None:
    tokens = {}
    for name, role in (("stranger", "user"), ("looker", "viewer"), ("boss", "admin")):
        cluster.ok("user", "add", name, "--role", role)
        tokens[name] = cluster.json("token", "create", "--user", name, "--role", role)["token"]
    for name in tokens:
        done = cluster.gpuq("attach", job, "id", GPUQ_TOKEN=tokens[name])
        assert done.status == 125
        assert "may not do this" in done.line if name == "looker" else "for its owner" in done.line
    id, port = echo
    assert "for its owner" in cluster.gpuq("forward", id, f"0:{port}", GPUQ_TOKEN=tokens["stranger"]).line
    assert cluster.gpuq("attach", job, "true").status == 0
    texts = [event["text"] for event in cluster.json("events")["items"] if event["kind"] == "job.attached"]
    assert any(text.startswith("by ") for text in texts)
    with forwarded(cluster, id, port, GPUQ_TOKEN=tokens["boss"]) as (here, _):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", here)) as peer, suppress(OSError):
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
    found = [event["text"] for event in cluster.json("events")["items"] if event["kind"] == "job.forwarded"]
    assert found.count(f"port {port}, by boss") == 1
