"""A real controller in a process of its own, and a client that speaks to it over pinned TLS."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuq import codec
from gpuq.api.auth import new_token
from gpuq.api.certificates import ensure_certificates
from gpuq.model import AttemptUid, ExitRecord, NodeName, RankPhase
from gpuq.node import Gpu, Inventory, NodeSample
from gpuq.protocol import (
    API_PREFIX,
    PROTOCOL,
    REQUEST_ID_HEADER,
    TLS_NAME,
    LogChunk,
    LogReply,
    LogShipment,
    RankReport,
    RunOrder,
    SyncReply,
    SyncRequest,
)
from gpuq.service.commands import Actor, AddUser, StoreToken
from gpuq.service.live import LiveController

PROGRAM = """
import asyncio, logging, sys
from pathlib import Path
from gpuq.api.serve import serve
from gpuq.errors import GpuqError
logging.basicConfig(level=logging.INFO)
try:
    status = asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], lambda url: print(url, flush=True), *sys.argv[3:]))
except GpuqError as error:
    print(error.one_line(), file=sys.stderr)
    status = 9
sys.exit(status)
"""
DEADLINE = 20.0  # seconds anything here may take on a busy machine
USERS = {"ann": "user", "bob": "user", "eve": "viewer", "ann-views": "viewer", "root": "admin"}


def until(happened: Callable[[], Any]) -> Any:
    """The first true value of `happened`."""
    deadline = time.monotonic() + DEADLINE
    while not (value := happened()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def refused(self, status: int) -> str:
        """The message of a refusal, after checking that it has gpuq's one shape."""
        assert self.status == status, self.body
        error = self.json["error"]
        assert set(self.json) == {"error"}
        assert set(error) == {"code", "message", "hint", "retry"}
        line = f"{error['message']}: {error['hint']}"
        assert "\n" not in line
        assert "Traceback" not in line
        return line


class Pinned(http.client.HTTPSConnection):
    """A connection that believes one CA and wants the one server name, wherever it connects to."""

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), DEADLINE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a body is sent behind its headers: else 40 ms
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(plain, server_hostname=TLS_NAME)


