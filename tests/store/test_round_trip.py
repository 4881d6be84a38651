"""Whatever is written is read back equal."""

from __future__ import annotations

import dataclasses
import sqlite3
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq import model
from gpuq.changes import AddEvent, PutAttempt, PutNode, PutPromise, PutReply, PutToken
from gpuq.model import Job, JobId, JobSpec, NodeName, User
from gpuq.node import Node
from gpuq.settings import Settings
from gpuq.states import FINAL
from gpuq.store import Store, attempts, events, jobs, nodes, promises, replies, settings, specs, tokens, users
from gpuq.store.changes import apply
from gpuq.store.columns import job_id, job_key
from tests.store.builders import RunningWriter, a_job, a_submit, an_attempt

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # codec refuses what UTF-8 cannot hold
NUMBER = st.integers(1, 2**31 - 1)
COUNT = st.integers(-(2**62), 2**62)
TIME = st.floats(-(2**62), 2**62)
GIVEN: dict[Any, st.SearchStrategy[Any]] = {int: COUNT, float: TIME, str: TEXT}


@contextmanager
def undone(conn: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A transaction that leaves nothing, so that examples do not meet."""
    conn.execute("BEGIN")
    try:
        yield conn
    finally:
        conn.execute("ROLLBACK")


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    store = Store.open(tmp_path_factory.mktemp("store") / "controller.db")
    yield store.write_connection
    store.close()


def records(cls: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any instance of a record: every field, nested ones included, of any value its type allows."""
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{name: _values(hint) for name, hint in hints.items() if name not in fields}, **fields)


