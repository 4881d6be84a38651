from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from gpuq.client.aio import AgentClient
from gpuq.codec import decode, encode
from gpuq.errors import Incompatible, NotAuthenticated, Unavailable, Unreachable
from gpuq.model import AttemptUid, NodeName
from gpuq.protocol import LogAck, LogChunk, LogReply, LogShipment, SyncReply, SyncRequest
from tests.client.conftest import Start
from tests.client.scripted import ScriptedController, answer

T = TypeVar("T")
REQUEST = SyncRequest(1, NodeName("n1"), "boot", 3, 9, holds=(AttemptUid("u"),))
REPLY = SyncReply(1, 2, 3, 9, forget=(AttemptUid("u"),))


def with_client(controller: ScriptedController, use: Callable[[AgentClient], Awaitable[T]]) -> T:
    async def run() -> T:
        client = AgentClient(controller.url, controller.token, controller.ca_pem)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_a_sync_goes_there_and_back_over_one_connection(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # must not be heeded
    controller = start(lambda _request: answer(encode(REPLY)))

    async def twice(client: AgentClient) -> list[SyncReply]:
        return [await client.sync(REQUEST), await client.sync(REQUEST)]

    assert with_client(controller, twice) == [REPLY, REPLY]
    request = controller.requests[0]
    assert (request.method, request.target) == ("POST", "/api/v1/agent/sync")
    assert decode(SyncRequest, json.loads(request.body)) == REQUEST
    assert request.headers["authorization"] == f"Bearer {controller.token}"
    assert [request.connection for request in controller.requests] == [0, 0]


def test_logs_travel_behind_their_header(start: Start) -> None:
    reply = LogReply((LogAck(AttemptUid("u"), 0, 6),))
    shipment = LogShipment((LogChunk(AttemptUid("u"), 0, 0, 6),))
    controller = start(lambda _request: answer(encode(reply)))
    assert with_client(controller, lambda client: client.ship_logs(shipment, b"a\nb\n\xff\n")) == reply
    header, _, body = controller.requests[0].body.partition(b"\n")
    assert decode(LogShipment, json.loads(header)) == shipment
    assert body == b"a\nb\n\xff\n"


def test_logs_are_compressed_on_the_way_to_another_machine(start: Start) -> None:
    reply = LogReply((LogAck(AttemptUid("u"), 0, 6),))
    text = b"".join(b"epoch %d loss 0.25\n" % n for n in range(10_000))
    shipment = LogShipment((LogChunk(AttemptUid("u"), 0, 0, len(text)),))
    controller = start(lambda _request: answer(encode(reply)))

    async def ship() -> None:
        client = AgentClient(controller.url, controller.token, controller.ca_pem, packs=True)
        try:
            await client.ship_logs(shipment, text)
            await client.ship_logs(LogShipment((LogChunk(AttemptUid("u"), 0, 0, 4),)), b"few\n")
        finally:
            await client.close()

    asyncio.run(ship())
    header, _, body = controller.requests[0].body.partition(b"\n")
    assert decode(LogShipment, json.loads(header)) == replace(shipment, packed=len(text))
    assert zlib.decompress(body) == text
    assert len(body) < len(text) / 4
    assert controller.requests[1].body.endswith(b"}\nfew\n")


def test_refusals_come_back_as_what_they_were(start: Start) -> None:
    replies = [
        answer(NotAuthenticated("the token was revoked").to_json(), 401),
        answer(Incompatible("protocol 2 is spoken here").to_json(), 426),
        answer(b"", 503),
    ]
    controller = start(lambda _request: replies.pop(0))
    for expected in (NotAuthenticated, Incompatible, Unavailable):
        with pytest.raises(expected):
            with_client(controller, lambda client: client.sync(REQUEST))


@pytest.mark.parametrize(
    "garbage", [b"not http at all\r\n\r\n", answer(b"<html>"), answer([1]), answer({"epoch": "x"}), None]
)
def test_an_answer_of_no_use_is_unavailable(start: Start, garbage: bytes | None) -> None:
    controller = start(lambda _request: garbage)
    with pytest.raises(Unavailable) as caught:
        with_client(controller, lambda client: client.sync(REQUEST))
    assert not isinstance(caught.value, Unreachable)


def test_a_controller_that_is_down_is_unreachable(start: Start) -> None:
    controller = start(lambda _request: None)
    controller.close_listener()
    with pytest.raises(Unreachable, match="cannot reach the controller at"):
        with_client(controller, lambda client: client.sync(REQUEST))


def test_an_impostor_gets_no_request(start: Start) -> None:
    ours = start(lambda _request: None)
    theirs = start(lambda _request: None, home="theirs")

    async def sync() -> None:
        client = AgentClient(theirs.url, ours.token, ours.ca_pem)
        try:
            await client.sync(REQUEST)
        finally:
            await client.close()

    with pytest.raises(Unreachable, match="certificate verify failed"):
        asyncio.run(sync())
    assert theirs.requests == []
