"""Everything the controller can be asked to do: the vocabulary of `decide`.

A command carries all a decision needs beyond the view: what was looked up in the store beforehand, and any
randomness. So the same command, view and clock always give the same decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuq.changes import PutToken
from gpuq.model import AttemptUid, Job, JobId, NodeName
from gpuq.protocol import Selection, StreamAim, Submission, SyncRequest
from gpuq.settings import Settings
from gpuq.states import JobState


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, as the API authenticated them. role: viewer, user, admin, node or join."""

    user: str
    role: str
    node: NodeName | None = None
    address: str | None = None  # where from, for the record

    @property
    def admin(self) -> bool:
        return self.role == "admin"


@dataclass(frozen=True, slots=True)
class Submit:
    """ended: final states of the dependencies that the view no longer holds, as the store has them."""

    actor: Actor
    submission: Submission
    ended: Mapping[JobId, JobState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cancel:
    """force ends a LOST job's attempt without proof that it is gone: the documented exception.

    known, here and in the other verbs: what the store has for the ids that the view no longer holds.
    """

    actor: Actor
    selection: Selection
    known: Mapping[JobId, Job] = field(default_factory=dict)
    force: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    actor: Actor
    selection: Selection
    known: Mapping[JobId, Job] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release:
    actor: Actor
    selection: Selection
    known: Mapping[JobId, Job] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Requeue:
    actor: Actor
    selection: Selection
    known: Mapping[JobId, Job] = field(default_factory=dict)
    force: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """New values for a queued job; None leaves a value alone. Of a running job only the comment may change."""

    actor: Actor
    id: JobId
    known: Mapping[JobId, Job] = field(default_factory=dict)
    priority: int | None = None
    time_limit_seconds: int | None = None
    name: str | None = None
    comment: str | None = None
    begin_at: float | None = None
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class OpenStream:
    """told: there was an event of this already, as of the first of many connections to a port.

    known: the job, if the view holds it no longer, or not yet.
    """

    actor: Actor
    id: JobId
    rank: int
    aim: StreamAim
    told: bool = False
    known: Mapping[JobId, Job] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnrolNode:
    """token is the identity to store, made by the API; a name that is taken is refused."""

    actor: Actor
    name: NodeName
    token: PutToken


@dataclass(frozen=True, slots=True)
class Cordon:
    actor: Actor
    name: NodeName
    text: str = ""


@dataclass(frozen=True, slots=True)
class Uncordon:
    """Work again for a node, or with gpu for one of its GPUs that is quarantined for a fault."""

    actor: Actor
    name: NodeName
    gpu: int | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """Cordon, and let what runs there come to its end; with requeue, stop what may run again elsewhere."""

    actor: Actor
    name: NodeName
    text: str = ""
    requeue: bool = False


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """force takes the admin's word as proof that what runs there is dead."""

    actor: Actor
    name: NodeName
    force: bool = False


@dataclass(frozen=True, slots=True)
class StoreToken:
    """Add a token, made by the API. One for a node takes the place of all that node had."""

    actor: Actor
    token: PutToken


@dataclass(frozen=True, slots=True)
class StoreOwnersToken:
    """Add an administrator's token for the account that runs the controller, whatever became of its user."""

    token: PutToken

    @property
    def actor(self) -> Actor:
        return Actor(self.token.user, "admin")


@dataclass(frozen=True, slots=True)
class RevokeToken:
    actor: Actor
    id: str


@dataclass(frozen=True, slots=True)
class AddUser:
    actor: Actor
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class SetRole:
    """The most that tokens of a user may do, from now on."""

    actor: Actor
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class DisableUser:
    """With jobs that have not ended, one of cancel_jobs and give_jobs_to says what becomes of them."""

    actor: Actor
    name: str
    cancel_jobs: bool = False
    give_jobs_to: str | None = None


@dataclass(frozen=True, slots=True)
class EnableUser:
    actor: Actor
    name: str


@dataclass(frozen=True, slots=True)
class ChangeSettings:
    """These settings in the place of those there are. based_on: refused if theirs is another version by now."""

    actor: Actor
    settings: Settings  # their own version says nothing
    based_on: int | None = None


@dataclass(frozen=True, slots=True)
class Remark:
    """Something the controller found or did by itself that belongs into its journal."""

    kind: str
    text: str

    @property
    def actor(self) -> Actor:
        return Actor("gpuq", "admin")


@dataclass(frozen=True, slots=True)
class Report:
    """A sync's report. ended are reported attempts the view does not hold but the store knows to have ended.

    warned are those of whose overuse the report before has told already.
    """

    request: SyncRequest
    ended: frozenset[AttemptUid] = frozenset()
    warned: frozenset[AttemptUid] = frozenset()


@dataclass(frozen=True, slots=True)
class Silence:
    """A node has been silent for the policy's lost_after."""

    name: NodeName


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: begin times, back-offs, scheduling timeouts."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Plan now. seed makes the uids of the attempts it grants: 20 random hex characters, new each time.

    preempts: whether jobs may be stopped for others as well.
    """

    seed: str
    preempts: bool = True


UserCommand = (
    Submit
    | Cancel
    | Hold
    | Release
    | Requeue
    | Update
    | OpenStream
    | EnrolNode
    | Cordon
    | Uncordon
    | Drain
    | RemoveNode
    | StoreToken
    | StoreOwnersToken
    | RevokeToken
    | AddUser
    | SetRole
    | DisableUser
    | EnableUser
    | ChangeSettings
    | Remark
)
Command = UserCommand | Report | Silence | Tick | Schedule
