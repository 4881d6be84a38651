"""No query reads a whole table that grows: SQLite itself is asked how it would run each."""

from __future__ import annotations

import inspect
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpuq.changes import AddEvent
from gpuq.model import AttemptUid, JobId, NodeName
from gpuq.states import FINAL, JobState
from gpuq.store import Store, attempts, events, jobs, nodes, replies, specs, tokens, users
from tests.store.builders import an_attempt

MODULES = (attempts, events, jobs, nodes, replies, specs, tokens, users)
# As small as what is live: reading all of it is what start-up is for. Tokens, users and nodes do not grow with work.
SMALL = re.compile(r"SCAN (TABLE )?(nodes|tokens|users|\w+ USING INDEX (jobs|attempts)_live\b)")
ID, ELEMENT, LIVE = JobId("1"), JobId("1_2"), set(JobState) - FINAL

Conn = sqlite3.Connection
Call = Callable[[Conn], Any]


def pages(**where: Any) -> list[Call]:
    chosen = jobs.Filter(**where)
    return [
        lambda conn, cursor=cursor, newest=newest: jobs.page(conn, chosen, newest_first=newest, cursor=cursor, limit=9)  # type: ignore[misc]
        for cursor in (None, "77")
        for newest in (False, True)
    ]


def histories(**where: Any) -> list[Call]:
    chosen = jobs.Filter(**where)
    return [
        lambda conn, cursor=cursor, since=since, until=until: jobs.history(  # type: ignore[misc]
            conn, chosen, since=since, until=until, cursor=cursor, limit=9
        )
        for cursor in (None, "5.5/77")
        for since in (None, 1.0)
        for until in (None, 2.0)
    ]


def journal(**where: Any) -> dict[str, list[Call]]:
    chosen = events.Filter(**where)
    return {
        "after": [lambda conn: events.after(conn, 5, chosen, 9)],
        "before": [lambda conn: events.before(conn, None, chosen, 9), lambda conn: events.before(conn, 5, chosen, 9)],
    }


FILTERS: list[dict[str, Any]] = [
    {},
    {"user": "ada"},
    {"name": "train"},
    {"queue": "night"},
    {"user": "ada", "name": "train", "queue": "night"},
]
STATES: list[Any] = [None, [JobState.QUEUED], LIVE, FINAL, list(JobState)]
JOURNALS = [
    journal(**where)
    for where in (
        {},
        {"job": ID},
        {"job": ELEMENT},
        {"node": NodeName("n1")},
        {"user": "ada"},
        {"kind": "job."},
        {"job": ELEMENT, "node": NodeName("n1"), "user": "ada", "kind": "job."},
    )
]

# In the order they are promised in, without sorting what was found: a page costs what it shows.
ORDERED: dict[Callable[..., Any], list[Call]] = {
    jobs.page: [call for where in FILTERS for states in STATES for call in pages(**where, states=states)],
    jobs.history: [call for where in FILTERS for states in STATES for call in histories(**where, states=states)],
    jobs.elements: [
        lambda conn, states=states, cursor=cursor: jobs.elements(conn, ID, states, cursor=cursor, limit=9)  # type: ignore[misc]
        for states in STATES
        for cursor in (None, "77")
    ],
    events.after: [call for calls in JOURNALS for call in calls["after"]],
    events.before: [call for calls in JOURNALS for call in calls["before"]],
}
OTHER: dict[Callable[..., Any], list[Call]] = {
    jobs.job: [lambda conn: jobs.job(conn, ID)],
    jobs.live: [jobs.live],
    jobs.element_counts: [lambda conn: jobs.element_counts(conn, ID)],
    specs.spec: [lambda conn: specs.spec(conn, ELEMENT)],
    specs.commands: [lambda conn: specs.commands(conn, [ID])],
    attempts.attempt: [lambda conn: attempts.attempt(conn, an_attempt("aa").uid)],
    attempts.of_job: [lambda conn: attempts.of_job(conn, ID)],
    attempts.latest: [lambda conn: attempts.latest(conn, [ID])],
    attempts.ended: [lambda conn: attempts.ended(conn, [AttemptUid(f"a{n}") for n in range(501)])],
    attempts.live: [attempts.live],
    attempts.past: [attempts.past],
    attempts.spent: [attempts.spent],
    attempts.put: [
        lambda conn: attempts.put(conn, [an_attempt("aa")]),
        lambda conn: attempts.put(conn, [an_attempt("aa")]),
    ],
    jobs.give: [lambda conn: jobs.give(conn, [(ID, "bob")])],
    nodes.every: [nodes.every],
    nodes.drop: [lambda conn: nodes.drop(conn, [NodeName("n1")])],
    events.last_id: [events.last_id],
    replies.reply: [lambda conn: replies.reply(conn, "r")],
    replies.prune: [lambda conn: replies.prune(conn, 5.0, 9)],
    tokens.by_hash: [lambda conn: tokens.by_hash(conn, "h")],
    tokens.by_id: [lambda conn: tokens.by_id(conn, "t")],
    tokens.every: [tokens.every],
    tokens.live: [tokens.live],
    users.every: [users.every],
}
UPSERTS = {jobs.put, specs.put, nodes.put, events.add, replies.put, tokens.put, users.put}  # by primary key only


class Explaining(sqlite3.Connection):
    """A connection that notes the plan of all it is asked."""

    plans: list[tuple[str, str]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if re.match("SELECT|UPDATE|DELETE", sql):
            for row in super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters):
                self.plans.append((row[3], sql))
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        return [self.execute(sql, values) for values in parameters][-1]


@pytest.fixture
def conn(path: Path, store: Store) -> Iterator[Explaining]:
    conn = sqlite3.connect(path, isolation_level=None, factory=Explaining)
    conn.plans = []
    yield conn
    conn.close()


@pytest.mark.parametrize("function", [*ORDERED, *OTHER], ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_no_query_reads_a_whole_table(conn: Explaining, function: Callable[..., Any]) -> None:
    events.add(conn, [AddEvent(1.0, "job.queued", "")])  # so that a kind is found and asked for
    for call in (ORDERED | OTHER)[function]:
        call(conn)
    assert conn.plans
    for plan, sql in conn.plans:
        assert "SCAN" not in plan or SMALL.match(plan), f"{plan}: {sql}"
        if function in ORDERED:
            assert "TEMP B-TREE" not in plan, f"{plan}: {sql}"


def test_every_query_is_explained_here() -> None:
    public = {function for module in MODULES for function in _functions(module)}
    assert public == {*ORDERED, *OTHER, *UPSERTS}


def _functions(module: ModuleType) -> list[Callable[..., Any]]:
    members = inspect.getmembers(module, inspect.isfunction)
    return [f for name, f in members if f.__module__ == module.__name__ and not name.startswith("_")]
