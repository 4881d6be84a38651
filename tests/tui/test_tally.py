"""Counts of jobs, kept as rows come, change and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.stage import job
from tui.job_row import JobRow
from tui.tally import UNSAID, Tally

STATES = ("QUEUED", "ALLOCATED", "RUNNING", "LOST", "SUCCEEDED", "FAILED", "CANCELED")


def tally_of(rows: list[JobRow]) -> Tally:
    tally = Tally()
    for row in rows:
        tally.replace(None, row)
    return tally


def seen(tally: Tally) -> object:
    """All it says, without counts that have come down to nothing."""
    queues = {
        name: (q.active, q.queued, q.gpus_used, q.gpus_wanted, {code: n for code, n in q.reasons.items() if n})
        for name, q in tally.queues.items()
    }
    states = {user: {state: n for state, n in counts.items() if n} for user, counts in tally.states.items()}
    return (
        {name: q for name, q in queues.items() if q != (0, 0, 0, 0, {})},
        {user: counts for user, counts in states.items() if counts},
        tally.stuck,
        tally.restarting,
        tally.failed,
    )


counts = st.dictionaries(st.sampled_from(STATES), st.integers(1, 9), min_size=1)
rows = st.builds(
    lambda id, state, user, queue, gpus, attempt, code, elements: job(
        str(id),
        state,
        user=user,
        queue=queue,
        gpus=gpus,
        attempt=attempt,
        reason={"code": code, "text": code} if state == "QUEUED" else None,
        elements=None if elements is None else {"size": sum(elements.values()), "counts": elements},
    ),
    st.integers(1, 5),
    st.sampled_from(STATES),
    st.sampled_from(["ann", "bob"]),
    st.sampled_from(["prod", "dev"]),
    st.integers(0, 8),
    st.integers(0, 4),
    st.sampled_from(["resources", "held", "too_large"]),
    st.none() | counts,
)


@given(st.lists(rows | st.integers(1, 5), max_size=40))
def test_any_sequence_of_changes_counts_as_what_is_left_of_it(news: list[JobRow | int]) -> None:
    """news: a row in place of the one with its id, or the id of a row that goes."""
    tally = Tally()
    present: dict[str, JobRow] = {}
    for item in news:
        id = str(item) if isinstance(item, int) else item.id
        new = None if isinstance(item, int) else item
        tally.replace(present.pop(id, None), new)
        if new is not None:
            present[id] = new
    assert seen(tally) == seen(tally_of([*present.values()]))


def test_a_queue_counts_elements_and_their_gpus() -> None:
    array = job("7", queue="prod", gpus=2, elements={"size": 12, "counts": {"RUNNING": 3, "QUEUED": 7, "FAILED": 2}})
    waiting = job("8", "QUEUED", queue="prod", gpus=8)
    tally = tally_of([array, waiting, job("9", "SUCCEEDED", queue="prod")])
    prod = tally.queues["prod"]
    assert (prod.active, prod.queued, prod.gpus_used, prod.gpus_wanted) == (3, 8, 6, 22)
    assert prod.reasons == {UNSAID: 7, "resources": 1}
    assert tally.states["alice"] == {"RUNNING": 3, "QUEUED": 8, "FAILED": 2, "SUCCEEDED": 1}


def test_what_needs_somebody_is_kept_apart() -> None:
    stuck = job("1", "QUEUED", reason={"code": "too_large", "text": "needs 64 GPUs"})
    failing = [job(str(id), "FAILED", name="flaky") for id in (2, 3)]
    again = job("4", attempt=3)
    array = job("5", name="sweep", elements={"size": 4, "counts": {"RUNNING": 1, "FAILED": 3}})
    tally = tally_of([stuck, *failing, again, array, job("6")])
    assert tally.stuck == {"1"}
    assert tally.restarting == {"4"}
    assert tally.failed == {("alice", "flaky"): {"2", "3"}, ("alice", "sweep"): {"5"}}
