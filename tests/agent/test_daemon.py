"""The agent as a real process with real jobs, against a controller in this process that speaks the real messages."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from gpuq.model import AttemptUid, EndReason, OnLost, RankPhase, StopKind
from tests.agent.orders import run_order, stop_order
from tests.agent.stage import ENVIRONMENT, Stage, play, staged


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(Stage) as stage:
        yield stage


def test_job_runs_and_its_end_and_whole_log_arrive(stage: Stage) -> None:
    async def scene() -> None:
        stage.start()
        stage.order("aa01", "sh", "-c", "echo hello; echo oops >&2; exit 3")
        await stage.until(lambda: "aa01" in stage.controller.ends)
        end = stage.controller.ends["aa01"]
        assert (end.reason, end.exit_code, end.log_size) == (EndReason.EXITED, 3, 11)
        await stage.until(lambda: stage.controller.logs.get("aa01") == b"hello\noops\n")
        await stage.until(lambda: not list((stage.state / "runs").iterdir()))
        await stage.until(lambda: stage.controller.requests[-1].holds == ())

    play(stage, scene)


def test_inventory_sample_and_own_file_tell_who_runs_here(stage: Stage) -> None:
    async def scene() -> None:
        agent = stage.start()
        await stage.until(lambda: any(r.inventory for r in stage.controller.requests))
        await stage.until(lambda: any(r.sample for r in stage.controller.requests))
        inventory = next(r.inventory for r in stage.controller.requests if r.inventory)
        assert ([g.name for g in inventory.gpus], inventory.simulated) == (["H100-80GB"] * 2, True)
        await stage.until(lambda: stage.own_file().get("connected"))
        own = stage.own_file()
        assert (own["name"], own["pid"]) == ("a1", agent.pid)
        await stage.controller.close()
        await stage.until(lambda: stage.own_file()["connected"] is False)
        await stage.controller.open()
        await stage.until(lambda: stage.own_file()["connected"])

    play(stage, scene)


def test_stop_ends_a_running_job_and_bars_one_that_never_came(stage: Stage) -> None:
    async def scene() -> None:
        stage.start()
        stage.order("aa02", "sleep", "600")
        await stage.until(lambda: stage.phase("aa02") is RankPhase.RUNNING)
        stage.controller.stop = {AttemptUid(u): stop_order(u, grace=5) for u in ("aa02", "aa03")}
        stage.controller.changed()
        await stage.until(lambda: {"aa02", "aa03"} <= stage.controller.ends.keys())
        assert stage.controller.ends["aa02"].stopped is StopKind.CANCEL
        assert stage.controller.ends["aa02"].signal == signal.SIGTERM
        assert stage.controller.ends["aa03"].reason is EndReason.NEVER_STARTED

    play(stage, scene)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_job_goes_on_without_its_agent_and_is_taken_up_by_the_next(stage: Stage, number: int) -> None:
    go = stage.state.parent / "go"

    async def scene() -> None:
        first = stage.start()
        wait = f"echo before; while ! [ -e {go} ]; do sleep 0.05; done; echo after; exit 7"
        stage.order("aa04", "sh", "-c", wait)
        stage.order("aa05", "sh", "-c", wait, on_lost=OnLost.FENCE)
        await stage.until(lambda: stage.phase("aa04") is stage.phase("aa05") is RankPhase.RUNNING)
        await stage.end(first, number)
        assert first.returncode == (0 if number == signal.SIGTERM else -number)
        assert (stage.state / "agent.json").exists() is (number == signal.SIGKILL)
        second = stage.start()
        await stage.until(lambda: stage.controller.requests[-1].incarnation > stage.controller.requests[0].incarnation)
        go.touch()
        await stage.until(lambda: {"aa04", "aa05"} <= stage.controller.ends.keys())
        assert [stage.controller.ends[u].exit_code for u in ("aa04", "aa05")] == [7, 7]
        await stage.until(lambda: not list((stage.state / "runs").iterdir()))
        assert stage.controller.logs == {"aa04": b"before\nafter\n", "aa05": b"before\nafter\n"}
        assert "Traceback" not in await stage.end(second, signal.SIGTERM)

    play(stage, scene)


def test_job_that_ends_while_agent_and_controller_are_away_is_still_reported(stage: Stage) -> None:
    go = stage.state.parent / "go"

    async def scene() -> None:
        first = stage.start()
        stage.order("aa06", "sh", "-c", f"while ! [ -e {go} ]; do sleep 0.05; done; echo late; exit 9")
        await stage.until(lambda: stage.phase("aa06") is RankPhase.RUNNING)
        await stage.end(first, signal.SIGKILL)
        await stage.controller.close()
        go.touch()
        await stage.until((stage.state / "runs" / "aa06.0" / "exit.json").exists)
        stage.start()
        await stage.until(lambda: stage.own_file().get("connected") is False)
        await stage.controller.open()
        await stage.until(lambda: "aa06" in stage.controller.ends)
        assert stage.controller.ends["aa06"].exit_code == 9
        await stage.until(lambda: stage.controller.logs.get("aa06") == b"late\n")

    play(stage, scene)


def test_agent_killed_between_orders_and_reports_runs_nothing_twice_and_loses_nothing(stage: Stage) -> None:
    ran = stage.state.parent / "ran"
    names = [f"bb{i:02}" for i in range(30)]

    async def scene() -> None:
        for name in names:
            stage.order(name, "sh", "-c", f"echo {name} >> {ran}; echo {name}")
        while len(stage.controller.ends) < len(names):
            agent = stage.start()
            ends = len(stage.controller.ends)
            await stage.until(lambda: len(stage.controller.ends) > ends)  # noqa: B023
            await stage.end(agent, signal.SIGKILL)
        started = ran.read_text().split() if ran.exists() else []
        assert len(started) == len(set(started))
        for name in names:
            end = stage.controller.ends[name]
            if end.reason is EndReason.NEVER_STARTED:
                assert name not in started
            else:
                assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)
                assert name in started
        stage.start()
        await stage.until(lambda: stage.controller.logs == {n: f"{n}\n".encode() for n in started})

    play(stage, scene)


def test_second_agent_on_the_same_state_is_refused_by_name(stage: Stage) -> None:
    async def scene() -> None:
        first = stage.start()
        await stage.until(lambda: stage.own_file().get("connected"))
        second = stage.start()
        _, said = await asyncio.to_thread(second.communicate, timeout=20)
        assert second.returncode == 1
        assert f"the agent 'a1' (pid {first.pid}) already uses" in said
        assert len(said.splitlines()) == 1

    play(stage, scene)


def test_neither_log_nor_process_list_shows_a_jobs_environment(stage: Stage) -> None:
    async def scene() -> None:
        agent = stage.start()
        secret = {**ENVIRONMENT, "API_KEY": "hunter2"}
        stage.controller.run.append(run_order("aa07", command=("true",), environment=secret))
        stage.controller.run.append(run_order("aa08", command=("/no/such/program",), environment=secret))
        stage.controller.changed()
        await stage.until(lambda: {"aa07", "aa08"} <= stage.controller.ends.keys())
        assert "hunter2" not in await stage.end(agent, signal.SIGTERM)
        assert "hunter2" not in str(stage.controller.ends)

    play(stage, scene)
