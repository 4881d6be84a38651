"""Starts the controller: its home, certificates, store and socket. The only door to uvicorn.

The home of a controller, all below one folder that only its account may enter:

    gpuq.db            everything decided                 logs/         logs of jobs
    ca.pem ca.key      the certificate authority          server.pem server.key   what the server shows
    admin.token        a token for this account           port          the port once chosen, tried again first
    controller.json    where it answers, while it does    address       what others are told instead, if it was given
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from gpuq.api.app import describe, make_app
from gpuq.api.auth import Tokens
from gpuq.api.calls import Site
from gpuq.api.certificates import Certificates, ensure_certificates, write_file
from gpuq.api.connections import HANDSHAKE_SECONDS, Http, Listener, prepare
from gpuq.api.follow import Follow
from gpuq.api.upkeep import Upkeep, ensure_admin
from gpuq.client.connection import parse_url
from gpuq.errors import Conflict, InvalidRequest
from gpuq.service.live import LiveController, clock
from gpuq.store import tokens as stored_tokens
from gpuq.store.logfiles import LogFiles
from gpuq.version import VERSION

logger = logging.getLogger(__name__)

_STOP_SECONDS = 1.0  # given to answers on their way
_KEEP_ALIVE_SECONDS = 60  # a client that polls every few seconds pays for one handshake
_BACKLOG = 2048  # a thousand agents reconnect at once after a restart


async def serve(home: Path, listen: str, on_ready: Callable[[str], None], address: str | None = None) -> int:
    """Runs a controller until it is told to stop; the exit status: 0, or 1 when its store failed under it.

    on_ready is called with the URL once it answers. address is what machines elsewhere are told to connect to; it is
    kept for later starts, and '' forgets it. Raises Conflict when the home or the port is taken.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    certificates = ensure_certificates(home, time.time())
    controller = await LiveController.open(home / "gpuq.db")
    try:
        with _bound(home, listen) as listener:
            site = _site(home, _told_url(home, address, listener), controller, certificates)
            await ensure_admin(home, site, time.time())
            site.describe()  # imports the last of what it needs: the file's cache may be emptied from now on
            # What was loaded stays: looking through it again and again for garbage cost 55 ms each time at 10,000 jobs.
            gc.collect()
            gc.freeze()
            server = _Server(site, certificates, home, _url(listener), on_ready)
            return await server.until_stopped(listener)
    finally:
        await controller.close()


def _site(home: Path, url: str, controller: LiveController, certificates: Certificates) -> Site:
    reader = controller.store.reader
    return Site(
        controller=controller,
        logs=LogFiles(home / "logs"),
        tokens=Tokens(lambda: controller.view, lambda digest: stored_tokens.by_hash(reader, digest), clock),
        follow=Follow(controller.changed, lambda: controller.durable),
        cluster_id=controller.store.cluster_id,
        url=url,
        ca_pem=certificates.ca_pem(),
        ca_sha256=certificates.ca_sha256(),
        ca_key=certificates.ca_key.read_bytes(),
        describe=describe,
    )


def _told_url(home: Path, given: str | None, listener: socket.socket) -> str:
    """What clients elsewhere are told: the address given, now or at an earlier start; else where it listens.

    A machine with several interfaces, or behind a router, does not know under which name others reach it.
    """
    kept = home / "address"
    if given is not None:
        url = _with_port(given, listener) if given else ""
        write_file(kept, url.encode(), 0o600)
        return url or _url(listener)
    return (kept.read_text("utf-8", "replace").strip() if kept.exists() else "") or _url(listener)


def _with_port(address: str, listener: socket.socket) -> str:
    """The URL of HOST or HOST:PORT; raises InvalidRequest if it is neither."""
    host = address.rpartition("]")[2] if address.startswith("[") else address.rpartition("://")[2]
    return parse_url(address if ":" in host else f"{address}:{listener.getsockname()[1]}").url


