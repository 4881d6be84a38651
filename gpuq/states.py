"""Every state a job passes through, every event that moves it, and the one table that joins them.

A job's state is that of its live attempt, or QUEUED without one. `after(state, event)` is the only function that
gives a new state: no other file writes one down as the result of something happening. An array's record has no
attempts; when its last element ends it takes the `fold` of theirs.

The terms are DESIGN's; other systems say PENDING for QUEUED, BUILDING for STARTING, KILLED for CANCELED.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class JobState(str, Enum):
    QUEUED = "QUEUED"  # waits, and always has a reason
    ALLOCATED = "ALLOCATED"  # GPUs are granted, the agent has not accepted the order yet
    STARTING = "STARTING"  # the agent accepted: set-up steps run
    RUNNING = "RUNNING"  # the main process exists
    STOPPING = "STOPPING"  # told to end; GPUs stay held until the whole process tree is gone
    LOST = "LOST"  # the node is silent: the job may be alive there
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class JobEvent(str, Enum):
    GRANT = "grant"  # scheduler
    ACCEPT = "accept"  # agent
    LAUNCH = "launch"  # agent: the process exists
    STOP = "stop"  # user, limit, drain, preemption
    SILENCE = "silence"  # tick: nothing heard from the node
    RETURN_ALLOCATED = "return_allocated"  # agent, after silence: the order never arrived
    RETURN_STARTING = "return_starting"
    RETURN_RUNNING = "return_running"
    RETURN_STOPPING = "return_stopping"
    SUCCEED = "succeed"  # agent: tree gone, all ranks exit 0
    FAIL = "fail"  # agent: tree gone and no retry left; tick: can never start; proof of death without requeue
    CANCEL = "cancel"  # user while queued; agent: tree gone after a cancel
    REQUEUE = "requeue"  # tree gone or proof of death, and the job is to run again


class InvalidTransition(Exception):
    """Code tried to move a job along an arrow that does not exist: always a defect, never a user's mistake."""

    def __init__(self, state: JobState, event: JobEvent) -> None:
        super().__init__(f"no arrow from {state.value} on {event.value}")
        self.state, self.event = state, event


_S, _E = JobState, JobEvent

TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = {
    (_S.QUEUED, _E.GRANT): _S.ALLOCATED,
    (_S.QUEUED, _E.CANCEL): _S.CANCELED,
    (_S.QUEUED, _E.FAIL): _S.FAILED,  # scheduling timeout, dependency that can never come true
    (_S.ALLOCATED, _E.ACCEPT): _S.STARTING,
    (_S.ALLOCATED, _E.STOP): _S.STOPPING,
    (_S.ALLOCATED, _E.REQUEUE): _S.QUEUED,  # the agent's word: never started, barred for good; or no order left yet
    (_S.ALLOCATED, _E.FAIL): _S.FAILED,  # the agent's word likewise, and the budget for such starts is spent
    (_S.ALLOCATED, _E.SILENCE): _S.LOST,
    (_S.STARTING, _E.LAUNCH): _S.RUNNING,
    (_S.STARTING, _E.FAIL): _S.FAILED,  # set-up or launch failed
    (_S.STARTING, _E.REQUEUE): _S.QUEUED,  # the same, and a retry is left
    (_S.STARTING, _E.STOP): _S.STOPPING,
    (_S.STARTING, _E.SILENCE): _S.LOST,
    (_S.RUNNING, _E.STOP): _S.STOPPING,
    (_S.RUNNING, _E.SUCCEED): _S.SUCCEEDED,
    (_S.RUNNING, _E.FAIL): _S.FAILED,
    (_S.RUNNING, _E.CANCEL): _S.CANCELED,
    (_S.RUNNING, _E.REQUEUE): _S.QUEUED,
    (_S.RUNNING, _E.SILENCE): _S.LOST,
    (_S.STOPPING, _E.SUCCEED): _S.SUCCEEDED,  # it ended by itself before the stop reached it
    (_S.STOPPING, _E.FAIL): _S.FAILED,
    (_S.STOPPING, _E.CANCEL): _S.CANCELED,
    (_S.STOPPING, _E.REQUEUE): _S.QUEUED,
    (_S.STOPPING, _E.SILENCE): _S.LOST,
    (_S.LOST, _E.RETURN_ALLOCATED): _S.ALLOCATED,
    (_S.LOST, _E.RETURN_STARTING): _S.STARTING,
    (_S.LOST, _E.RETURN_RUNNING): _S.RUNNING,
    (_S.LOST, _E.RETURN_STOPPING): _S.STOPPING,
    (_S.LOST, _E.SUCCEED): _S.SUCCEEDED,
    (_S.LOST, _E.FAIL): _S.FAILED,
    (_S.LOST, _E.CANCEL): _S.CANCELED,
    (_S.LOST, _E.REQUEUE): _S.QUEUED,
}

ACTIVE = frozenset({_S.ALLOCATED, _S.STARTING, _S.RUNNING, _S.STOPPING, _S.LOST})  # has a live attempt, holds GPUs
FINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELED})


def after(state: JobState, event: JobEvent) -> JobState:
    """The state that follows; raises InvalidTransition where the table has no arrow."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransition(state, event) from None


def fold(counts: Mapping[JobState, int]) -> JobState:
    """One state for a whole array from how many elements are in each (elements not made yet count as QUEUED).

    While anything is active the array shows the state nearest to running; while anything waits it is QUEUED; at the
    end the worst outcome wins, so `afterok` on an array means every element succeeded.
    """
    order = (_S.RUNNING, _S.STOPPING, _S.STARTING, _S.ALLOCATED, _S.LOST, _S.QUEUED, _S.FAILED, _S.CANCELED)
    return next((state for state in order if counts.get(state)), _S.SUCCEEDED)


class NodeState(str, Enum):
    """Liveness of a node, derived from monotonic clocks and never stored."""

    UP = "up"
    SUSPECT = "suspect"  # missed exchanges, or not heard since the controller started: no new work
    LOST = "lost"
