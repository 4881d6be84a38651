"""What a decision changed, as rows."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection

from gpuq.changes import (
    AddEvent,
    Change,
    DropNode,
    GiveJob,
    PutAttempt,
    PutJob,
    PutNode,
    PutPromise,
    PutReply,
    PutSettings,
    PutSpec,
    PutToken,
    PutUser,
)
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec, NodeName, User
from gpuq.node import Node
from gpuq.settings import Settings
from gpuq.store import attempts, events, jobs, nodes, promises, replies, settings, specs, tokens, users


def apply(conn: Connection, changes: Iterable[Change], last_seq: int) -> None:
    """Write changes and the number of the last of them, inside the caller's transaction.

    Of several records under one name only the last is written: what the others said never leaves the transaction.
    Raises sqlite3.IntegrityError if they would double book a GPU, or give a job two live attempts.
    """
    job: dict[JobId, Job] = {}
    spec: dict[JobId, JobSpec] = {}
    attempt: dict[AttemptUid, Attempt] = {}
    owner: dict[JobId, str] = {}
    node: dict[NodeName, Node | None] = {}  # None: dropped
    event: list[AddEvent] = []
    reply: dict[str, PutReply] = {}
    token: dict[str, PutToken] = {}
    user: dict[str, User] = {}
    setting: Settings | None = None
    promise: PutPromise | None = None
    for change in changes:
        match change:
            case AddEvent():
                event.append(change)
            case PutJob():
                job[change.job.id] = change.job
            case PutAttempt():
                attempt[change.attempt.uid] = change.attempt
            case PutReply():
                reply[change.request_id] = change
            case PutSpec():
                spec[change.job] = change.spec
            case PutNode():
                node[change.node.name] = change.node
            case DropNode():
                node[change.name] = None
            case PutToken():
                token[change.id] = change
            case PutUser():
                user[change.user.name] = change.user
            case PutSettings():
                setting = change.settings
            case PutPromise():
                promise = change
            case GiveJob():
                owner[change.job] = change.user
    jobs.put(conn, job.values())
    jobs.give(conn, owner.items())
    specs.put(conn, spec.items())
    attempts.put(conn, attempt.values())
    nodes.put(conn, (kept for kept in node.values() if kept is not None))
    nodes.drop(conn, (name for name, kept in node.items() if kept is None))
    events.add(conn, event)
    replies.put(conn, reply.values())
    tokens.put(conn, token.values())
    users.put(conn, user.values())
    if setting is not None:
        settings.put(conn, setting)
    if promise is not None:
        promises.put(conn, promise.job)
    if job:
        newest = max(j.number for j in job.values())
        conn.execute("UPDATE meta SET value = MAX(value, ?) WHERE key = 'next_number'", (newest + 1,))
    conn.execute("UPDATE meta SET value = ? WHERE key = 'last_seq'", (last_seq,))
