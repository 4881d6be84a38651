"""Who may have a stream to which job, when, and what goes on record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.errors import Conflict, GpuqError, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import JobId
from gpuq.protocol import StreamAim, StreamKind
from gpuq.service.commands import Actor, OpenStream
from tests.service.builders import ADA, BOB, ROOT, Desk, lost, ordered, running

SHELL, TERMINAL = StreamAim(StreamKind.SHELL), StreamAim(StreamKind.TERMINAL)
PORT = StreamAim(StreamKind.PORT, 8888)


def opened(desk: Desk, job: str, aim: StreamAim = SHELL, actor: Actor = ADA, rank: int = 0) -> dict[str, object]:
    return desk.do(OpenStream(actor, JobId(job), rank, aim, known=desk._ended((job,))))


def test_a_running_jobs_owner_gets_its_place_and_it_is_on_record() -> None:
    desk = Desk()
    job = running(desk)
    assert opened(desk, job, actor=replace(ADA, address="10.0.0.7")) == {
        "job": job,
        "attempt": 1,
        "uid": desk.attempt(job).uid,
        "rank": 0,
        "node": "n1",
    }
    event = desk.events[-1]
    assert (event.kind, event.text, event.job, event.attempt) == ("job.attached", "by ada", job, 1)
    assert (event.node, event.user, event.address) == ("n1", "ada", "10.0.0.7")


@pytest.mark.parametrize("aim", [SHELL, TERMINAL])
@pytest.mark.parametrize("actor", [BOB, ROOT], ids=lambda actor: actor.user)
def test_a_shell_is_for_the_owner_alone(actor: Actor, aim: StreamAim) -> None:
    desk = Desk()
    job = running(desk)
    before = len(desk.events)
    with pytest.raises(NotAuthorised, match="is for its owner ada only"):
        opened(desk, job, aim, actor)
    assert len(desk.events) == before


def test_a_port_is_for_the_owner_and_admins_and_many_connections_are_one_event() -> None:
    desk = Desk()
    job = running(desk)
    with pytest.raises(NotAuthorised, match="is for its owner ada and admins only"):
        opened(desk, job, PORT, BOB)
    opened(desk, job, PORT, ROOT)
    assert (desk.events[-1].kind, desk.events[-1].text) == ("job.forwarded", "port 8888, by root")
    before = len(desk.events)
    desk.do(OpenStream(ROOT, JobId(job), 0, PORT, told=True))
    assert len(desk.events) == before


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (lambda desk: desk.submit(hold=True), Conflict, "is QUEUED: there is nothing to connect to"),
        (ordered, Conflict, "is ALLOCATED: there"),
        (lost, Conflict, "is LOST: there"),
        (lambda desk: desk.submit(array="0-3", hold=True), InvalidRequest, "is an array: name one element"),
        (lambda _: JobId("99"), NotFound, "no running job 99"),
    ],
)
def test_only_what_runs_can_be_connected_to(made, error: type[GpuqError], said: str) -> None:
    desk = Desk()
    job = made(desk)
    with pytest.raises(error) as raised:
        opened(desk, job)
    assert said in raised.value.one_line()


def test_what_has_ended_and_ranks_that_are_not_there_are_said_in_a_line() -> None:
    desk = Desk()
    job = running(desk)
    with pytest.raises(InvalidRequest, match="has no rank 1"):
        opened(desk, job, rank=1)
    desk.end(job)
    with pytest.raises(Conflict, match="is SUCCEEDED: there is nothing to connect to"):
        opened(desk, job)


@pytest.mark.parametrize("more", [{"nodes": 2}, {"array": "0-3"}, {"max_retries": 1}], ids=str)
def test_a_job_on_a_terminal_runs_once_and_on_one_node(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="runs once and on one node"):
        Desk().submit(pty="24x80", **more)