@dataclass
class Running:
    """A started controller. tokens are by user; requests without a user carry no token."""

    home: Path
    process: subprocess.Popen[str]
    url: str
    tokens: dict[str, str]
    numbers: Any = field(default_factory=itertools.count)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> Pinned:
        return Pinned("127.0.0.1", self.port, context=ssl.create_default_context(cafile=str(self.home / "ca.pem")))

    def ask(
        self,
        method: str,
        path: str,
        user: str | None = "root",
        body: Any = None,
        *,
        raw: bytes | None = None,
        request_id: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own. request_id: '' a new one, None no header."""
        send = dict(headers or {})
        if user is not None:
            send["authorization"] = f"Bearer {self.tokens.get(user, user)}"
        if method != "GET" and request_id is not None:
            send[REQUEST_ID_HEADER] = request_id or f"test-{secrets.token_hex(8)}"
        payload = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection = self.connect()
        try:
            connection.request(method, API_PREFIX + path, payload, send)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str, user: str | None = "root") -> Any:
        answer = self.ask("GET", path, user)
        assert answer.status == 200, answer.body
        return answer.json

    def submit(self, user: str = "ann", **asked: Any) -> str:
        answer = self.ask("POST", "/jobs", user, {"command": ["true"], **asked})
        assert answer.status == 201, answer.body
        return str(answer.json["id"])

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status


def mint(home: Path) -> dict[str, str]:
    """Makes a home with a token for each of USERS, before any controller runs there."""
    home.mkdir(mode=0o700, exist_ok=True)
    ca = ensure_certificates(home, time.time()).ca_sha256()
    made = {user: new_token(role, user.partition("-")[0], ca, time.time()) for user, role in USERS.items()}

    async def store() -> None:
        live = await LiveController.open(home / "gpuq.db")
        for user, role in USERS.items():
            if "-" not in user:
                await live.execute(AddUser(Actor("root", "admin"), user, role), f"mint-{secrets.token_hex(6)}")
        for user, (_, record) in made.items():
            await live.execute(StoreToken(Actor("root", "admin"), record), f"mint-{user}-{secrets.token_hex(4)}")
        await live.close()

    asyncio.run(store())
    return {user: text for user, (text, _) in made.items()}


def launch(home: Path, listen: str = "127.0.0.1:0", *address: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home), listen, *address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    )


def start(home: Path, tokens: dict[str, str] | None = None, listen: str = "127.0.0.1:0", *address: str) -> Running:
    tokens = mint(home) if tokens is None else tokens
    process = launch(home, listen, *address)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url:
        _, errors = process.communicate()
        raise AssertionError(f"the controller did not start: {errors}")
    return Running(home, process, url, tokens)


class Agent:
    """An agent as the wire sees one: it reports what it is told to, and runs nothing."""

    def __init__(self, running: Running, name: str, gpus: int = 4) -> None:
        answer = running.ask("POST", "/nodes", "root", {"name": name})
        assert answer.status == 201, answer.body
        self.running, self.name, self.token = running, NodeName(name), answer.json["token"]
        self.sequence = 0
        self.reports: dict[AttemptUid, RankReport] = {}
        self.orders: dict[AttemptUid, RunOrder] = {}
        cards = tuple(Gpu(i, f"GPU-{name}-{i}", "NVIDIA H100", 80 << 30) for i in range(gpus))
        self.inventory = Inventory(name, cards, 32, 256 << 30, True, "0.1.0")

    def post(self, path: str, body: bytes) -> Answer:
        return self.running.ask("POST", path, self.token, raw=body, request_id=None)

    def request(self, **changes: Any) -> SyncRequest:
        self.sequence += 1
        fields: dict[str, Any] = {
            "protocol": PROTOCOL,
            "node": self.name,
            "boot_id": "boot-1",
            "incarnation": 1,
            "sequence": self.sequence,
            "holds": tuple(self.reports),
            "reports": tuple(self.reports.values()),
            "inventory": self.inventory,
            "inventory_hash": "h",
            "sample": NodeSample(cpu_percent=12.5),
        }
        return SyncRequest(**{**fields, **changes})

    def sync(self, **changes: Any) -> SyncReply:
        answer = self.post("/agent/sync", json.dumps(codec.encode(self.request(**changes))).encode())
        assert answer.status == 200, answer.body
        reply = codec.decode(SyncReply, answer.json)
        for order in reply.run:
            self.orders[order.uid] = order
        for uid in reply.forget:
            self.reports.pop(uid, None)
        return reply

    def order_for(self, job: str) -> RunOrder:
        def ordered() -> RunOrder | None:
            self.sync()
            return next((order for order in self.orders.values() if order.job.id == job), None)

        order: RunOrder = until(ordered)
        return order

    def run(self, job: str) -> AttemptUid:
        """Takes the order for a job and reports its process as started."""
        order = self.order_for(job)
        self.reports[order.uid] = RankReport(order.uid, order.rank, RankPhase.RUNNING, started_at=time.time())
        self.sync()
        return order.uid

    def end(self, uid: AttemptUid, exit: ExitRecord) -> None:
        self.reports[uid] = RankReport(uid, 0, RankPhase.ENDED, started_at=time.time(), exit=exit)
        self.sync()

    def ship(self, *pieces: tuple[str, int, int, bytes]) -> Answer:
        """Sends pieces of logs: (attempt, rank, offset, bytes)."""
        chunks = tuple(LogChunk(AttemptUid(uid), rank, offset, len(data)) for uid, rank, offset, data in pieces)
        line = json.dumps(codec.encode(LogShipment(chunks))).encode()
        return self.post("/agent/logs", line + b"\n" + b"".join(data for *_, data in pieces))

    def shipped(self, *pieces: tuple[str, int, int, bytes]) -> dict[tuple[str, int], int]:
        answer = self.ship(*pieces)
        assert answer.status == 200, answer.body
        return {(ack.uid, ack.rank): ack.size for ack in codec.decode(LogReply, answer.json).acks}
