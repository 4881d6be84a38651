"""Lists: complete, in order, page by page."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from gpuq.errors import InvalidRequest
from gpuq.model import Array, IndexRange, Job, JobId
from gpuq.states import FINAL, JobState
from gpuq.store import Store, attempts, jobs
from gpuq.store.jobs import Filter, Page
from tests.store.builders import Overtaken, a_job, an_attempt

S = JobState
LIVE = set(S) - FINAL


@pytest.fixture
def crowd(store: Store) -> list[Job]:
    """200 jobs of every user, queue, name and state, some of them arrays with elements; in submit order."""
    rng = random.Random(7)
    crowd = []
    for number in range(1, 201):
        array = Array((IndexRange(0, 9),), (IndexRange(3, 9),)) if number % 20 == 0 else None
        job = a_job(
            str(number),
            rng.choice([*S]),
            user=rng.choice(["ada", "bob"]),
            queue=rng.choice(["default", "night"]),
            name=rng.choice(["train", "evaluate", "train"]),
            array=array,
        )
        if job.state in FINAL:
            job = replace(job, finished_at=float(rng.randrange(20)))  # many end at the same instant
        crowd.append(job)
        if array:
            crowd += [a_job(f"{number}_{index}", rng.choice([*S]), user=job.user) for index in range(3)]
    conn = store.write_connection
    conn.execute("BEGIN")
    jobs.put(conn, crowd)
    conn.execute("COMMIT")
    return crowd


def whole(ask: Callable[[str | None], Page], limit: int) -> list[Job]:
    """All pages of a list; no page is longer than asked for, only the last may be shorter."""
    items: list[Job] = []
    cursor: str | None = None
    while True:
        page = ask(cursor)
        assert len(page.items) <= limit
        items += page.items
        if page.next is None:
            return items
        assert len(page.items) == limit
        cursor = page.next


def chosen(job: Job, where: Filter) -> bool:
    wanted = {name: getattr(where, name) for name in ("user", "queue", "name")}
    return all(value in (None, getattr(job, name)) for name, value in wanted.items()) and (
        where.states is None or job.state in where.states
    )


FILTERS = [
    Filter(),
    Filter(user="ada"),
    Filter(name="evaluate"),
    Filter(queue="night"),
    Filter(user="bob", queue="night", name="train"),
    Filter(states=LIVE),
    Filter(states=[S.QUEUED]),
    Filter(user="ada", states=[S.RUNNING, S.LOST]),
    Filter(states=FINAL),
    Filter(user="bob", states=[S.FAILED]),
    Filter(states=[S.QUEUED, S.FAILED]),
    Filter(states=[]),
    Filter(user="nobody"),
]


@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("where", FILTERS)
def test_a_list_has_every_job_that_fits_once_in_order(
    store: Store, crowd: list[Job], where: Filter, newest_first: bool, limit: int
) -> None:
    found = whole(
        lambda cursor: jobs.page(store.reader, where, newest_first=newest_first, cursor=cursor, limit=limit), limit
    )
    expected = [job for job in crowd if job.index is None and chosen(job, where)]
    assert found == (expected[::-1] if newest_first else expected)


@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize("since", [None, 5.0])
@pytest.mark.parametrize("until", [None, 15.0])
@pytest.mark.parametrize("where", FILTERS)
def test_history_has_every_job_that_ended_latest_end_first(
    store: Store, crowd: list[Job], where: Filter, since: float | None, until: float | None, limit: int
) -> None:
    found = whole(
        lambda cursor: jobs.history(store.reader, where, since=since, until=until, cursor=cursor, limit=limit), limit
    )
    expected = [
        (job.finished_at, job.number, job)
        for job in crowd
        if job.index is None
        and chosen(job, where)
        and job.finished_at is not None
        and (since is None or job.finished_at >= since)
        and (until is None or job.finished_at < until)
    ]
    assert found == [job for _, _, job in sorted(expected, key=lambda e: e[:2], reverse=True)]


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("states", [None, LIVE, FINAL, [S.QUEUED, S.FAILED]])
def test_elements_are_listed_under_their_array_by_index(
    store: Store, crowd: list[Job], states: list[S] | None, limit: int
) -> None:
    for array in (job for job in crowd if job.array):
        found = whole(
            lambda cursor, id=array.id: jobs.elements(store.reader, id, states, cursor=cursor, limit=limit),  # type: ignore[misc]
            limit,
        )
        members = [job for job in crowd if job.index is not None and job.number == array.number]
        assert found == [job for job in members if states is None or job.state in states]
        counts = {state: sum(job.state is state for job in members) for state in S}
        assert jobs.element_counts(store.reader, array.id) == {state: n for state, n in counts.items() if n}


def test_a_place_in_a_list_stays_good_when_what_it_named_has_gone_on(store: Store) -> None:
    conn = store.write_connection
    jobs.put(conn, [a_job(str(n)) for n in range(1, 6)])
    where = Filter(states=[S.QUEUED])
    first = jobs.page(store.reader, where, newest_first=False, cursor=None, limit=2)
    jobs.put(conn, [a_job("2", S.RUNNING), a_job("3", S.CANCELED), a_job("6")])
    rest = jobs.page(store.reader, where, newest_first=False, cursor=first.next, limit=10)
    assert [job.id for job in rest.items] == ["4", "5", "6"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda conn: jobs.page(conn, Filter(states=LIVE), newest_first=False, cursor=None, limit=1000),
        lambda conn: jobs.history(conn, Filter(), since=None, until=None, cursor=None, limit=1000),
        lambda conn: jobs.elements(conn, JobId("1"), [*S], cursor=None, limit=1000),
    ],
    ids=["page", "history", "elements"],
)
def test_what_comes_while_a_list_is_read_leaves_no_hole_in_it(
    store: Store, overtaken: Overtaken, ask: Callable[[Overtaken], Page]
) -> None:
    numbers, times = itertools.count(2), itertools.count(1)

    def one_of_each_state() -> None:
        conn, at = store.write_connection, float(next(times))
        conn.execute("BEGIN")
        for state in S:
            number = next(numbers)
            jobs.put(conn, [a_job(id, state, submitted_at=at) for id in (str(number), f"1_{number}")])
        conn.execute("COMMIT")

    one_of_each_state()
    overtaken.meanwhile = one_of_each_state
    found = Counter(job.submitted_at for job in ask(overtaken).items)
    assert len(found) > 1
    assert len(set(found.values())) == 1  # of what came together, all or nothing


@pytest.mark.parametrize("cursor", ["", "x", "1.5", "9" * 30, "1/", "/1", "1/x", "nan/1"])
def test_a_cursor_that_is_none_is_the_askers_mistake(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="not a place"):
        jobs.history(store.reader, Filter(), since=None, until=None, cursor=cursor, limit=1)
    with pytest.raises(InvalidRequest, match="not a place"):
        jobs.page(store.reader, Filter(), newest_first=True, cursor=cursor, limit=1)


def test_attempts_of_a_job_come_in_order_and_the_latest_can_be_had_alone(store: Store) -> None:
    over = [an_attempt(uid, "1_4", number=n, ended_at=9.0) for n, uid in ((1, "cc"), (2, "aa"), (3, "bb"))]
    other = an_attempt("dd", "1", ended_at=9.0)
    attempts.put(store.write_connection, [over[2], other, over[0], over[1]])
    assert attempts.of_job(store.reader, JobId("1_4")) == over
    latest = attempts.latest(store.reader, [JobId("1_4"), JobId("1"), JobId("2")])
    assert latest == {JobId("1_4"): over[2], JobId("1"): other}
