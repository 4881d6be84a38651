"""A supervisor's end of streams, over links that the test makes and breaks: nothing is lost, repeated or waited for."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent import channel
from agent.channels import MAX_CHANNELS
from gpuq import wire
from gpuq.model import StopKind
from gpuq.protocol import StreamKind
from tests.agent.executions import Machine, alive, machine, order, shell, until
from tests.agent.own_accounts import OwnMachine, with_accounts

MESSAGE = struct.Struct(">QI")
FRAME = struct.Struct(">cI")


def test_both_ends_have_the_same_frames() -> None:
    assert (channel.FRAME.format, channel.WINDOW, channel.PAYLOAD, channel.KEPT_SECONDS) == (
        wire.STREAM_FRAME,
        wire.STREAM_WINDOW,
        wire.STREAM_PAYLOAD,
        wire.RESUME_SECONDS,
    )
    assert (channel.DATA, channel.SIZE, channel.END, channel.EXIT) == (wire.DATA, wire.SIZE, wire.END, wire.EXIT)


class Link:
    """An agent's link of one stream, blocking with a deadline, that acknowledges only when it is told to."""

    def __init__(self, run_dir: Path, id: str, **aim: Any) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        with closing(_Folder(run_dir)) as folder:
            self.sock.connect(f"/proc/self/fd/{folder.fd}/sock")
        request = {"v": 1, "op": "stream", "id": id, "kind": "shell", **aim}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            part = self.sock.recv(1)
            assert part, line
            line += part
        self.said = json.loads(line)
        self.base = self.said.get("base", 0)
        self.sent = self.said.get("taken", 0)
        self.row = b""  # what came, from base on
        self.taken = self.sent

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        self.bring(FRAME.pack(kind, len(payload)) + payload)

    def bring(self, data: bytes, acked: int = 0) -> None:
        self.sock.sendall(MESSAGE.pack(acked, len(data)) + data)
        self.sent += len(data)

    def until(self, holds: Callable[[], bool]) -> None:
        """Reads what comes until this holds."""
        while not holds():
            head = self._exactly(MESSAGE.size)
            self.taken, length = MESSAGE.unpack(head)
            self.row += self._exactly(length)

    def shows(self, data: bytes) -> None:
        self.until(lambda: data in self.data)

    def is_taken(self) -> None:
        self.until(lambda: self.taken == self.sent)

    def until_more(self) -> None:
        before = len(self.row)
        self.until(lambda: len(self.row) > before)

    def frames(self) -> list[tuple[bytes, bytes]]:
        found, at = [], 0
        while at + FRAME.size <= len(self.row):
            kind, length = FRAME.unpack_from(self.row, at)
            if at + FRAME.size + length > len(self.row):
                break
            found.append((kind, self.row[at + FRAME.size : at + FRAME.size + length]))
            at += FRAME.size + length
        return found

    @property
    def data(self) -> bytes:
        return b"".join(payload for kind, payload in self.frames() if kind == wire.DATA)

    @property
    def exit(self) -> dict[str, Any] | None:
        return next((json.loads(payload) for kind, payload in self.frames() if kind == wire.EXIT), None)

    def close(self) -> None:
        self.sock.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            assert part, "the link was closed"
            data += part
        return data


class _Folder:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self.fd)