def _values(hint: Any) -> st.SearchStrategy[Any]:
    hint = getattr(hint, "__supertype__", hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in GIVEN:
        return GIVEN[hint]
    if origin in (types.UnionType, typing.Union):
        return st.one_of([st.none() if arg is type(None) else _values(arg) for arg in args])
    if origin is tuple:
        return st.lists(_values(args[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(TEXT, TEXT, max_size=3)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return records(hint)
    return st.from_type(hint)


@st.composite
def any_job(draw: st.DrawFn) -> Job:
    number, index = draw(NUMBER), draw(st.none() | st.integers(0, 2**31 - 1))
    id = JobId(str(number) if index is None else f"{number}_{index}")
    dependencies = st.lists(records(model.Dependency, job=NUMBER.map(str)), max_size=2).map(tuple)
    job: Job = draw(
        records(
            Job,
            id=st.just(id),
            number=st.just(number),
            index=st.just(index),
            waits_for=dependencies,
            attempt=st.integers(0, 2**31),
        )
    )
    return replace(job, finished_at=draw(TIME)) if job.state in FINAL else job


@given(any_job())
def test_any_job_is_read_back_equal(conn: sqlite3.Connection, job: Job) -> None:
    with undone(conn):
        jobs.put(conn, [job])
        assert jobs.job(conn, job.id) == job
        assert jobs.live(conn) == ([] if job.state in FINAL else [job])


@given(any_job(), any_job())
def test_a_job_written_again_is_replaced_in_all_that_may_change(conn: sqlite3.Connection, old: Job, new: Job) -> None:
    new = replace(new, id=old.id, number=old.number, index=old.index, user=old.user, submitted_at=old.submitted_at)
    with undone(conn):
        jobs.put(conn, [old])
        jobs.put(conn, [new])
        assert jobs.job(conn, old.id) == new


@given(records(model.Attempt, job=NUMBER.map(str), number=NUMBER, ranks=st.just(())), st.data())
def test_any_attempt_is_read_back_equal(conn: sqlite3.Connection, attempt: model.Attempt, data: st.DataObject) -> None:
    holds = st.lists(st.integers(0, 15), unique=True, max_size=3).map(sorted).map(tuple)
    names = data.draw(st.lists(TEXT, unique=True, max_size=3))
    ranks = tuple(data.draw(records(model.Rank, node=st.just(name), gpus=holds)) for name in names)
    attempt = replace(attempt, ranks=ranks)
    with undone(conn):
        attempts.put(conn, [attempt])
        assert attempts.attempt(conn, attempt.uid) == attempt
        assert attempts.of_job(conn, attempt.job) == [attempt]
        assert attempts.latest(conn, [attempt.job]) == {attempt.job: attempt}
        assert attempts.live(conn) == ([attempt] if attempt.live else [])


@given(records(Node))
def test_any_node_is_read_back_equal(conn: sqlite3.Connection, node: Node) -> None:
    with undone(conn):
        nodes.put(conn, [replace(node, cordon_text="before")])
        nodes.put(conn, [node])
        assert nodes.every(conn) == [node]


@given(records(JobSpec))
def test_any_spec_is_read_back_equal(conn: sqlite3.Connection, spec: JobSpec) -> None:
    with undone(conn):
        specs.put(conn, [(JobId("7"), spec)])
        assert specs.spec(conn, JobId("7")) == spec
        assert specs.commands(conn, [JobId("7"), JobId("8")]) == {JobId("7"): (spec.command, spec.cwd)}


@given(records(AddEvent, job=st.none() | st.sampled_from(["7", "7_0", "2147483647_2147483647"])))
def test_any_event_is_read_back_equal(conn: sqlite3.Connection, event: AddEvent) -> None:
    with undone(conn):
        events.add(conn, [event])
        assert [found for _, found in events.after(conn, 0, events.Filter(), 10)] == [event]


@given(records(PutReply))
def test_any_reply_is_read_back_equal(conn: sqlite3.Connection, reply: PutReply) -> None:
    with undone(conn):
        replies.put(conn, [replace(reply, body="before"), reply])
        assert replies.reply(conn, reply.request_id) == reply


@given(records(PutToken))
def test_any_token_is_read_back_equal_by_hash_and_by_id(conn: sqlite3.Connection, token: PutToken) -> None:
    with undone(conn):
        tokens.put(conn, [replace(token, revoked_at=None), token])
        assert tokens.by_hash(conn, token.secret_sha256) == token
        assert tokens.by_id(conn, token.id) == token
        assert tokens.every(conn) == [token]
        assert tokens.live(conn) == ([token] if token.revoked_at is None else [])


@given(records(User))
def test_any_user_is_read_back_equal(conn: sqlite3.Connection, user: User) -> None:
    with undone(conn):
        users.put(conn, [replace(user, disabled_at=1.0, role="viewer"), user])
        assert users.every(conn) == [user]


@given(records(Settings), records(Settings))
def test_any_settings_are_read_back_equal(conn: sqlite3.Connection, before: Settings, after: Settings) -> None:
    with undone(conn):
        assert settings.current(conn) == Settings()
        settings.put(conn, before)
        settings.put(conn, after)
        assert settings.current(conn) == after


def test_a_promise_is_read_back_until_it_is_nobodys(conn: sqlite3.Connection) -> None:
    with undone(conn):
        assert promises.current(conn) is None
        for job in (JobId("7"), JobId("8_3"), None):
            apply(conn, [PutPromise(JobId("9")), PutPromise(job)], 1)
            assert promises.current(conn) == job


def test_a_job_that_was_given_away_is_the_others_and_stays_so(conn: sqlite3.Connection) -> None:
    with undone(conn):
        jobs.put(conn, [a_job("1"), a_job("2")])
        jobs.give(conn, [(JobId("1"), "bob")])
        jobs.put(conn, [a_job("1", name="later", user="bob")])
        assert [(job.user, job.name) for job in jobs.live(conn)] == [("bob", "later"), ("ada", "train")]


def test_a_node_that_was_dropped_is_gone(conn: sqlite3.Connection) -> None:
    with undone(conn):
        nodes.put(conn, [Node(NodeName("n1")), Node(NodeName("n2"))])
        nodes.drop(conn, [NodeName("n1")])
        assert nodes.every(conn) == [Node(NodeName("n2"))]


@given(NUMBER, st.none() | st.integers(0, 2**31 - 1))
def test_ids_are_keys_and_back(number: int, index: int | None) -> None:
    id = JobId(str(number) if index is None else f"{number}_{index}")
    key = job_key(id)
    assert key is not None
    assert job_id(key) == id


@pytest.mark.parametrize(
    "text", ["", "x", "01", "1_", "_1", "1_01", "-1", "1 ", "1_2_3", "2147483648", "1_2147483648", "٣"]
)
def test_what_is_no_id_names_no_job(conn: sqlite3.Connection, text: str) -> None:
    id = JobId(text)
    assert job_key(id) is None
    assert jobs.job(conn, id) is None
    assert specs.spec(conn, id) is None
    assert attempts.of_job(conn, id) == []
    assert jobs.elements(conn, id, None, cursor=None, limit=10) == ([], None)
    assert events.after(conn, 0, events.Filter(job=id), 10) == []


def test_text_that_utf8_cannot_hold_stops_nothing(conn: sqlite3.Connection) -> None:
    with undone(conn):
        jobs.put(conn, [a_job("1", name="bad \udcff name")])
        events.add(conn, [AddEvent(1.0, "job.queued", "bad \udcff text", JobId("1"))])
        (stored,) = jobs.live(conn)
        assert stored.name == "bad ? name"
        assert events.after(conn, 0, events.Filter(), 1)[0].event.text == "bad ? text"


def test_everything_is_there_after_the_file_was_closed_and_opened_again(
    path: Path, store: Store, running: RunningWriter
) -> None:
    attempt = an_attempt("aa", "2")
    node = Node(NodeName("n1"), boot_id="b")
    token = PutToken("t1", "hash", "user", "ada", None, 1.0, None)
    running.write(1, *a_submit(1))
    running.write(2, *a_submit(2), PutAttempt(attempt), PutNode(node), token)
    before = store.load()
    running.writer.close()
    store.close()
    again = Store.open(path)
    try:
        assert again.load() == before
        assert (again.cluster_id, again.epoch) == (store.cluster_id, 1)
        assert before.jobs == [a_job("1"), a_job("2")]
        assert (before.attempts, before.nodes) == ([attempt], [node])
        assert (before.next_number, before.last_seq) == (3, 2)
        assert tokens.every(again.reader) == [token]
        assert replies.reply(again.reader, "request-00000002") is not None
    finally:
        again.close()


def test_of_many_attempts_those_that_have_ended_are_found(conn: sqlite3.Connection) -> None:
    with undone(conn):
        attempts.put(conn, [an_attempt(f"e{n}", gpus=(), ended_at=9.0) for n in range(1_001)])
        attempts.put(conn, [an_attempt("live", gpus=())])
        ended = {model.AttemptUid(f"e{n}") for n in range(1_001)}
        assert attempts.ended(conn, [*ended, model.AttemptUid("live"), model.AttemptUid("unknown")]) == ended
        assert attempts.ended(conn, []) == set()
