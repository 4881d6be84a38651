"""gpuq forward: a port of a running job, such as a notebook's, on this machine's loopback."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress
from typing import Any

import click

from gpuq.cli.command import command
from gpuq.cli.connect import connect, connection
from gpuq.cli.outcome import sentence
from gpuq.cli.params import examples
from gpuq.cli.selection import one_id
from gpuq.cli.terminal import note, tell
from gpuq.client.follow import wait_final
from gpuq.client.http import Client
from gpuq.client.stream import Stream
from gpuq.errors import Conflict, GpuqError, InvalidRequest
from gpuq.wire import DATA, END, EXIT, STREAM_PAYLOAD

_WAITING = 16  # connections that a browser may open at once
_LOOK_SECONDS = 0.5  # between two looks whether the job has ended


@command(name="forward", epilog=examples("gpuq forward 1042 8888", "gpuq forward 1042 9000:6006"))
@click.argument("job", metavar="JOB")
@click.argument("ports", metavar="[LOCAL:]PORT")
@click.option("--rank", type=click.IntRange(min=0), default=0, metavar="R", help="Of this node of the job; default 0.")
@connection
def forward(job: str, ports: str, rank: int) -> int:
    """Bring a port that a running job listens at to this machine's loopback, until Ctrl-C or the job's end.

    The job is to listen at its own loopback. The port here is the same unless LOCAL is given; 0 takes any that is free.
    """
    local, port = _numbers(ports)
    id, client = one_id(job), connect()
    client.post(f"/jobs/{id}/streams", {"kind": "port", "port": port, "rank": rank}, {"dry_run": 1})
    with _listening(local, port, id) as listener:
        number = listener.getsockname()[1]
        tell(f"http://127.0.0.1:{number} is port {port} of job {id}; Ctrl-C ends this")
        return _serve(listener, _Forward(client, id, port, rank))


def _numbers(text: str) -> tuple[int, int]:
    words = text.split(":")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and int(word) < 65536 for word in words):
        raise InvalidRequest(f"'{text}' is no port", "write PORT, or LOCAL:PORT")
    if not int(words[-1]):
        raise InvalidRequest("a job listens at no port 0", "write LOCAL:PORT with the one it listens at")
    return int(words[0]), int(words[-1])


def _listening(local: int, port: int, id: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", local))
        listener.listen(_WAITING)
        listener.settimeout(_LOOK_SECONDS)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen at port {local} here: {error.strerror}", f"take another: gpuq forward {id} 0:{port}"
        ) from error
    return listener


def _serve(listener: socket.socket, forward: _Forward) -> int:
    """Takes connections until the job has ended, or somebody wants it to end."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        while forward.ended is None:
            with suppress(TimeoutError):
                forward.take(listener.accept()[0])
    except KeyboardInterrupt:
        return 0
    finally:
        forward.close()
    note(forward.ended or "")
    return 0


class _Forward:
    """All connections of one command."""

    def __init__(self, client: Client, job: str, port: int, rank: int) -> None:
        self._client, self._job = client, job
        self._aim = {"kind": "port", "port": port, "rank": rank}
        self._open: set[Stream] = set()
        self._said: str | None = None  # what was last complained of: a page asks again and again
        self.ended: str | None = None  # how the job did
        threading.Thread(target=self._watch, args=(client.another(),), daemon=True).start()

    def take(self, peer: socket.socket) -> None:
        threading.Thread(target=self._carry, args=(peer,), daemon=True).start()

    def close(self) -> None:
        for stream in list(self._open):
            stream.close(0.0)

    def _watch(self, client: Client) -> None:
        try:
            self.ended = sentence(wait_final(client, self._job))
        except GpuqError as error:
            self.ended = error.one_line()

    def _carry(self, peer: socket.socket) -> None:
        stream: Stream | None = None
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = Stream(self._client, self._job, self._aim, self._trouble)
            self._open.add(stream)
            threading.Thread(target=_to_job, args=(peer, stream), daemon=True).start()
            for kind, payload in stream.received():
                if kind == DATA:
                    peer.sendall(payload)
                elif kind == END:
                    peer.shutdown(socket.SHUT_WR)
                elif kind == EXIT:
                    break
            self._said = None
        except GpuqError as error:
            self._complain(error.one_line())
        except OSError:
            pass  # whoever connected has left
        finally:
            if stream is not None:
                self._open.discard(stream)
                stream.close(0.0)
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)  # wakes the other thread, which a close would not
            peer.close()

    def _complain(self, text: str) -> None:
        if text != self._said and self.ended is None:
            note(text)
        self._said = text

    def _trouble(self, error: GpuqError | None) -> None:
        self._complain("connected again" if error is None else f"{error.one_line()}; trying on")


def _to_job(peer: socket.socket, stream: Stream) -> None:
    data: Any = True
    while data:
        try:
            data = peer.recv(STREAM_PAYLOAD)
        except OSError:
            data = b""
        if not stream.send(DATA if data else END, data):
            return
