from __future__ import annotations

from typing import Any

import pytest

from gpuq.units import format_time
from tui.actions import Request, Verb, cordon_or_uncordon, hold_or_release, on_jobs, on_nodes, outcome
from tui.job_row import JobRow
from tui.store import You

NOW = 1_800_000_000.0
ANN, ROOT, EVE = You("ann", "user"), You("root", "admin"), You("eve", "viewer")
HELD = {"code": "held", "text": "held by ann"}


def at(seconds_ago: float) -> str:
    return format_time(NOW - seconds_ago) or ""


def job(id: str = "1042", state: str = "RUNNING", **fields: Any) -> JobRow:
    started = at(7_200) if state in ("RUNNING", "STOPPING", "LOST") else None
    plain: dict[str, Any] = dict.fromkeys(JobRow._fields)
    plain |= {"id": id, "name": "train", "user": "ann", "queue": "main", "state": state, "priority": 0, "gpus": 8}
    plain |= {"submitted_at": at(9_000), "started_at": started, "nodes": [], "attempt": 1}
    return JobRow(**(plain | fields))


def node(name: str = "n1", jobs: int = 0, **fields: Any) -> dict[str, Any]:
    gpus = [{"jobs": [str(n)] if n < jobs else []} for n in range(8)]
    return {"name": name, "state": "up", "cordoned": False, "draining": False, "gpus": gpus} | fields


def test_cancel_says_what_is_lost_before_it_asks() -> None:
    proposal = on_jobs(Verb.CANCEL, [job("1"), job("2", "QUEUED", gpus=1)], ANN, NOW)
    assert (proposal.title, proposal.yes) == ("Cancel 2 jobs", "Yes, cancel 2 jobs")
    assert proposal.lines == (
        "16 GPU-hours of work will be lost.",
        "1 at work: SIGTERM, then SIGKILL after the grace (30 s unless set).",
        "1 waiting: out of the queue.",
        "",
        "1 train  running 02:00:00  8 GPUs",
        "2 train  queued  1 GPU",
    )
    assert proposal.asks
    assert proposal.harmful
    assert proposal.requests == (Request("POST", "/jobs/cancel", {"ids": ["1", "2"]}),)


def test_of_many_jobs_those_that_lose_most_are_named_and_the_rest_counted() -> None:
    rows = [job(str(n), started_at=at(n * 60)) for n in range(1, 101)]
    lines = on_jobs(Verb.CANCEL, rows, ANN, NOW).lines
    assert lines[0] == "673 GPU-hours of work will be lost."
    assert [line.split()[0] for line in lines[3:9]] == ["100", "99", "98", "97", "96", "95"]
    assert lines[9] == "and 94 more"


def test_an_array_counts_its_elements() -> None:
    counts = {"RUNNING": 3, "QUEUED": 96, "SUCCEEDED": 1}
    row = job("1043", elements={"size": 100, "counts": counts}, gpus=1)
    lines = on_jobs(Verb.CANCEL, [row], ANN, NOW).lines
    assert lines[0] == "up to 6 GPU-hours of work will be lost."
    assert lines[1].startswith("3 at work")
    assert lines[2:] == ("96 waiting: out of the queue.", "", "1043 train  3 running, 96 queued  1 GPU each")


def test_work_without_gpus_is_counted_in_time() -> None:
    assert on_jobs(Verb.CANCEL, [job(gpus=0)], ANN, NOW).lines[0] == "02:00:00 of work will be lost."


@pytest.mark.parametrize(
    ("verb", "row", "you", "why"),
    [
        (Verb.CANCEL, job(), EVE, "1042 belongs to ann"),
        (Verb.CANCEL, job(user="bob"), ANN, "1042 belongs to bob"),
        (Verb.CANCEL, job(state="FAILED"), ANN, "1042 has ended (FAILED); S submits one like it"),
        (Verb.KILL, job(), ANN, "1042 is RUNNING, and force is for LOST jobs; x cancels it"),
        (Verb.REQUEUE, job(state="QUEUED"), ANN, "1042 waits already"),
        (Verb.REQUEUE, job(state="SUCCEEDED"), ANN, "1042 has ended (SUCCEEDED); S submits one like it"),
        (Verb.HOLD, job(), ANN, "1042 is RUNNING, no longer waiting"),
        (Verb.HOLD, job(state="QUEUED", reason=HELD), ANN, "1042 is held already"),
        (Verb.RELEASE, job(state="QUEUED"), ANN, "1042 is not held"),
    ],
)
def test_what_does_not_qualify_is_left_out_and_says_why(verb: Verb, row: JobRow, you: You, why: str) -> None:
    proposal = on_jobs(verb, [row], you, NOW)
    assert (proposal.ids, proposal.requests, proposal.left_out) == ((), (), (why,))