# ---------------------------------------------------------------- the socket


@contextmanager
def _bound(home: Path, listen: str) -> Iterator[socket.socket]:
    """The socket to listen on. With port 0, the port this home had before is tried first, so that its URL stays."""
    host, port = _parse_listen(listen)
    remembered = home / "port"
    choices = [port]
    if port == 0 and remembered.exists():
        text = remembered.read_text("ascii", "replace").strip()
        choices = [int(text), 0] if text.isascii() and text.isdigit() and int(text) < 65536 else [0]
    for choice in choices:
        try:
            listener = _bind(host, choice)
        except OSError as error:
            if choice == choices[-1]:
                raise Conflict(
                    f"cannot listen on {listen}: {error.strerror or error}", "choose another --listen"
                ) from error
            continue
        with listener:
            write_file(remembered, f"{listener.getsockname()[1]}\n".encode(), 0o600)
            yield listener
            return


def _parse_listen(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidRequest(f"'{listen}' is not an address to listen on", "write HOST:PORT, such as 0.0.0.0:7443")
    return host.strip("[]"), int(port)


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    listener = Listener(family, prepare())
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)  # here, for two sockets may both bind a port and only one of them listen
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    """Where this machine's own clients reach it. One that listens everywhere is reached by the host's name."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


# ---------------------------------------------------------------- the server


class _Server(uvicorn.Server):
    """uvicorn, told by us when to stop, so that those who wait are answered and the store is closed in order."""

    def __init__(
        self, site: Site, certificates: Certificates, home: Path, url: str, on_ready: Callable[[str], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                make_app(site),
                http=Http,
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                log_level="error",  # it warns of what is not HTTP: strangers would fill the disk with such lines
                server_header=False,
                proxy_headers=False,  # who asks is who connects: a header could be anyone's word
                ssl_certfile=certificates.certificate,
                ssl_keyfile=certificates.key,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self._site, self._certificates, self._home = site, certificates, home
        self._url = url  # for clients on this machine
        self._notice = home / "controller.json"
        self._on_ready = on_ready
        self._status = 0

    async def until_stopped(self, listener: socket.socket) -> int:
        self._loop = asyncio.get_running_loop()
        self._site.controller.failed.add_done_callback(self._store_failed)
        self.config.load()
        assert self.config.ssl is not None
        upkeep = Upkeep(self._home, self._site, self._certificates, self.config.ssl, clock)
        looking = asyncio.create_task(upkeep.run(), name="upkeep")
        try:
            await self.serve(sockets=[listener])
        finally:
            looking.cancel()
            self._notice.unlink(missing_ok=True)
        return self._status

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which has no way to say how long a TLS handshake may take."""
        self.servers = [
            await self._loop.create_server(
                lambda: Http(self.config, self.server_state, {}, self._loop),
                sock=listener,
                ssl=self.config.ssl,
                backlog=_BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
            for listener in sockets or []
        ]
        self.started = True
        notice = {"url": self._url, "pid": os.getpid(), "version": VERSION}
        write_file(self._notice, json.dumps(notice).encode(), 0o644)
        logger.info("controller.ready url=%s version=%s", self._url, VERSION)
        self._on_ready(self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which waits for goodbyes of clients that sleep, and calls it an error when none comes."""
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        deadline = self._loop.time() + _STOP_SECONDS
        while (state.connections or state.tasks) and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        for task in list(state.tasks):
            task.cancel()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT. uvicorn's own would raise it again after the shutdown, and end the process by it."""
        self._loop.call_soon_threadsafe(self._stop, 0)

    def _stop(self, status: int) -> None:
        self._status = max(self._status, status)
        self._site.controller.release()
        self._site.follow.close()
        self.should_exit = True

    def _store_failed(self, failed: asyncio.Future[str]) -> None:
        if not failed.cancelled():
            logger.critical("controller.stops reason=%s", failed.result())
            self._stop(1)
