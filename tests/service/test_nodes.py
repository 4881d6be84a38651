"""What admins ask of nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuq.changes import PutToken
from gpuq.errors import Conflict, NotAuthorised, NotFound
from gpuq.model import NodeName
from gpuq.service.commands import Cordon, Drain, EnrolNode, StoreToken
from tests.service.builders import ADA, ROOT, WALL, Desk


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
    assert desk.do(EnrolNode(ROOT, NodeName("n2"), token)) == {"name": "n2"}  # the very same again: a lost answer
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
