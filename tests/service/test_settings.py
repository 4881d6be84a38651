"""Changing the cluster's settings, and what they do from then on: queues, times, priorities, silences."""

from __future__ import annotations

from typing import Any

import pytest

from gpuq.document import read
from gpuq.errors import Conflict, InvalidRequest, NotAuthorised
from gpuq.model import NodeName
from gpuq.service.commands import Actor, ChangeSettings, Update
from gpuq.settings import ClusterSettings, Settings
from gpuq.states import NodeState
from tests.service.builders import ADA, BOB, ROOT, Desk
from tests.service.machine import Machine

N1 = NodeName("n1")


def change(actor: Actor = ROOT, **tables: Any) -> ChangeSettings:
    settings, based_on = read(tables)
    return ChangeSettings(actor, settings, based_on)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---------------------------------------------------------------- changing


def test_only_an_admin_changes_settings(desk: Desk) -> None:
    with pytest.raises(NotAuthorised, match="only an admin"):
        desk.do(change(ADA, cluster={"visibility": "open"}))
    assert desk.cluster.settings == Settings()


def test_a_change_is_on_record_with_who_made_it_from_where(desk: Desk) -> None:
    desk.do(change(Actor("root", "admin", address="192.0.2.7"), cluster={"lost_after": "2m"}, queues={"a": {}}))
    (event,) = desk.events
    assert (event.kind, event.user, event.address) == ("settings.changed", "root", "192.0.2.7")
    assert event.text == 'cluster.lost_after: "1m30s" -> "2m"; queues.a: added'


def test_the_same_document_twice_changes_nothing_whatever_version_it_is_of(desk: Desk) -> None:
    first = desk.do(change(version=0, cluster={"lost_after": "2m"}))
    again = desk.do(change(version=0, cluster={"lost_after": "2m"}))
    assert (first["version"], again["version"], again["changes"]) == (1, 1, [])
    assert len(desk.events) == 1


def test_who_changes_what_another_has_changed_meanwhile_is_told(desk: Desk) -> None:
    desk.do(change(version=0, cluster={"lost_after": "2m"}))
    with pytest.raises(Conflict, match=r"since version 0.*at 1 now"):
        desk.do(change(version=0, cluster={"visibility": "open"}))
    assert desk.do(change(cluster={"visibility": "open"}))["version"] == 2, "without a version it is not checked"


# ---------------------------------------------------------------- queues


@pytest.fixture
def queues(desk: Desk) -> Desk:
    day = {"default": True, "max_time": "1d", "default_time": "1h"}
    desk.do(change(queues={"day": day, "lab": {"members": ["bob"], "max_time": "2h", "max_gpus_per_job": 2}}))
    return desk


def test_a_job_goes_to_the_default_queue_and_gets_its_default_time(queues: Desk) -> None:
    job = queues.job(queues.submit())
    assert (job.queue, job.time_limit_seconds) == ("day", 3600)
    assert queues.job(queues.submit(time_limit_seconds=86_400)).time_limit_seconds == 86_400


def test_a_queue_without_a_default_time_gives_its_longest(queues: Desk) -> None:
    job = queues.job(queues.submit(BOB, queue="lab"))
    assert (job.queue, job.time_limit_seconds) == ("lab", 7200)


def test_queues_take_nobody_but_members_and_admins(queues: Desk) -> None:
    with pytest.raises(NotAuthorised, match="ada is not a member of queue lab"):
        queues.submit(ADA, queue="lab")
    queues.submit(ROOT, queue="lab")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"queue": "main"}, "no queue 'main': known: day, lab"),
        ({"time_limit_seconds": 86_401}, "1-00:00:01 is longer than queue day allows: at most 1-00:00:00"),
        ({"queue": "lab", "gpus": 3}, "asks for 3 GPUs, in queue lab it may have 2"),
    ],
)
def test_what_a_queue_does_not_allow_is_refused(queues: Desk, asked: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        queues.submit(BOB, **asked)
    assert line in refused.value.one_line()


def test_a_queued_job_cannot_be_updated_beyond_its_queue(queues: Desk) -> None:
    id = queues.submit(hold=True)
    with pytest.raises(InvalidRequest, match="longer than queue day allows"):
        queues.do(Update(ADA, id, time_limit_seconds=86_401))
    queues.do(Update(ADA, id, time_limit_seconds=86_400))


def test_jobs_of_a_queue_that_is_gone_stay_and_can_be_changed(queues: Desk) -> None:
    id = queues.submit(hold=True)
    queues.do(change())
    queues.do(Update(ADA, id, time_limit_seconds=99_999))
    assert queues.job(id).queue == "day"
    assert queues.job(queues.submit()).queue == "main"


# ---------------------------------------------------------------- priority


def test_a_job_gets_the_default_priority_and_only_an_admin_asks_for_more(desk: Desk) -> None:
    desk.do(change(cluster={"default_priority": 10}))
    assert desk.job(desk.submit()).priority == 10
    assert desk.job(desk.submit(priority=10)).priority == 10
    assert desk.job(desk.submit(priority=0)).priority == 0
    with pytest.raises(NotAuthorised, match="above 10"):
        desk.submit(priority=11)
    assert desk.job(desk.submit(ROOT, priority=11)).priority == 11


# ---------------------------------------------------------------- silence, in a running controller


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.sync()
    machine.write()
    assert state(machine) is NodeState.UP
    return machine


def state(machine: Machine) -> NodeState:
    return machine.controller.view.node_state(N1)


def test_silence_counts_by_the_settings_at_once_and_without_a_restart(machine: Machine) -> None:
    machine.ask(change(cluster={"suspect_after": "15s", "lost_after": "2m"}))
    machine.write()
    machine.tick(14)
    assert state(machine) is NodeState.UP
    machine.tick(1)
    assert state(machine) is NodeState.SUSPECT
    machine.tick(104)
    assert state(machine) is NodeState.SUSPECT
    machine.tick(1)
    assert state(machine) is NodeState.LOST


def test_settings_hold_after_a_restart(machine: Machine) -> None:
    machine.ask(change(cluster={"lost_after": "2m"}))
    machine.write()
    again = Machine(machine.disk, machine.time + 5)
    assert again.controller.view.settings == Settings(1, ClusterSettings(lost_after=120))
    assert again.controller.policy.lost_after == 120.0


def test_settings_that_did_not_become_durable_hold_no_longer(machine: Machine) -> None:
    answers = machine.ask(change(cluster={"lost_after": "2m"}))
    assert answers == []
    assert machine.controller.policy.lost_after == 120.0
    machine.queue.clear()
    machine.controller.pause("the disk is full")
    assert "disk is full" in str(answers[0])
    assert machine.controller.policy.lost_after == 90.0
    machine.controller.resume()
    machine.tick(90)
    assert state(machine) is NodeState.LOST
