"""Events by place and by what they are about; answers and their pruning."""

from __future__ import annotations

import random

import pytest

from gpuq.changes import AddEvent, PutReply
from gpuq.model import JobId, NodeName
from gpuq.store import Store, events, replies
from gpuq.store.events import Filter
from tests.store.builders import Overtaken, RunningWriter, a_submit

KINDS = ["job.queued", "job.running", "job.failed", "node.lost", "node.up", "jobs"]


@pytest.fixture
def journal(store: Store) -> list[AddEvent]:
    rng = random.Random(3)
    journal = [
        AddEvent(
            float(n),
            rng.choice(KINDS),
            f"event {n}",
            rng.choice([None, JobId("1"), JobId("2"), JobId("2_0"), JobId("2_5"), JobId("22")]),
            node=rng.choice([None, NodeName("n1"), NodeName("n2")]),
            user=rng.choice([None, "ada", "bob"]),
        )
        for n in range(300)
    ]
    events.add(store.write_connection, journal)
    return journal


def fits(event: AddEvent, where: Filter) -> bool:
    job = event.job is not None and where.job in (event.job, event.job.partition("_")[0])
    return (
        (where.job is None or job)
        and where.node in (None, event.node)
        and where.user in (None, event.user)
        and event.kind.startswith(where.kind or "")
    )


FILTERS = [
    Filter(),
    Filter(job=JobId("1")),
    Filter(job=JobId("2")),
    Filter(job=JobId("2_5")),
    Filter(job=JobId("99")),
    Filter(node=NodeName("n1")),
    Filter(user="bob"),
    Filter(kind="job."),
    Filter(kind="job.failed"),
    Filter(kind="n"),
    Filter(kind="nothing"),
    Filter(job=JobId("2"), kind="job.", user="ada"),
    Filter(node=NodeName("n2"), kind="node."),
]


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_following_the_journal_misses_nothing_and_repeats_nothing(
    store: Store, journal: list[AddEvent], where: Filter, limit: int
) -> None:
    seen: list[events.Event] = []
    while new := events.after(store.reader, seen[-1].id if seen else 0, where, limit):
        assert len(new) <= limit
        seen += new
    assert [event for _, event in seen] == [event for event in journal if fits(event, where)]


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_leafing_back_gives_the_same_journal(store: Store, journal: list[AddEvent], where: Filter, limit: int) -> None:
    seen: list[events.Event] = []
    while old := events.before(store.reader, seen[0].id if seen else None, where, limit):
        assert len(old) <= limit
        seen = old + seen
    assert [event for _, event in seen] == [event for event in journal if fits(event, where)]


@pytest.mark.parametrize("kind", ["job.", "node.", None])
def test_nothing_is_lost_to_a_follower_that_comes_while_he_reads(
    store: Store, overtaken: Overtaken, kind: str | None
) -> None:
    overtaken.meanwhile = lambda: events.add(store.write_connection, [AddEvent(1.0, kind, "") for kind in KINDS])
    overtaken.meanwhile()
    seen: list[events.Event] = []
    for _ in range(5):
        seen += events.after(overtaken, seen[-1].id if seen else 0, Filter(kind=kind), 1000)
    assert seen == events.after(store.reader, 0, Filter(kind=kind), len(seen))


def test_the_end_of_the_journal_has_no_hole_that_comes_while_it_is_read(store: Store, overtaken: Overtaken) -> None:
    overtaken.meanwhile = lambda: events.add(store.write_connection, [AddEvent(1.0, kind, "") for kind in KINDS])
    overtaken.meanwhile()
    last = events.before(overtaken, None, Filter(kind="job."), 1000)
    assert last == events.after(store.reader, 0, Filter(kind="job."), len(last))


def test_an_id_is_never_given_twice(store: Store) -> None:
    assert events.last_id(store.reader) == 0
    events.add(store.write_connection, [AddEvent(1.0, "a", ""), AddEvent(2.0, "b", "")])
    assert events.last_id(store.reader) == 2
    store.write_connection.execute("DELETE FROM events")
    events.add(store.write_connection, [AddEvent(3.0, "c", "")])
    assert events.last_id(store.reader) == 3


def test_answers_are_pruned_by_age_a_few_at_a_time(store: Store) -> None:
    conn = store.write_connection
    replies.put(conn, [PutReply(f"r{n}", "ada", float(n), "{}") for n in range(10)])
    assert [replies.prune(conn, 5.0, 3) for _ in range(3)] == [3, 2, 0]
    assert [replies.reply(conn, f"r{n}") is not None for n in range(10)] == [False] * 5 + [True] * 5


def test_the_writer_prunes_to_the_end_and_goes_on_writing(store: Store, running: RunningWriter) -> None:
    for number in range(1, 1301):  # more than one bounded step
        running.writer.enqueue(number, a_submit(number))
    running.wait_durable(1300)
    running.writer.enqueue_prune(1200.0)
    for seq in range(1301, 1310):
        running.write(seq, *a_submit(seq))
    left = store.reader.execute("SELECT MIN(at) FROM replies").fetchone()[0]
    assert left == 1200.0
