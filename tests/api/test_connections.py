"""What a stranger may cost: how many connections, how many bytes of headers, how long a request may take to come."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gpuq.api import connections
from gpuq.api.connections import MAX_HEADER_BYTES, Http, Listener
from tests.api.server import DEADLINE, Running

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Connection]]
GET = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; to /slow it takes its time, and to /late before it reads."""
    if scope["path"] == "/late":
        await asyncio.sleep(0.5)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = str(size).encode()
    head = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


def served(talk: Callable[[Connect], Awaitable[None]], most: int = 100, most_from_one: int = 100) -> None:
    """Runs talk against the protocol and listener alone, without TLS."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(app, http=Http, ws="none", lifespan="off", log_config=None)
        config.load()
        listener = Listener(socket.AF_INET, most, most_from_one)
        listener.bind(("127.0.0.1", 0))
        state = ServerState()
        server = await loop.create_server(lambda: Http(config, state, {}, loop), sock=listener)
        port = listener.getsockname()[1]
        writers = []

        async def connect(address: str = "127.0.0.1") -> Connection:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writers.append(writer)
            return reader, writer

        try:
            await asyncio.wait_for(talk(connect), DEADLINE)
        finally:
            server.close()
            for writer in writers:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            while state.connections or state.tasks:
                await asyncio.sleep(0.01)

    asyncio.run(run())


async def is_left(reader: asyncio.StreamReader) -> bool:
    """Waits for the end of a connection on which nothing more is said."""
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


# ---------------------------------------------------------------- room


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"x" * 1000),
        (b"GET /", b"x" * 1000),
        (b"GET / HTTP/1.1\r\n", b"a: " + b"x" * 997 + b"\r\n"),
        (b"GET / HTTP/1.1\r\na: ", b"x" * 1000),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"t: " + b"x" * 997 + b"\r\n"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x" * 1000),
    ],
)
def test_headers_without_end_are_cut(start: bytes, piece: bytes) -> None:
    async def talk(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(start)
        sent = 0
        while not reader.at_eof() and not writer.is_closing():
            writer.write(piece)
            sent += len(piece)
            await asyncio.sleep(0)
            assert sent < 100 * MAX_HEADER_BYTES
        other_reader, other = await connect()
        other.write(GET)
        assert b"200" in await other_reader.readline()

    served(talk)


def test_what_is_sent_in_order_is_taken_however_much_it_is() -> None:
    async def talk(connect: Connect) -> None:
        reader, writer = await connect()
        for head in (b"content-length: 3000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"):
            writer.write(b"POST / HTTP/1.1\r\nlong: " + b"x" * (MAX_HEADER_BYTES - 1000) + b"\r\n" + head)
            if b"chunked" in head:
                writer.write(b"3\r\nabc\r\n" * 1_000_000 + b"0\r\n\r\n")
            else:
                writer.write(b"x" * 3_000_000)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(7) == b"3000000"

    served(talk)


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx",
    ],
)
def test_a_request_that_does_not_come_is_not_waited_for(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)

    async def talk(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(sent)
        assert await is_left(reader)

    served(talk)


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        (b"", b"\r\n"),
        (b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n", b"x"),
    ],
)
def test_a_request_that_drips_in_is_not_waited_for(start: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)

    async def talk(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(start)
        left = asyncio.ensure_future(is_left(reader))
        while not left.done():
            writer.write(drop)
            await asyncio.sleep(0.01)
        assert left.result()

    served(talk)


def test_who_waits_for_us_or_says_nothing_between_requests_is_not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(connections, "_LOOK_SECONDS", 0.1)

    async def talk(connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n0")
            await asyncio.sleep(0.5)
        writer.write(b"POST /late HTTP/1.1\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        await reader.readuntil(b"\r\n\r\n3000000")

    served(talk)


# ---------------------------------------------------------------- how many


def test_one_address_has_only_so_many_connections_and_gets_another_when_one_has_ended() -> None:
    async def talk(connect: Any) -> None:
        mine = [await connect() for _ in range(2)]
        assert await is_left((await connect())[0])
        reader, writer = await connect("127.0.0.2")
        writer.write(GET)
        assert b"200" in await reader.readline(), "another address has its own"
        assert await is_left((await connect("127.0.0.3"))[0]), "in all there are three"
        mine[0][1].close()
        while True:
            reader, writer = await connect()
            writer.write(GET)
            try:
                if b"200" in await reader.readline():
                    return
            except ConnectionResetError:
                pass

    served(talk, most=3, most_from_one=2)


def test_as_many_connections_as_files_allow() -> None:
    program = (
        "import resource, gpuq.api.connections as c\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1000))\n"
        "print(c.prepare(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=DEADLINE)
    assert done.stdout.strip() == "744 (1000, 1000)"
    assert "at most 1000 files may be open" in done.stderr


def test_the_controller_itself_cuts_headers_without_end(running: Running) -> None:
    connection = running.connect()
    connection.connect()
    connection.sock.sendall(b"GET / HTTP/1.1\r\n")
    with pytest.raises(OSError, match=r"reset|pipe|EOF"):
        connection.sock.sendall(b"a: b\r\n" * (100 * MAX_HEADER_BYTES))
    connection.close()
    assert running.get("/version", None)
