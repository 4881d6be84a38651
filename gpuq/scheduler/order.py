"""Which job is offered room first.

An order gives each job a key; the smaller comes first. Keys of one lane rise with `rank_in_queue`, so a plan that knows
the heads of the lanes knows the first of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gpuq.model import Job, Lane, Now
from gpuq.view import ClusterView

Key = tuple[float, ...]
Order = Callable[[Lane, Job], Key]

# A job yields to what is submitted later by so many seconds for each second that it is expected to run: at most by the
# time it would take to work off all that waits, and an hour. Chosen on the published traces, with none held out. With a
# bound in plain hours busy clusters went back to the order of submitting, or on others a few jobs waited for weeks.
# Weighing the GPUs as well shortened the mean wait by a tenth on two of four traces, and lengthened that of the last
# 1 % by half on a third.
PATIENCE = 10.0
LEAST_SECONDS = 3_600.0
# Who has had up to so many times the mean of those who wait is not put back for it.
FAIR = 1.25


def by_submit(view: ClusterView, now: Now) -> Order:
    """By priority of the queue and of the job, then as submitted."""
    band = _bands(view)
    return lambda lane, job: (*band(lane), *job.rank_in_queue[1:])


def by_known_length(view: ClusterView, now: Now) -> Order:
    """The least GPU-seconds first, as time limits tell them: shortest job first by an oracle, where they are exact."""
    band = _bands(view)

    def key(lane: Lane, job: Job) -> Key:
        length = math.inf if lane.time_limit_seconds is None else lane.time_limit_seconds * max(1, lane.request.gpus)
        return (*band(lane), length, *job.rank_in_queue[1:])

    return key


def by_expectation(view: ClusterView, now: Now) -> Order:
    """Within a band of priority first those whose users have had little, then by when they were submitted, with a
    delay for those expected to run for long.

    The delay is less than the time it takes to work off what waits now: so what waits comes before what is submitted
    after that, however short.
    """
    band, share = _bands(view), _shares(view, now)
    predicts = view.settings.cluster.predict_run_times
    most = LEAST_SECONDS + (backlog_seconds(view, now) if predicts else 0.0)

    def key(lane: Lane, job: Job) -> Key:
        expected = view.run_times.expected(lane.kind, lane.batch, now.wall) if predicts else 0.0
        if lane.time_limit_seconds is not None:
            expected = min(expected, lane.time_limit_seconds)
        delay = PATIENCE * expected
        delay *= most / (delay + most)
        return (*band(lane), share(lane.kind.user), job.submitted_at + delay, *job.rank_in_queue[1:])

    return key


def backlog_seconds(view: ClusterView, now: Now) -> float:
    """How long all GPUs would be busy with what waits for GPUs."""
    gpus = sum(len(node.inventory.gpus) for node in view.nodes.values() if node.inventory is not None)
    work = sum(
        jobs * lane.request.gpus * view.run_times.expected(lane.kind, lane.batch, now.wall)
        for lane, jobs in view.waiting().items()
        if lane.request.gpus
    )
    return work / gpus if gpus else 0.0


def _bands(view: ClusterView) -> Callable[[Lane], tuple[float, float]]:
    priorities = {queue.name: queue.priority for queue in view.settings.known_queues}
    return lambda lane: (-priorities.get(lane.queue, 0), -lane.priority)


def _shares(view: ClusterView, now: Now) -> Callable[[str], float]:
    """0 for users who have had up to FAIR times the mean of those who wait, 1 up to twice that, and so on.

    Steps, not the exact figure: within one, short work still goes before long.
    """
    users = {lane.kind.user for lane in view.waiting()}
    used = {user: view.usage.of(user, now.wall) for user in users}
    mean = sum(used.values()) / len(used) if used else 0.0
    if mean <= 0.0:
        return lambda user: 0.0
    steps = {
        user: float(max(0, math.ceil(math.log2(max(1e-9, gpu_seconds / mean) / FAIR))))
        for user, gpu_seconds in used.items()
    }
    return lambda user: steps.get(user, 0.0)
