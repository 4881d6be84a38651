from __future__ import annotations

from typing import Any

import pytest

from gpuq.errors import Conflict, InvalidRequest, NotAuthorised, NotFound
from gpuq.model import CauseCode, Dependency, DependencyKind, JobId, OnLost, Request
from gpuq.protocol import Submission
from gpuq.service import jobs
from gpuq.service.commands import Actor, Submit
from gpuq.states import JobState
from gpuq.view import Policy
from tests.service.builders import ADA, ROOT, WALL, Desk, exited

OK, ANY, NOT_OK = DependencyKind.AFTER_OK, DependencyKind.AFTER_ANY, DependencyKind.AFTER_NOT_OK


def on(id: str, kind: DependencyKind = OK) -> tuple[Dependency, ...]:
    return (Dependency(kind, JobId(id)),)


def test_a_submit_that_asks_for_nothing_gets_the_defaults() -> None:
    desk = Desk()
    job = desk.job(desk.submit(command=("/usr/bin/python3", "x.py")))
    assert (job.id, job.number, job.index, job.state) == ("1", 1, None, JobState.QUEUED)
    assert (job.name, job.user, job.queue, job.priority) == ("python3", "ada", "main", 0)
    assert job.request == Request(account="ada")
    assert (job.submitted_at, job.queued_at, job.eligible_at, job.held_by) == (WALL, WALL, None, None)
    assert (job.max_retries, job.max_losses, job.requeue, job.on_lost) == (0, 10, True, OnLost.KEEP)
    assert (job.grace_seconds, job.time_limit_seconds, job.attempt) == (30, None, 0)
    assert desk.kinds() == ["job.submitted"]


def test_numbers_count_up_and_a_script_has_a_name() -> None:
    desk = Desk()
    assert desk.submit() == "1"
    assert desk.do(Submit(ADA, Submission(script="#!/bin/sh\n", array="0-9")))["elements"] == 10
    assert desk.job("2").name == "script"
    assert desk.submit(command=("///",)) == "3"
    assert desk.job("3").name == "job"


def test_a_name_taken_from_the_command_is_as_printable_as_one_that_was_given() -> None:
    desk = Desk()
    shown = [
        desk.job(desk.submit(command=(word,))).name for word in ("/bin/\x1b[2J\n2026 INFO x\u202e", "\t", "a" * 99)
    ]
    assert shown == ["[2J 2026 INFO x", "job", "a" * 64]


@pytest.mark.parametrize(
    ("asked", "per_node"),
    [({"gpus": 4}, 4), ({"gpus_per_node": 4}, 4), ({"gpus": 4, "gpus_per_node": 4}, 4), ({"gpus": 0}, 0), ({}, 0)],
)
def test_gpus_of_the_job_and_of_the_node_come_together(asked: dict[str, Any], per_node: int) -> None:
    desk = Desk()
    assert desk.job(desk.submit(**asked)).request.gpus_per_node == per_node


def test_what_gpus_are_asked_to_be_is_kept_in_one_spelling() -> None:
    desk = Desk()
    request = desk.job(desk.submit(gpus=1, gpu_type="H100", only_nodes=("b", "a", "b"), not_nodes=("d", "c"))).request
    assert (request.gpu_type, request.only_nodes, request.not_nodes) == ("h100", ("a", "b"), ("c", "d"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"gpus": 4, "gpus_per_node": 2}, "disagree"),
        ({"gpus": 0, "gpus_per_node": 2}, "disagree"),
        ({"nodes": 2, "gpus": 3}, "does not divide"),
        ({"nodes": 2, "only_nodes": ("n1",)}, "fewer nodes"),
        ({"gpus": 1, "shared": True}, "how much"),
        ({"shared": True, "gpu_memory_bytes": 1}, "no GPU"),
        ({"constraint": "rack="}, "not a constraint"),
        ({"queue": "fast"}, "no queue 'fast'"),
        ({"command": ()}, "no command"),
        ({"array": "9-1"}, "not a range"),
        ({"on_lost": OnLost.FENCE, "grace_seconds": 31}, "at most 30 s"),
    ],
)
def test_what_contradicts_itself_is_refused_and_leaves_no_trace(asked: dict[str, Any], says: str) -> None:
    desk = Desk()
    with pytest.raises(InvalidRequest, match=says):
        desk.submit(**asked)
    assert desk.live() == []
    assert desk.cluster.next_number == 1