def leave(run_dir: Path, id: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock, closing(_Folder(run_dir)) as folder:
        sock.settimeout(20)
        sock.connect(f"/proc/self/fd/{folder.fd}/sock")
        sock.sendall(json.dumps({"v": 1, "op": "leave", "id": id}).encode() + b"\n")
        assert json.loads(sock.recv(1000))["ok"] == "leave"


def beside_a_job(tmp_path: Path, visit: Callable[[Path], None], **more: Any) -> None:
    """Runs visit(run_dir) in a thread beside a job that runs, which must be found alive and is then ended."""

    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job = shell("while :; do sleep 0.02; done", cwd=str(tmp_path), **more)
            m.executor.launch(job)
            await m.running(job)
            await asyncio.to_thread(visit, m.run_dir(job))
            assert m.executor.stop(job.uid, 0, StopKind.CANCEL, 0)
            end = await m.end(job)
            assert (end.stopped, end.exit_code) == (StopKind.CANCEL, None)

    asyncio.run(scenario())


def test_a_link_goes_on_where_the_last_one_was_cut(tmp_path: Path) -> None:
    """At every step: what was not acknowledged comes again, what was taken is not wanted again."""

    def visit(run_dir: Path) -> None:
        seen, acked = b"", 0
        for number in range(12):
            link = Link(run_dir, "s" * 8, argv=["cat"])
            assert link.said["ok"] == "stream"
            seen = seen[: link.base]  # what this side had not acknowledged is to be brought again
            frame = FRAME.pack(wire.DATA, 2) + b"%02d" % number
            cut = number % len(frame)
            link.bring(frame[:cut], acked)
            link.bring(frame[cut:], acked)
            link.shows(b"%02d" % number)
            seen += link.row
            acked = len(seen) if number % 3 else acked
            link.bring(b"", acked)
            link.is_taken()
            link.close()
        end = Link(run_dir, "s" * 8)
        end.send(wire.END)
        end.until(lambda: end.exit is not None)
        end.row = seen[: end.base] + end.row
        assert end.data == b"".join(b"%02d" % number for number in range(12))
        assert end.exit == {"exit_code": 0}
        end.close()
        leave(run_dir, "s" * 8)

    beside_a_job(tmp_path, visit)


def test_what_nobody_reads_stops_the_writer_and_not_the_supervisor(tmp_path: Path) -> None:
    def visit(run_dir: Path) -> None:
        loud = Link(run_dir, "loud-one", argv=["sh", "-c", "head -c 3000000 /dev/zero; echo end"])
        quiet = Link(run_dir, "quiet-one", argv=["sh", "-c", "read x; echo got $x"])
        quiet.send(wire.DATA, b"it\n")
        quiet.until(lambda: quiet.exit is not None)
        assert quiet.data == b"got it\n"
        loud.until(lambda: len(loud.row) > wire.STREAM_WINDOW - 2 * wire.STREAM_PAYLOAD)
        total = 0
        while loud.exit is None:
            assert len(loud.row) <= wire.STREAM_WINDOW
            frames = loud.frames()
            total += len(loud.data)
            whole = sum(FRAME.size + len(payload) for _, payload in frames)
            loud.base += whole
            loud.row = loud.row[whole:]
            loud.bring(b"", loud.base)
            loud.until_more()
        total += len(loud.data)
        assert total == 3_000_004
        for link in (loud, quiet):
            link.close()

    beside_a_job(tmp_path, visit)


def test_input_that_is_not_read_is_not_asked_for_and_output_goes_on(tmp_path: Path) -> None:
    def visit(run_dir: Path) -> None:
        link = Link(
            run_dir, "deaf-one", argv=["sh", "-c", "echo begun; sleep 0.3; echo still here; exec cat > /dev/null"]
        )
        frame = FRAME.pack(wire.DATA, wire.STREAM_PAYLOAD) + bytes(wire.STREAM_PAYLOAD)
        link.until(lambda: link.data == b"begun\n")
        link.bring(frame * 12)
        link.until(lambda: b"still here\n" in link.data and link.taken == link.sent)
        link.close()

    beside_a_job(tmp_path, visit)


def test_a_port_is_closed_half_by_half(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                heard = b""
                while part := peer.recv(1000):
                    heard += part
                peer.sendall(heard[::-1])

        thread = threading.Thread(target=serve)
        thread.start()

        def visit(run_dir: Path) -> None:
            link = Link(run_dir, "port-one", kind="port", port=server.getsockname()[1])
            link.send(wire.DATA, b"abc")
            link.send(wire.END)
            link.until(lambda: link.exit is not None)
            assert link.frames() == [(wire.DATA, b"cba"), (wire.END, b""), (wire.EXIT, b"{}")]
            refused = Link(run_dir, "port-two", kind="port", port=9)
            assert "nothing listens at port 9" in refused.said["error"]
            for each in (link, refused):
                each.close()

        beside_a_job(tmp_path, visit)
        thread.join()


def test_there_are_only_so_many(tmp_path: Path) -> None:
    def visit(run_dir: Path) -> None:
        links = [Link(run_dir, f"stream-{number:02}", argv=["cat"]) for number in range(MAX_CHANNELS)]
        one_more = Link(run_dir, "stream-more", argv=["cat"])
        assert one_more.said["error"] == f"there are {MAX_CHANNELS} streams to this job, which is the most"
        leave(run_dir, "stream-00")
        links.append(Link(run_dir, "stream-more", argv=["cat"]))
        assert links[-1].said["ok"] == "stream"
        for link in (*links, one_more):
            link.close()

    beside_a_job(tmp_path, visit)


@pytest.mark.parametrize(
    "aim",
    [
        {"kind": "else"},
        {"id": ""},
        {"id": "x" * 100},
        {"argv": "cat"},
        {"argv": ["a\0b"]},
        {"kind": "port", "port": -1},
        {"kind": "port", "port": "80"},
        {"pty": 7},
        {"term": 7},
        {"kind": "terminal"},
        {"argv": ["/no/such/program"]},
    ],
    ids=str,
)
def test_what_cannot_be_is_said_and_harms_nothing(tmp_path: Path, aim: dict[str, Any]) -> None:
    def visit(run_dir: Path) -> None:
        link = Link(run_dir, aim.pop("id", "stream-x"), **aim)
        if "error" not in link.said:  # it is only found out by trying
            link.until(lambda: link.exit is not None)
            assert "cannot execute '/no/such/program'" in (link.exit or {})["error"]
        link.close()

    beside_a_job(tmp_path, visit)


@pytest.mark.parametrize("nonsense", [MESSAGE.pack(0, 1 << 31), MESSAGE.pack(0, 5) + FRAME.pack(b"d", 1 << 30)])
def test_a_link_that_speaks_nonsense_is_cut_and_its_stream_may_go_on(tmp_path: Path, nonsense: bytes) -> None:
    def visit(run_dir: Path) -> None:
        bad = Link(run_dir, "stream-x", argv=["cat"])
        bad.sock.sendall(nonsense)
        assert bad.sock.recv(100) == b""
        bad.close()
        again = Link(run_dir, "stream-x")
        assert again.said["ok"] == "stream"
        again.close()

    beside_a_job(tmp_path, visit)


def test_who_leaves_takes_along_what_ran_for_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job = order("sleep", "1000")
            m.executor.launch(job)
            await m.running(job)
            before = set(alive(job.uid))
            link = await asyncio.to_thread(Link, m.run_dir(job), "stream-x", argv=["sleep", "1001"], pty="24x80")
            await until(lambda: len(set(alive(job.uid)) - before) == 1)
            await asyncio.to_thread(leave, m.run_dir(job), "stream-x")
            await until(lambda: set(alive(job.uid)) == before)
            link.close()

    asyncio.run(scenario())


async def _on_a_terminal(m: Machine, script: str) -> tuple[Any, Link]:
    job = shell(script, pty="24x80")
    m.executor.launch(job)
    await m.running(job)
    return job, await asyncio.to_thread(Link, m.run_dir(job), "the-terminal", kind=StreamKind.TERMINAL.value)


def test_a_jobs_terminal_is_one_persons_and_in_its_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job, link = await _on_a_terminal(m, "stty size -echo; read x; echo got $x; exit 4")
            second = await asyncio.to_thread(Link, m.run_dir(job), "another-one", kind="terminal")
            assert "belongs to the run command" in second.said["error"]
            link.send(wire.DATA, b"it\n")
            await asyncio.to_thread(link.until, lambda: link.exit is not None)
            assert link.data == m.log(job)
            assert link.data.endswith(b"got it\r\n")
            leave(m.run_dir(job), "the-terminal")
            assert (await m.end(job)).exit_code == 4
            link.close()
            second.close()

    asyncio.run(scenario())


def test_a_job_whose_terminal_nobody_reads_waits_and_its_log_has_all_in_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job, link = await _on_a_terminal(
                m, "stty -opost; i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done"
            )
            whole = b"".join(b"line %d\n" % number for number in range(60_000))
            await asyncio.to_thread(link.until, lambda: len(link.row) > wire.STREAM_WINDOW // 2)
            leave(m.run_dir(job), "the-terminal")  # which hangs it up, as far as it minds
            end = await m.end(job)
            assert whole.startswith(m.log(job))
            assert end.signal == 1
            link.close()

    asyncio.run(scenario())


def test_a_job_that_shouts_at_a_terminal_nobody_has_any_more_keeps_its_limits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job = shell("trap '' HUP; yes", pty="24x80", time_limit=2, grace=0)
            m.executor.launch(job)
            await m.running(job)
            link = await asyncio.to_thread(Link, m.run_dir(job), "the-terminal", kind=StreamKind.TERMINAL.value)
            await asyncio.to_thread(link.shows, b"y\r\n")
            leave(m.run_dir(job), "the-terminal")
            end = await m.end(job)
            assert end.stopped is StopKind.TIME_LIMIT
            log = m.log(job)
            assert len(log) == end.log_size
            assert set(log.split(b"\r\n")) <= {b"y", b""}
            link.close()

    asyncio.run(scenario())


def test_what_a_shell_wrote_last_is_delivered_after_the_jobs_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job = shell(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 3", cwd=str(tmp_path))
            m.executor.launch(job)
            await m.running(job)
            script = "trap 'echo last words; exit 8' HUP; echo ready; while :; do sleep 0.02; done"
            link = await asyncio.to_thread(Link, m.run_dir(job), "stream-x", argv=["sh", "-c", script])
            await asyncio.to_thread(link.until, lambda: link.data == b"ready\n")
            (tmp_path / "go").touch()
            began = time.monotonic()
            end = await m.end(job)
            assert (end.exit_code, end.stopped) == (3, None)
            assert time.monotonic() - began < 10
            await asyncio.to_thread(link.until, lambda: link.exit is not None)
            assert (link.data, link.exit) == (b"ready\nlast words\n", {"exit_code": 8})
            link.close()

    asyncio.run(scenario())


@with_accounts
async def test_a_shell_beside_anothers_job_is_in_their_account_and_can_open_its_streams_again(m: OwnMachine) -> None:
    job = m.of_user("alice", shell("sleep 1000", cwd=None))
    m.executor.launch(job)
    await m.running(job)
    look = "id -un; echo again > /dev/stderr; pwd"
    for number, aim in enumerate(({"pty": "24x80"}, {})):
        script = f"{look}; tty" if aim else f"{look}; cat < /dev/stdin"
        link = await asyncio.to_thread(Link, m.run_dir(job), f"stream-{number}", argv=["sh", "-c", script], **aim)
        if not aim:
            link.send(wire.DATA, b"input\n")
            link.send(wire.END)
        await asyncio.to_thread(link.until, lambda link=link: link.exit is not None)  # type: ignore[misc]
        said = link.data.decode().split()
        assert said[:3] == ["alice", "again", str(m.folder / "home" / "alice")], said
        assert said[3].startswith("/dev/pts/") if aim else said[3] == "input"
        assert link.exit == {"exit_code": 0}
        link.close()


@with_accounts
async def test_a_job_of_another_account_has_its_terminal(m: OwnMachine) -> None:
    line = "id -un; test -t 0 && echo a terminal; echo again > /dev/tty"
    assert await m.says("alice", line, pty="24x80") == ["alice", "a terminal", "again"]
