"""What a decision does: applied to the cluster in memory and written to the store, both in the order given."""

from __future__ import annotations

from dataclasses import dataclass

from gpuq.model import Attempt, Job, JobId, JobSpec, NodeName, User
from gpuq.node import Node
from gpuq.settings import Settings


@dataclass(frozen=True, slots=True)
class PutJob:
    job: Job


@dataclass(frozen=True, slots=True)
class PutSpec:
    job: JobId
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class PutAttempt:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class PutNode:
    node: Node


@dataclass(frozen=True, slots=True)
class AddEvent:
    """A line of the cluster's journal. kind is 'job.running', 'node.lost', ...; text is for people."""

    at: float
    kind: str
    text: str
    job: JobId | None = None
    attempt: int | None = None
    node: NodeName | None = None
    user: str | None = None  # of a job, its owner; of anything else, who did it
    address: str | None = None  # where that was asked from, if anywhere


@dataclass(frozen=True, slots=True)
class PutReply:
    """The answer to a mutating request, kept 24 h so that a repeated request id gets the same answer."""

    request_id: str
    user: str
    at: float
    body: str  # JSON


@dataclass(frozen=True, slots=True)
class PutToken:
    """A token, stored as the SHA-256 of its secret. revoked_at is set instead of deleting: the audit keeps it."""

    id: str
    secret_sha256: str
    role: str
    user: str  # whose it is; of a node's or a join token, who had it made
    node: NodeName | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class PutUser:
    user: User


@dataclass(frozen=True, slots=True)
class PutSettings:
    settings: Settings


@dataclass(frozen=True, slots=True)
class PutPromise:
    """The job that stays first of its priority until it starts, see scheduler/promise.py; None: no job does."""

    job: JobId | None


@dataclass(frozen=True, slots=True)
class DropNode:
    """A node is no longer part of the cluster. No rank is left there that has not ended."""

    name: NodeName


@dataclass(frozen=True, slots=True)
class GiveJob:
    """A job has another owner. Beside the PutJob that says so: what is stored of a job does not name its owner anew."""

    job: JobId
    user: str


JobChange = PutJob | PutSpec | PutAttempt | GiveJob
Change = JobChange | PutNode | DropNode | PutUser | PutToken | PutSettings | PutPromise | PutReply | AddEvent