def test_one_that_does_not_qualify_stops_no_other() -> None:
    proposal = on_jobs(Verb.CANCEL, [job("1"), job("2", "FAILED")], ANN, NOW)
    assert proposal.ids == ("1",)
    assert proposal.lines[-1] == "left out: 2 has ended (FAILED); S submits one like it"


def test_an_admin_may_act_on_anyones_jobs() -> None:
    assert on_jobs(Verb.CANCEL, [job(user="bob")], ROOT, NOW).ids == ("1042",)


def test_force_is_for_lost_jobs_and_must_be_typed() -> None:
    proposal = on_jobs(Verb.KILL, [job(state="LOST")], ANN, NOW)
    assert proposal.typed == "1042"
    assert proposal.harmful
    assert any("Nobody knows whether its processes are gone" in line for line in proposal.lines)
    assert proposal.requests == (Request("POST", "/jobs/cancel", {"ids": ["1042"], "force": True}),)
    assert on_jobs(Verb.KILL, [job("1", "LOST"), job("2", "LOST")], ANN, NOW).typed == "2 jobs"


def test_what_is_taken_back_as_easily_is_not_asked_unless_of_several() -> None:
    waiting = [job("1", "QUEUED"), job("2", "QUEUED")]
    assert not on_jobs(Verb.HOLD, waiting[:1], ANN, NOW).asks
    several = on_jobs(Verb.HOLD, waiting, ANN, NOW)
    assert several.asks
    assert not several.harmful


def test_hold_turns_into_release_when_all_that_wait_are_held() -> None:
    held, waiting = job("1", "QUEUED", reason=HELD), job("2", "QUEUED")
    assert hold_or_release([held, job("3")]) is Verb.RELEASE
    assert hold_or_release([held, waiting]) is Verb.HOLD


def test_priority_is_one_request_a_job_and_only_an_admin_raises_it() -> None:
    row = job(state="QUEUED")
    assert on_jobs(Verb.PRIORITY, [row], ANN, NOW, priority=5).left_out == (
        "1042 has priority 0; only an admin may raise it",
    )
    lower = on_jobs(Verb.PRIORITY, [row], ANN, NOW, priority=-5)
    assert lower.requests == (Request("PATCH", "/jobs/1042", {"priority": -5}),)
    assert on_jobs(Verb.PRIORITY, [row], ROOT, NOW, priority=5).ids == ("1042",)


def test_nodes_are_an_admins_and_a_drain_says_what_goes_on() -> None:
    assert on_nodes(Verb.DRAIN, [node()], ANN).left_out == ("n1 is an admin's to change",)
    drain = on_nodes(Verb.DRAIN, [node(jobs=2)], ROOT, "new driver")
    assert drain.lines == (
        "No new work starts there; 2 jobs with GPUs there go on to the end.",
        "",
        "n1  up  2 of 8 GPUs in use",
    )
    assert drain.requests == (Request("POST", "/nodes/n1/drain", {"text": "new driver"}),)
    assert drain.asks
    assert not drain.harmful


def test_u_uncordons_what_takes_no_work_and_cordons_the_rest() -> None:
    closed = node("n2", cordoned=True)
    assert cordon_or_uncordon([closed]) is Verb.UNCORDON
    assert cordon_or_uncordon([closed, node()]) is Verb.CORDON
    assert on_nodes(Verb.CORDON, [closed], ROOT).left_out == ("n2 is cordoned already",)
    assert on_nodes(Verb.UNCORDON, [closed], ROOT).requests == (Request("POST", "/nodes/n2/uncordon", {}),)


def test_a_hostile_name_is_shown_as_it_is_and_steers_nothing() -> None:
    line = on_jobs(Verb.CANCEL, [job(name="[/red]\x1b[2J" + "x" * 100)], ANN, NOW).lines[-1]
    assert line.startswith("1042 [/red]\\x1b[2J")
    assert len(line) < 80


def test_the_outcome_is_one_line_with_the_first_refusal() -> None:
    proposal = on_jobs(Verb.CANCEL, [job("1"), job("2"), job("3")], ANN, NOW)
    done = {"id": "1", "outcome": "done", "text": "job 1 is being canceled"}
    refused = {"id": "3", "outcome": "not_found", "text": "there is no job 3"}
    assert outcome(proposal, [{"items": [done]}]) == ("job 1 is being canceled", False)
    assert outcome(proposal, [{"items": [done, done | {"outcome": "already"}]}]) == ("canceled 2 jobs", False)
    assert outcome(proposal, [{"items": [done, refused]}]) == ("canceled 1 job; 1 refused: there is no job 3", True)
    assert outcome(on_nodes(Verb.DRAIN, [node()], ROOT), [{"name": "n1"}]) == ("draining node n1", False)
