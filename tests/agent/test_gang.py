"""A rank of a gang on its node: set up, ready, and started only when told; real supervisors."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

from agent.environment import granted
from gpuq.model import EndReason, NodeName, Rank, RankPhase, StopKind
from gpuq.protocol import RunOrder
from tests.agent.executions import Machine, boottime, machine, shell, until


def of_two(order: RunOrder, rank: int = 1, port: int = 29_500) -> RunOrder:
    mine = order.ranks[0]
    other = Rank(NodeName("elsewhere"), (), 0, 0)
    ranks = (mine, other) if rank == 0 else (other, mine)
    return replace(order, ranks=ranks, rank=rank, port=port, address="10.0.0.1")


async def ready(m: Machine, order: RunOrder) -> None:
    await until(lambda: any(event.phase is RankPhase.READY for event in m.of(order)))


def test_a_rank_is_set_up_says_so_and_starts_when_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            for fenced in (None, boottime() + 100):  # started in two ways
                job = of_two(shell("echo job", setup=("echo up",)))
                m.executor.launch(job, fenced)
                await ready(m, job)
                assert m.log(job).count(b"up") >= 1
                assert b"\njob" not in m.log(job)
                m.executor.go(job.uid, 1)
                m.executor.go(job.uid, 1)
                end = await m.end(job)
                assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)
                assert m.log(job).count(b"\njob") == 1
                assert [e.phase for e in m.of(job)][-1] is RankPhase.ENDED

    asyncio.run(scenario())


def test_a_rank_that_is_stopped_while_it_waits_never_starts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            job = of_two(shell("echo ran"))
            m.executor.launch(job)
            await ready(m, job)
            m.executor.stop(job.uid, 1, StopKind.SIBLING, 5)
            end = await m.end(job)
            assert (end.reason, end.stopped, end.started_at) == (EndReason.NEVER_STARTED, StopKind.SIBLING, None)
            assert b"ran" not in m.log(job)

    asyncio.run(scenario())


def test_a_program_that_cannot_be_started_ends_a_rank_that_was_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            for fenced in (None, boottime() + 100):
                plain = shell("true")
                job = of_two(replace(plain, spec=replace(plain.spec, command=("/no/such/program",))))
                m.executor.launch(job, fenced)
                await ready(m, job)
                m.executor.go(job.uid, 1)
                assert (await m.end(job)).reason is EndReason.LAUNCH_FAILED

    asyncio.run(scenario())


def test_the_first_rank_does_not_start_where_its_port_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
            async with machine(tmp_path) as m:
                first, second = of_two(shell("true"), 0, port), of_two(shell("true"), 1, port)
                m.executor.launch(first)
                end = await m.end(first)
                assert end.reason is EndReason.NEVER_STARTED
                assert end.text == f"cannot prepare the run: {os.strerror(98)}: port {port}"
                m.executor.launch(second)  # it listens on another machine
                await ready(m, second)
                m.executor.go(second.uid, 1)
                assert (await m.end(second)).exit_code == 0

    asyncio.run(scenario())


def test_ranks_are_told_how_to_meet_as_torchrun_and_torch_read_it() -> None:
    plain = shell("true")
    ranks = tuple(Rank(NodeName(name), (0, 1, 2, 3), 0, 0) for name in ("a", "b"))
    env = granted(replace(plain, ranks=ranks, rank=1, port=29_507, address="10.0.0.1"), "/")
    assert {name: env[name] for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "WORLD_SIZE")} == {
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29507",
        "NODE_RANK": "1",
        "WORLD_SIZE": "8",
    }
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"], env["SLURM_JOB_NUM_NODES"]) == ("2", "4", "2")
    assert "MASTER_ADDR" not in granted(plain, "/")
