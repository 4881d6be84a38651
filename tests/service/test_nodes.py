"""What admins ask of nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuq.changes import PutToken
from gpuq.errors import Conflict, NotAuthorised, NotFound
from gpuq.model import Cause, CauseCode, NodeName, RankPhase, StopKind
from gpuq.service.commands import Cordon, Drain, EnrolNode, StoreToken
from tests.service.builders import ADA, REQUEUED, ROOT, WALL, Desk, a_node, exited


def test_nodes_and_tokens_are_an_admins_matter() -> None:
    desk = Desk()
    token = PutToken("t", "0" * 64, "node", "root", NodeName("n2"), WALL, None)
    for command in (
        EnrolNode(ADA, NodeName("n2"), token),
        Cordon(ADA, NodeName("n1")),
        StoreToken(ADA, token),
    ):
        with pytest.raises(NotAuthorised):
            desk.do(command)
    assert desk.do(EnrolNode(ROOT, NodeName("n2"), token)) == {"name": "n2"}
    assert desk.do(EnrolNode(ROOT, NodeName("n2"), token)) == {"name": "n2"}  # the very same again: a done answer
    with pytest.raises(Conflict, match="exists already"):
        desk.do(EnrolNode(ROOT, NodeName("n2"), replace(token, id="u", secret_sha256="1" * 64)))
    with pytest.raises(NotFound, match="no node n3"):
        desk.do(Cordon(ROOT, NodeName("n3")))
    assert desk.do(StoreToken(ROOT, token)) == {"id": "t", "expires_at": None}
    assert desk.kinds("token.") == ["token.created"]


def test_a_drained_node_says_so_when_its_last_job_has_ended() -> None:
    desk = Desk()
    job = desk.submit(gpus=1)
    desk.run(job)
    desk.do(Drain(ROOT, NodeName("n1")))
    assert desk.kinds("node.drained") == []
    desk.end(job)
    assert desk.kinds("node.drained") == ["node.drained"]


def test_a_drain_with_requeue_moves_what_may_run_again() -> None:
    desk = Desk(a_node("n1"), a_node("n2"))
    here: dict[str, Any] = {"only_nodes": (NodeName("n1"),)}
    kept, moved, gang = desk.submit(requeue=False, **here), desk.submit(**here), desk.submit(nodes=2)
    done, canceled = desk.submit(**here), desk.submit(**here)
    for job in (kept, moved, gang, done, canceled):
        desk.plan()
        for rank in range(len(desk.attempt(job).ranks)):
            desk.word(job, RankPhase.RUNNING, rank=rank, started_at=desk.wall)
    desk.cancel(canceled)
    reply = desk.do(Drain(ROOT, NodeName("n1"), requeue=True))
    assert reply["requeued"] == [moved, gang, done]
    assert desk.states_of(kept, moved, gang, canceled) == ["RUNNING", "STOPPING", "STOPPING", "STOPPING"]
    desk.end(moved, REQUEUED)
    for rank in (0, 1):
        desk.word(gang, RankPhase.ENDED, REQUEUED, rank=rank)
    desk.end(done, exited(0))
    desk.end(canceled, exited(None, signal=15, stopped=StopKind.CANCEL))
    assert desk.states_of(moved, gang, done, canceled) == ["QUEUED", "QUEUED", "SUCCEEDED", "CANCELED"]
    assert desk.attempt(moved).cause == Cause(CauseCode.DRAINED, "node n1 was drained by root")
    assert (desk.job(moved).retries_used, desk.job(moved).losses_used) == (0, 0)
    assert desk.kinds("node.drained") == []
    desk.end(kept)
    assert desk.kinds("node.drained") == ["node.drained"]
    assert desk.do(Drain(ROOT, NodeName("n1"), requeue=True))["requeued"] == []
