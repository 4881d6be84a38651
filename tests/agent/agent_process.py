"""Runs agent.daemon as a process of its own, its controller at the other end of a Unix socket: for test_daemon.py.

    python -m tests.agent.agent_process STATE_DIR SOCKET [SIMULATED_GPUS]

One connection for each request, a JSON line each way; the bytes of a shipment travel as Latin-1 text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from agent.daemon import AgentSettings, run_agent
from gpuq.codec import decode, encode
from gpuq.errors import GpuqError, Unavailable, Unreachable
from gpuq.protocol import LogReply, LogShipment, SyncReply, SyncRequest

LIMIT = 64 << 20


class SocketPeer:
    def __init__(self, path: str) -> None:
        self._path = path

    async def sync(self, request: SyncRequest) -> SyncReply:
        return decode(SyncReply, await self._ask({"sync": encode(request)}))

    async def ship_logs(self, shipment: LogShipment, body: bytes) -> LogReply:
        return decode(LogReply, await self._ask({"logs": encode(shipment), "body": body.decode("latin-1")}))

    async def read_stream(self, id: str, offset: int, wait_seconds: float) -> bytes:
        raise Unavailable("there are no streams here")

    async def write_stream(
        self, id: str, offset: int, acked: int, piece: bytes, wait_seconds: float
    ) -> tuple[int | None, int | None]:
        raise Unavailable("there are no streams here")

    async def fail_stream(self, id: str, text: str) -> None:
        raise Unavailable("there are no streams here")

    async def close(self) -> None:
        pass

    async def _ask(self, question: dict[str, Any]) -> object:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=LIMIT)
        except OSError as error:
            raise Unreachable(str(error)) from error
        try:
            writer.write(json.dumps(question).encode() + b"\n")
            line = await reader.readline()
        except OSError as error:
            raise Unavailable(str(error)) from error
        finally:
            writer.close()
        if not line.endswith(b"\n"):
            raise Unavailable("the connection was lost")
        return json.loads(line)


def main(state_dir: str, socket: str, simulate: str | None = "2xH100-80GB") -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    settings = AgentSettings("a1", "", "", "", Path(state_dir), simulate=simulate, shared_account=True)
    try:
        return asyncio.run(run_agent(settings, lambda _: SocketPeer(socket)))
    except GpuqError as error:
        print(error.one_line(), file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
