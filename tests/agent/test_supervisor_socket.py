"""The supervisor's socket, spoken to by clients of every kind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import pytest

from gpuq.model import StopKind
from tests.agent.executions import machine, order, until


class Visitor:
    """A client of its own, blocking with a deadline."""

    def __init__(self, run_dir) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        fd = os.open(run_dir, os.O_RDONLY)
        self.sock.connect(f"/proc/self/fd/{fd}/sock")
        os.close(fd)
        self.sock.settimeout(20)
        self.lines = self.sock.makefile("rb")

    def ask(self, line: bytes) -> Any:
        self.sock.sendall(line + b"\n")
        return json.loads(self.lines.readline())

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


def with_a_running_job(tmp_path, visit):
    """Runs visit(run_dir) in a thread beside a job, which must still end normally afterwards."""

    async def scenario():
        async with machine(tmp_path) as m:
            job = order("sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 5", cwd=str(tmp_path))
            m.executor.launch(job)
            await m.running(job)
            await asyncio.to_thread(visit, m.run_dir(job))
            (tmp_path / "go").touch()
            end = await m.end(job)
            assert (end.exit_code, end.stopped) == (5, None)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'"watch"',
        b'{"op": []}',
        b'{"op": "attach", "v": 99}',
        b'{"op": "stop"}',
        b'{"op": "stop", "kind": "cancel", "grace": NaN}',
        b'{"op": "stop", "kind": "cancel", "grace": true}',
        b'{"op": "stop", "kind": 5, "grace": 1}',
        b'{"op": "stop", "kind": "because", "grace": 1}',
        b'{"op": "extend", "deadline": 1e999}',
        b"[" * 60_000,
    ],
)
def test_what_it_does_not_understand_is_answered_with_an_error(tmp_path, line):
    def visit(run_dir):
        visitor = Visitor(run_dir)
        assert "error" in visitor.ask(line)
        state = visitor.ask(b'{"v": 1, "op": "watch"}')
        assert (state["v"], state["phase"], state["stopping"], state["exit"]) == (1, "running", False, None)
        visitor.close()

    with_a_running_job(tmp_path, visit)


def test_clients_that_flood_stall_or_vanish_do_no_harm(tmp_path):
    def visit(run_dir):
        flood = Visitor(run_dir)
        with pytest.raises(OSError):  # noqa: PT011 -- reset or broken pipe, by timing
            flood.sock.sendall(b"x" * (64 << 20))
        flood.close()

        stuck = Visitor(run_dir)  # asks and never reads
        stuck.sock.settimeout(0.2)
        with pytest.raises(OSError):  # noqa: PT011 -- dropped
            stuck.sock.sendall(b'{"v": 1, "op": "watch"}\n' * 1_000_000)
        stuck.close()

        crowd = [Visitor(run_dir) for _ in range(40)]
        for one in crowd:
            one.close()

    with_a_running_job(tmp_path, visit)


def test_any_client_may_watch_and_stop(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("sleep", "300")
            m.executor.launch(job)
            await m.running(job)

            def visit():
                visitor = Visitor(m.run_dir(job))
                assert visitor.ask(b'{"v": 1, "op": "watch"}')["pid"] > 1
                visitor.sock.sendall(b'{"v": 1, "op": "stop", "kind": "requeue", "grace": 5}\n')
                told = [json.loads(line) for line in visitor.lines]
                visitor.close()
                return told

            told = await asyncio.to_thread(visit)
            assert {"v": 1, "ok": "stop"} in told
            states = [t for t in told if "phase" in t]
            assert [(s["phase"], s["stopping"]) for s in states] == [("running", True), ("ended", True)]
            assert states[-1]["exit"]["stopped"] == "requeue"
            assert (await m.end(job)).stopped is StopKind.REQUEUE

    asyncio.run(scenario())


def test_a_client_that_was_refused_for_the_crowd_gets_in_later(tmp_path):
    async def scenario():
        async with machine(tmp_path) as m:
            job = order("sleep", "300")
            m.executor.launch(job)
            await m.running(job)
            crowd = [Visitor(m.run_dir(job)) for _ in range(15)]
            for one in crowd:
                await asyncio.to_thread(one.ask, b'{"op": "watch"}')
            async with machine(tmp_path) as other:
                await asyncio.sleep(0)
                for one in crowd:
                    one.close()
                await other.running(job)
                m.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
                await other.end(job)
            await until(lambda: m.of(job)[-1].exit)

    asyncio.run(scenario())
