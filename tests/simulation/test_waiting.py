"""Jobs that only wait cost no plans: a plan that found no room is made again when something has changed, and then."""

from __future__ import annotations

from dataclasses import fields

import pytest

from gpuq.model import JobId
from gpuq.protocol import Submission
from gpuq.scheduler import plan
from gpuq.service import tick
from gpuq.service.commands import Submit
from gpuq.service.controller import Controller
from gpuq.states import JobState
from tests.simulation.agents import GPUS
from tests.simulation.clock import Faults
from tests.simulation.world import ALICE, NODES, World

QUIET = Faults(**{fault.name: 0.0 for fault in fields(Faults)})


class Scene:
    """A cluster without trouble whose users are the test, and what its planner was asked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.plans = 0

        def counting(*given: object, **more: object) -> object:
            self.plans += 1
            return plan(*given, **more)  # type: ignore[arg-type]

        patch.setattr(tick, "plan", counting)
        patch.setattr(World, "_schedule_users", lambda self: None)
        self.world = World(2, QUIET)  # the first job of this one runs for 200 s
        self.until(10.0)

    @property
    def controller(self) -> Controller:
        assert self.world.host.controller is not None
        return self.world.host.controller

    def waits(self, id: JobId) -> bool:
        job = self.controller.view.job(id)
        return job is not None and job.state is JobState.QUEUED

    def until(self, time: float) -> None:
        while self.world.clock.time < time:
            assert self.world.clock.step()

    def submit(self, name: str) -> JobId:
        """A job that wants all there is."""
        told: dict[str, JobId] = {}
        command = Submit(ALICE, Submission(command=("work",), name=name, nodes=NODES, gpus_per_node=GPUS))
        self.controller.execute(command, name, lambda body: told.update(id=JobId(body["id"])))  # type: ignore[index]
        self.until(self.world.clock.time + 1.0)
        return told["id"]


def test_who_waits_for_room_is_planned_again_once_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.submit("first")
    second = scene.submit("second")
    plans, changes = scene.plans, scene.controller.commit.last
    scene.until(200.0)
    assert scene.waits(second)
    assert scene.plans - plans <= scene.controller.commit.last - changes + 1
    scene.until(300.0)
    assert not scene.waits(second)


def test_a_node_that_comes_back_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """That changes no record, only what the node counts as."""
    scene = Scene(monkeypatch)
    machine = scene.world.machines[0]
    machine.kill_agent()
    scene.until(55.0)  # suspect
    job = scene.submit("all")
    scene.until(75.0)
    assert scene.waits(job)
    machine.start_agent()
    scene.until(90.0)
    assert not scene.waits(job)
