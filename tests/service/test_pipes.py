"""The controller's part of streams: rows of bytes that survive whatever is lost around them, bounded, and forgotten."""

from __future__ import annotations

import random

import pytest

from gpuq.client.outgoing import FRAME_BYTES, Outgoing
from gpuq.errors import Conflict
from gpuq.model import AttemptUid, JobId, NodeName
from gpuq.protocol import RESUME_SECONDS, STREAM_WINDOW, StreamAim, StreamKind, StreamOrder
from gpuq.service.pipes import (
    JOIN_SECONDS,
    MAX_STREAMS,
    MAX_STREAMS_OF_ONE,
    OVER_SECONDS,
    Pipe,
    Stream,
    Streams,
)

N1 = NodeName("n1")
SHELL, PORT = StreamAim(StreamKind.SHELL), StreamAim(StreamKind.PORT, 80)


def a_stream(id: str = "stream-1", user: str = "ada", aim: StreamAim = SHELL, at: float = 0.0) -> Stream:
    return Stream(StreamOrder(id, AttemptUid("x"), 0, aim), JobId("1"), N1, user, at, at)


# ---------------------------------------------------------------- one direction


@pytest.mark.parametrize("seed", range(30))
def test_every_byte_arrives_once_and_in_order_whatever_is_lost_repeated_or_forgotten(seed: int) -> None:
    """Requests and answers get lost or come late, and the pipe is thrown away now and then, as with a controller."""
    chance = random.Random(seed)
    whole = chance.randbytes(400_000)
    sender, pipe, got = Outgoing(), Pipe(), bytearray()
    added = 0
    late: list[tuple[int, bytes]] = []  # pieces that come once more, after all
    for _ in range(100_000):
        if len(got) == len(whole) == sender.acked:
            break
        if chance.random() < 0.02:
            pipe = Pipe()
        if chance.random() < 0.5 and sender.room >= FRAME_BYTES and added < len(whole):
            size = chance.randrange(1, 20_000)
            sender.add(whole[added : added + size])
            added = min(added + size, len(whole))
        piece = (sender.position, sender.piece())
        if chance.random() < 0.1:
            late.append(piece)
        if chance.random() < 0.8:
            pipe.take(*piece)
            if chance.random() < 0.8:
                sender.answered(pipe.end, pipe.base)
        if late and chance.random() < 0.1:
            pipe.take(*late.pop(chance.randrange(len(late))))
        if chance.random() < 0.7:
            data = pipe.read(len(got), chance.randrange(1, 50_000))
            if chance.random() < 0.8:
                got += data
        assert pipe.end is None or pipe.base is None or pipe.end - pipe.base <= STREAM_WINDOW
        assert sender.end - sender.acked <= STREAM_WINDOW
    assert bytes(got) == whole


def test_a_pipe_takes_nothing_until_its_reader_has_said_where_it_stands() -> None:
    pipe, ends = Pipe(), []
    pipe.take(0, b"abc")
    ends.append(pipe.end)
    assert pipe.read(2, 10) == b""
    pipe.take(0, b"abc")
    ends.append(pipe.end)
    assert ends == [None, 3]
    assert pipe.read(2, 10) == b"c"


def test_a_pipe_holds_a_window_and_a_late_reader_loses_nothing_by_it() -> None:
    pipe = Pipe()
    pipe.read(0, 1)
    pipe.take(0, bytes(2 * STREAM_WINDOW))
    assert pipe.end == STREAM_WINDOW
    assert len(pipe.read(5, 10)) == 10
    assert pipe.read(3, 10) == b"", "a request that was overtaken"
    assert (pipe.base, pipe.end) == (5, STREAM_WINDOW)
    pipe.take(STREAM_WINDOW + 1, b"x")
    assert pipe.end == STREAM_WINDOW, "there would be a gap"


# ---------------------------------------------------------------- all streams


def test_an_agent_is_told_until_it_asks_and_again_when_it_is_another_or_silent() -> None:
    streams = Streams()
    stream = a_stream()
    streams.add(stream)
    assert streams.due(N1) == (stream.order,)
    assert streams.due(NodeName("n2")) == ()
    stream.joined(1.0)
    assert streams.due(N1) == ()
    streams.forgotten_by(N1)
    assert streams.due(N1) == (stream.order,)
    stream.joined(2.0)
    assert streams.due(N1) == ()
    stream.client_at = 30.0
    streams.expire(30.0)
    assert streams.due(N1) == (stream.order,)


def test_a_stream_ends_with_its_client_and_is_forgotten_when_its_agent_could_have_heard() -> None:
    streams = Streams()
    stream = a_stream()
    stream.joined(0.0)
    woken: list[str] = []
    stream.waiting.add(lambda: woken.append("woken"))
    streams.add(stream)
    streams.expire(RESUME_SECONDS)
    assert stream.over is None
    stream.joined(RESUME_SECONDS)
    streams.expire(RESUME_SECONDS + 1)
    found = streams.find("stream-1")
    assert found is not None
    assert found.over == "its client was gone for 10 minutes"
    assert woken == ["woken"]
    stream.joined(RESUME_SECONDS + OVER_SECONDS)
    streams.expire(RESUME_SECONDS + OVER_SECONDS + 2)
    assert streams.find("stream-1") is None


def test_an_agent_that_never_answers_ends_a_stream_with_a_line_and_one_that_did_is_waited_for() -> None:
    streams = Streams()
    never, once = a_stream("stream-1"), a_stream("stream-2")
    once.joined(0.0)
    for stream in (never, once):
        streams.add(stream)
    streams.expire(JOIN_SECONDS + 1)
    assert never.over == "node n1 did not answer in 30 s; see gpuq nodes"
    assert once.over is None
    once.client_at = RESUME_SECONDS
    streams.expire(RESUME_SECONDS + 1)
    assert once.over == "node n1 was silent for 10 minutes"


def test_there_is_room_for_so_many_of_one_and_of_all() -> None:
    streams = Streams()
    for number in range(MAX_STREAMS_OF_ONE):
        streams.check_room("ada")
        streams.add(a_stream(f"ada-{number}"))
    with pytest.raises(Conflict, match="ada has 32 streams to jobs open, which is the most"):
        streams.check_room("ada")
    streams.check_room("bob")
    for number in range(MAX_STREAMS - MAX_STREAMS_OF_ONE):
        streams.add(a_stream(f"else-{number}", f"user-{number}"))
    with pytest.raises(Conflict, match="128 streams to jobs are open, which is the most"):
        streams.check_room("bob")
    for number in range(MAX_STREAMS_OF_ONE):
        found = streams.find(f"ada-{number}")
        assert found is not None
        found.end("", 0.0)
    streams.check_room("ada")


def test_connections_to_a_port_are_one_visit_for_ten_minutes() -> None:
    streams = Streams()
    assert not streams.is_one_of_many("ada", JobId("1"), 0, PORT)
    streams.add(a_stream(aim=PORT))
    assert streams.is_one_of_many("ada", JobId("1"), 0, PORT)
    for other in (("bob", JobId("1"), 0, PORT), ("ada", JobId("2"), 0, PORT), ("ada", JobId("1"), 1, PORT)):
        assert not streams.is_one_of_many(*other)
    streams.expire(RESUME_SECONDS + 1)
    assert not streams.is_one_of_many("ada", JobId("1"), 0, PORT)
    streams.add(a_stream())
    assert not streams.is_one_of_many("ada", JobId("1"), 0, SHELL), "each shell is on record"
