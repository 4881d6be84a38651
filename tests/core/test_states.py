"""The table of DESIGN section 3, written here from its text."""

from __future__ import annotations

import itertools

import pytest

from gpuq.states import ACTIVE, FINAL, TRANSITIONS, InvalidTransition, JobEvent, JobState, after, fold

S = JobState
ENDS = {S.SUCCEEDED, S.FAILED, S.CANCELED}

ARROWS = {
    S.QUEUED: {S.ALLOCATED, S.CANCELED, S.FAILED},
    # FAILED: "both budgets end", so the agent's word that it never started ends the job one day.
    S.ALLOCATED: {S.STARTING, S.QUEUED, S.STOPPING, S.LOST, S.FAILED},
    S.STARTING: {S.RUNNING, S.FAILED, S.QUEUED, S.STOPPING, S.LOST},
    S.RUNNING: {S.STOPPING, S.LOST, S.QUEUED} | ENDS,
    S.STOPPING: {S.LOST, S.QUEUED} | ENDS,
    S.LOST: {S.ALLOCATED, S.STARTING, S.RUNNING, S.STOPPING, S.QUEUED} | ENDS,
    S.SUCCEEDED: set(),
    S.FAILED: set(),
    S.CANCELED: set(),
}

# What each event leads to, wherever it is possible.
LEADS_TO = {
    JobEvent.GRANT: S.ALLOCATED,
    JobEvent.ACCEPT: S.STARTING,
    JobEvent.LAUNCH: S.RUNNING,
    JobEvent.STOP: S.STOPPING,
    JobEvent.SILENCE: S.LOST,
    JobEvent.RETURN_ALLOCATED: S.ALLOCATED,
    JobEvent.RETURN_STARTING: S.STARTING,
    JobEvent.RETURN_RUNNING: S.RUNNING,
    JobEvent.RETURN_STOPPING: S.STOPPING,
    JobEvent.SUCCEED: S.SUCCEEDED,
    JobEvent.FAIL: S.FAILED,
    JobEvent.CANCEL: S.CANCELED,
    JobEvent.REQUEUE: S.QUEUED,
}
RETURNS = {event for event in JobEvent if event.value.startswith("return_")}


@pytest.mark.parametrize("state", JobState)
def test_the_arrows_are_those_of_the_design_and_no_other(state: JobState) -> None:
    assert {to for (start, _), to in TRANSITIONS.items() if start is state} == ARROWS[state]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_an_event_leads_to_its_state_or_is_refused(state: JobState, event: JobEvent) -> None:
    to = LEADS_TO[event]
    possible = to in ARROWS[state] and (event not in RETURNS or state is S.LOST)
    if state is S.LOST and event in (JobEvent.GRANT, JobEvent.ACCEPT, JobEvent.LAUNCH, JobEvent.STOP):
        possible = False  # only its node's word brings a LOST job back
    if possible:
        assert after(state, event) is to
    else:
        with pytest.raises(InvalidTransition) as caught:
            after(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)
        assert state.value in str(caught.value)


def test_final_active_and_queued_are_all_states() -> None:
    assert set(JobState) == ACTIVE | FINAL | {S.QUEUED}
    assert not ACTIVE & FINAL
    assert FINAL == ENDS


@pytest.mark.parametrize(
    ("counts", "folded"),
    [
        ({}, S.SUCCEEDED),
        ({S.SUCCEEDED: 3}, S.SUCCEEDED),
        ({S.SUCCEEDED: 3, S.CANCELED: 1}, S.CANCELED),
        ({S.SUCCEEDED: 3, S.CANCELED: 1, S.FAILED: 1}, S.FAILED),
        ({S.FAILED: 9, S.QUEUED: 1}, S.QUEUED),
        ({S.QUEUED: 9, S.LOST: 1}, S.LOST),
        ({S.LOST: 9, S.ALLOCATED: 1}, S.ALLOCATED),
        ({S.ALLOCATED: 9, S.STARTING: 1}, S.STARTING),
        ({S.STARTING: 9, S.STOPPING: 1}, S.STOPPING),
        ({S.STOPPING: 9, S.RUNNING: 1}, S.RUNNING),
        ({S.RUNNING: 0, S.QUEUED: 1}, S.QUEUED),
    ],
)
def test_an_array_shows_what_is_nearest_to_running_and_then_its_worst_end(
    counts: dict[JobState, int], folded: JobState
) -> None:
    assert fold(counts) is folded


def test_an_array_is_final_only_when_every_element_is() -> None:
    for states in itertools.combinations(JobState, 3):
        folded = fold(dict.fromkeys(states, 1))
        assert (folded in FINAL) == all(state in FINAL for state in states)
        assert folded in states