def test_the_default_grace_is_held_to_the_limit_of_fenced_jobs_as_well() -> None:
    desk = Desk(policy=Policy(fence_grace=10))
    with pytest.raises(InvalidRequest, match="at most 10 s"):
        desk.submit(on_lost=OnLost.FENCE)
    desk.submit(on_lost=OnLost.FENCE, grace_seconds=10)
    desk.submit()


@pytest.mark.parametrize("role", ["viewer", "node", "join", ""])
def test_only_users_and_admins_submit(role: str) -> None:
    with pytest.raises(NotAuthorised, match="may not"):
        Desk().submit(Actor("eve", role))


def test_only_an_admin_raises_a_priority() -> None:
    desk = Desk()
    with pytest.raises(NotAuthorised):
        desk.submit(priority=1)
    assert desk.job(desk.submit(priority=-1)).priority == -1
    assert desk.job(desk.submit(ROOT, priority=1)).priority == 1


def test_a_begin_time_is_waited_for_unless_it_has_passed() -> None:
    desk = Desk()
    later, past = desk.submit(begin_at=WALL + 10), desk.submit(begin_at=WALL - 10)
    assert desk.job(past).eligible_at is None
    desk.plan()
    assert desk.states_of(later, past) == ["QUEUED", "ALLOCATED"]
    desk.tick(9.9)
    desk.plan()
    assert desk.state(later) is JobState.QUEUED
    desk.tick(0.1)
    desk.plan()
    assert desk.state(later) is JobState.ALLOCATED


# ---------------------------------------------------------------- dependencies


@pytest.mark.parametrize(
    ("kind", "code", "runs"),
    [(OK, 0, True), (OK, 1, False), (ANY, 0, True), (ANY, 1, True), (NOT_OK, 0, False), (NOT_OK, 1, True)],
)
def test_a_dependency_on_a_live_job_is_settled_by_its_end(kind: DependencyKind, code: int, runs: bool) -> None:
    desk = Desk()
    first = desk.submit()
    second = desk.submit(dependencies=on(first, kind))
    desk.run(first)
    assert desk.state(second) is JobState.QUEUED
    desk.end(first, exited(code))
    desk.plan()
    assert desk.state(second) is (JobState.ALLOCATED if runs else JobState.FAILED)
    if not runs:
        end = "FAILED" if code else "SUCCEEDED"
        assert desk.cause(second) == ("dependency", f"{kind.value}:1 can never come true: 1 is {end}")
        assert desk.job(second).finished_at == desk.wall


@pytest.mark.parametrize(
    ("kind", "state", "outcome"),
    [
        (OK, JobState.SUCCEEDED, "ready"),
        (OK, JobState.FAILED, "never"),
        (OK, JobState.CANCELED, "never"),
        (ANY, JobState.CANCELED, "ready"),
        (NOT_OK, JobState.SUCCEEDED, "never"),
        (NOT_OK, JobState.CANCELED, "ready"),
    ],
)
def test_a_dependency_on_an_ended_job_is_met_or_refused_at_once(
    kind: DependencyKind, state: JobState, outcome: str
) -> None:
    desk = Desk()
    if outcome == "never":
        with pytest.raises(Conflict, match=f"{kind.value}:99 can never come true: job 99 is {state.value}"):
            desk.submit(ended={JobId("99"): state}, dependencies=on("99", kind))
    else:
        assert desk.job(desk.submit(ended={JobId("99"): state}, dependencies=on("99", kind))).ready


@pytest.mark.parametrize("id", ["99", "1", "1_0", "2_10", "2_07", "2_", "2_x", "", "2_1_1"])
def test_a_dependency_on_what_does_not_exist_is_refused(id: str) -> None:
    desk = Desk()
    desk.cluster.next_number = 2
    desk.submit(array="0-9")
    with pytest.raises(NotFound, match="does not exist"):
        desk.submit(dependencies=on(id))


def test_a_dependency_on_an_element_is_settled_by_that_element() -> None:
    desk = Desk(policy=Policy(max_ranks_per_node=4))
    desk.submit(array="0-9")
    waiting = desk.submit(dependencies=on("1_9"))
    while desk.state("1_9") not in (JobState.SUCCEEDED,):
        desk.plan()
        for attempt in list(desk.cluster.attempts.values()):
            desk.end(attempt.job)
    assert desk.job(waiting).ready


