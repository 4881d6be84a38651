"""Which job is offered room first.

An order gives each job a key; the smaller comes first. Keys of one lane rise with `rank_in_queue`, so a plan that knows
the heads of the lanes knows the first of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from gpuq.model import Job, Lane, Now, Waiting
from gpuq.scheduler.possible import impossible
from gpuq.scheduler.promise import stays_first
from gpuq.view import ClusterView

Key = tuple[float, ...]
_Waiting = Collection[tuple[Lane, int]]  # jobs in each lane
Order = Callable[[Lane, Job | Waiting], Key]

# Expected to run for less than this part of what runs take on average, a job is short, and yields to nobody. The others
# yield to what is submitted later by so much of the time it takes to work off all that waits, and an hour. Chosen on
# published traces (docs/scheduling.md). Delays that grow with the expected run time, without end, halve the mean wait
# on some of them; but who is taken for long then waits for all, and the last 1 % by up to two thirds longer.
SHORT = 0.15
YIELDS = 0.2
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

    def key(lane: Lane, job: Job | Waiting) -> Key:
        length = math.inf if lane.time_limit_seconds is None else lane.time_limit_seconds * max(1, lane.request.gpus)
        return (*band(lane), length, *job.rank_in_queue[1:])

    return key


def by_expectation(view: ClusterView, now: Now) -> Order:
    """Within a band of priority first those whose users have had little, then by when they were submitted, with a
    delay for those that are not expected to be short. Before all of them whoever was promised room.

    The delay is a part of the time it takes to work off what waits now: what waits comes before most of what is
    submitted after it, however short.
    """
    waiting = _may_start(view)
    band, steps = _bands(view), _shares(view, now, waiting)
    predicts, expected, wall = view.settings.cluster.predict_run_times, view.run_times.expected, now.wall
    short = SHORT * view.run_times.typical(wall)
    delay = YIELDS * (LEAST_SECONDS + _seconds_of(view, now, waiting)) if predicts else 0.0
    firsts: dict[tuple[str, int, str], Key] = {}  # what many lanes share of their keys
    promised = stays_first(view)
    its_lane = None if promised is None else promised.lane

    def key(lane: Lane, job: Job | Waiting) -> Key:
        limit, kind = lane.time_limit_seconds, lane.kind
        if promised is not None and lane == its_lane and job.rank_in_queue <= promised.rank_in_queue:
            return *band(lane), -1.0, job.submitted_at, *job.rank_in_queue[1:]  # in turn with those of its lane
        of = lane.queue, lane.priority, kind.user
        first = firsts.get(of)
        if first is None:
            first = firsts[of] = *band(lane), steps.get(kind.user, 0.0)
        long = (limit is None or limit >= short) and expected(kind, lane.batch, wall) >= short
        return (*first, job.submitted_at + delay if long else job.submitted_at, *job.rank_in_queue[1:])

    return key


def backlog_seconds(view: ClusterView, now: Now) -> float:
    """How long all GPUs would be busy with what waits for GPUs, and could ever have them."""
    return _seconds_of(view, now, _may_start(view))


def _seconds_of(view: ClusterView, now: Now, waiting: _Waiting) -> float:
    gpus = sum(len(node.inventory.gpus) for node in view.nodes.values() if node.inventory is not None)
    expected, wall = view.run_times.expected, now.wall
    work = sum(
        jobs * lane.kind.gpus * expected(lane.kind, lane.batch, wall) for lane, jobs in waiting if lane.kind.gpus
    )
    return work / gpus if gpus else 0.0


def _may_start(view: ClusterView) -> _Waiting:
    """How many jobs wait in each lane, but for those that no nodes could ever run."""
    never = impossible(view, view.fronts())
    waiting = view.waiting().items()
    return [(lane, jobs) for lane, jobs in waiting if lane.request not in never] if never else waiting


def _bands(view: ClusterView) -> Callable[[Lane], tuple[float, float]]:
    priorities = {queue.name: queue.priority for queue in view.settings.known_queues}
    return lambda lane: (-priorities.get(lane.queue, 0), -lane.priority)


def _shares(view: ClusterView, now: Now, waiting: _Waiting) -> dict[str, float]:
    """By user: 0 for who has had up to FAIR times the mean of those who wait, 1 up to twice that, and so on.

    Steps, not the exact figure: within one, short work still goes before long.
    """
    users = {lane.kind.user for lane, _ in waiting}
    used = {user: view.usage.of(user, now.wall) for user in users}
    mean = sum(used[user] for user in sorted(used)) / len(used) if used else 0.0
    if mean <= 0.0:
        return {}
    return {
        user: float(max(0, math.ceil(math.log2(max(1e-9, gpu_seconds / mean) / FAIR))))
        for user, gpu_seconds in used.items()
    }
