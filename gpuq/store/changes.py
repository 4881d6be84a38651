"""What a decision changed, as rows."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection

from gpuq.model import (
    AddEvent,
    Attempt,
    AttemptUid,
    Change,
    Job,
    JobId,
    JobSpec,
    Node,
    NodeName,
    PutAttempt,
    PutJob,
    PutNode,
    PutReply,
    PutSpec,
    PutToken,
)
from gpuq.store import attempts, events, jobs, nodes, replies, specs, tokens


def apply(conn: Connection, changes: Iterable[Change], last_seq: int) -> None:
    """Write changes and the number of the last of them, inside the caller's transaction.

    Of several records under one name only the last is written: what the others said never leaves the transaction.
    Raises sqlite3.IntegrityError if they would double book a GPU, or give a job two live attempts.
    """
    job: dict[JobId, Job] = {}
    spec: dict[JobId, JobSpec] = {}
    attempt: dict[AttemptUid, Attempt] = {}
    node: dict[NodeName, Node] = {}
    event: list[AddEvent] = []
    reply: dict[str, PutReply] = {}
    token: dict[str, PutToken] = {}
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
            case PutToken():
                token[change.id] = change
    jobs.put(conn, job.values())
    specs.put(conn, spec.items())
    attempts.put(conn, attempt.values())
    nodes.put(conn, node.values())
    events.add(conn, event)
    replies.put(conn, reply.values())
    tokens.put(conn, token.values())
    if job:
        newest = max(j.number for j in job.values())
        conn.execute("UPDATE meta SET value = MAX(value, ?) WHERE key = 'next_number'", (newest + 1,))
    conn.execute("UPDATE meta SET value = ? WHERE key = 'last_seq'", (last_seq,))