@pytest.mark.parametrize(("kind", "state"), [(OK, JobState.FAILED), (ANY, JobState.QUEUED), (NOT_OK, JobState.QUEUED)])
def test_who_waits_for_an_element_not_made_yet_hears_of_its_arrays_cancel(
    kind: DependencyKind, state: JobState
) -> None:
    """It would wait for ever: nobody makes the element any more."""
    desk = Desk()
    desk.submit(array="0-9", hold=True)
    waiting = desk.submit(dependencies=on("1_7", kind))
    assert desk.reason(waiting) is not None
    desk.cancel("1")
    assert desk.state(waiting) is state
    assert desk.job(waiting).ready == (state is JobState.QUEUED)


def test_who_waits_for_an_element_hears_of_its_arrays_scheduling_timeout() -> None:
    desk = Desk()
    desk.submit(array="0-9", gpus=64, scheduling_timeout_seconds=60)
    waiting = desk.submit(dependencies=on("1_7"))
    desk.tick(61)
    assert desk.state(waiting) is JobState.FAILED
    assert desk.state("1") is JobState.FAILED


def test_a_dependency_on_an_array_is_met_when_its_last_element_has_succeeded() -> None:
    desk = Desk()
    desk.submit(array="0-1")
    waiting = desk.submit(dependencies=on("1"))
    desk.run("1_0")
    desk.end("1_0")
    assert not desk.job(waiting).ready
    desk.end("1_1")
    assert desk.job(waiting).ready


def test_several_dependencies_all_count() -> None:
    desk = Desk()
    a, b = desk.submit(), desk.submit()
    waiting = desk.submit(dependencies=(*on(a), *on(b, ANY), *on(b, NOT_OK)))
    desk.run(a)
    desk.end(a)
    assert [d.job for d in desk.job(waiting).waits_for] == [b, b]
    desk.end(b)
    assert desk.cause(waiting) == ("dependency", "afternotok:2 can never come true: 2 is SUCCEEDED")


def test_a_singleton_waits_for_all_of_its_users_live_jobs_of_its_name() -> None:
    desk = Desk()
    ended = desk.submit(name="train")
    desk.run(ended)
    desk.end(ended)
    array = desk.submit(name="train", array="0-2")
    desk.plan()
    desk.submit(ROOT, name="train")
    job = desk.submit(name="train", singleton=True)
    assert desk.job(job).waits_for == on(array, ANY)
    for element in ("2_0", "2_1", "2_2"):
        desk.run(element)
        desk.end(element, exited(1))
    assert desk.job(job).waits_for == ()
    assert desk.job(desk.submit(name="eval", singleton=True)).waits_for == ()


def test_a_singleton_of_too_many_is_told_to_be_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_DEPENDENCIES", 1)
    desk = Desk()
    desk.submit(name="train")
    desk.submit(name="train")
    with pytest.raises(Conflict, match="2 of your jobs named train have not ended"):
        desk.submit(name="train", singleton=True)


def test_failing_dependents_fail_in_a_cascade() -> None:
    desk = Desk()
    first = desk.submit()
    chain = [first]
    for _ in range(2_000):
        chain.append(desk.submit(dependencies=on(chain[-1])))
    cleanup = desk.submit(dependencies=on(chain[-1], NOT_OK))
    desk.cancel(first)
    assert {desk.state(id) for id in chain[1:]} == {JobState.FAILED}
    assert desk.cause(chain[1]) == ("dependency", "afterok:1 can never come true: 1 is CANCELED")
    assert desk.job(cleanup).ready


def test_an_array_that_waits_fails_as_a_whole() -> None:
    desk = Desk()
    first = desk.submit()
    desk.submit(array="0-9", dependencies=on(first))
    desk.cancel("2_3")
    last = desk.submit(dependencies=on("2", NOT_OK))
    desk.cancel(first)
    assert desk.state("2") is JobState.FAILED
    assert desk.job("2").cause is not None
    assert desk.job("2").cause.code is CauseCode.DEPENDENCY  # type: ignore[union-attr]
    assert desk.job(last).ready
