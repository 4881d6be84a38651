"""An agent whose incarnation is too low to be heard starts a newer one; nobody else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.accounts import LocalAccounts
from agent.desk import AgentDesk
from agent.journal import Journal
from agent.standing import OUTDONE_ANSWERS, Standing
from gpuq.accounts import EVERYONES
from gpuq.protocol import SyncReply
from tests.agent.orders import NODE, reply_to, run_order
from tests.agent.test_desk import Nobody


def outdone(incarnation: int, sequence: int, known: int = 0) -> SyncReply:
    return SyncReply(1, 1, incarnation, sequence, superseded=True, known_incarnation=known)


def test_only_superseded_answers_to_the_newest_request_count_and_only_in_a_row() -> None:
    standing = Standing()
    for _ in range(50):
        assert standing.answered(outdone(5, 8, 90), 5, 9) is None  # request 9 has superseded it
        assert standing.answered(outdone(4, 9, 90), 5, 9) is None
    for _ in range(OUTDONE_ANSWERS - 1):
        assert standing.answered(outdone(5, 9, 90), 5, 9) is None
    assert standing.answered(SyncReply(1, 1, 5, 9), 5, 9) is None
    for _ in range(OUTDONE_ANSWERS - 1):
        assert standing.answered(outdone(5, 9, 90), 5, 9) is None
    assert standing.answered(outdone(5, 9, 80), 5, 9) == 90


def test_two_agents_of_one_name_take_over_from_each_other_less_and_less_often() -> None:
    standing = Standing()
    taken = [n for n in range(100) if standing.answered(outdone(5, 9), 5, 9) is not None]
    assert taken == [2, 8, 20, 44, 92]


def test_agent_that_was_outdone_is_heard_again_and_stays_newer_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        journal = Journal(tmp_path / "journal", "boot1", 1.0)
        desk = AgentDesk(tmp_path, journal, Nobody(), LocalAccounts(EVERYONES))
        try:
            await desk.start(NODE, "boot1")
            for _ in range(OUTDONE_ANSWERS):
                request = await desk.request(0.0)
                await desk.answered(outdone(request.incarnation, request.sequence, 5_000_000), 0.0)
            assert "agent.renewed incarnation=5000001 known=5000000" in caplog.text
            request = await desk.request(0.0)
            assert request.incarnation == 5_000_001
            await desk.answered(reply_to(request, 1, run=(run_order("x", node="elsewhere"),)), 0.0)
            assert (await desk.request(0.0)).holds == ("x",)
        finally:
            await desk.close()
            journal.close()
        after = Journal(tmp_path / "journal", "boot1", 1.0)
        assert after.incarnation == 5_000_002
        after.close()

    asyncio.run(main())
