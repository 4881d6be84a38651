"""A decision being made: the view with this decision's own changes laid over it, and those changes."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

from gpuq.changes import (
    AddEvent,
    Change,
    DropNode,
    GiveJob,
    PutAttempt,
    PutJob,
    PutNode,
    PutPromise,
    PutSettings,
    PutSpec,
    PutToken,
    PutUser,
)
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec, NodeName, Now, User
from gpuq.node import Node
from gpuq.settings import Settings
from gpuq.states import FINAL, JobState
from gpuq.view import ClusterView, Policy


@dataclass(frozen=True, slots=True)
class Decision:
    """What `decide` gives: changes in the order to apply them, and the JSON body of the answer."""

    changes: tuple[Change, ...]
    reply: dict[str, Any]


class Draft:
    """Collects the changes of one decision; the last record put for a key is the one that counts."""

    def __init__(self, view: ClusterView, now: Now, policy: Policy) -> None:
        self.view, self.now, self.policy = view, now, policy
        self._jobs: dict[JobId, Job] = {}
        # By array, so that a verb on 10,000 arrays, or one on 10,000 elements, costs their number and not its square.
        self._elements: dict[JobId, dict[JobId, Job]] = {}
        self._counts: dict[JobId, Counter[JobState]] = {}  # what this decision adds to view.element_counts
        self.unsettled: deque[Job] = deque()  # ended in this decision, with others to be told
        self._specs: list[PutSpec] = []
        self._attempts: dict[AttemptUid, Attempt] = {}
        self._attempt_of: dict[JobId, AttemptUid] = {}  # of those put here, the latest that was live then
        self._nodes: dict[NodeName, Node] = {}
        self._rest: list[Change] = []

    def job(self, id: JobId) -> Job | None:
        """The job as this decision leaves it, also when this decision ended it."""
        return self._jobs.get(id) or self.view.job(id)

    def attempt(self, uid: AttemptUid) -> Attempt | None:
        return self._attempts.get(uid) or self.view.attempt(uid)

    def attempt_of(self, id: JobId) -> Attempt | None:
        """The live attempt of a job, as this decision leaves it."""
        uid = self._attempt_of.get(id)
        held = self.view.attempt_of(id) if uid is None else self.attempt(uid)
        attempt = None if held is None else self.attempt(held.uid)
        return attempt if attempt is not None and attempt.live else None

    def attempts_on(self, name: NodeName) -> list[Attempt]:
        """Live attempts with a rank on the node, as this decision leaves them, oldest first."""
        uids = dict.fromkeys(attempt.uid for attempt in self.view.attempts_on(name))
        uids |= {uid: None for uid, a in self._attempts.items() if any(rank.node == name for rank in a.ranks)}
        return [attempt for uid in uids if (attempt := self.attempt(uid)) is not None and attempt.live]

    def node(self, name: NodeName) -> Node | None:
        return self._nodes.get(name) or self.view.nodes.get(name)

    def elements(self, id: JobId) -> list[Job]:
        """Elements of an array that were made and have not ended, this decision's included, by index."""
        jobs = {job.id: job for job in self.view.elements(id)}
        jobs.update(self._elements.get(id, {}))
        return sorted((job for job in jobs.values() if job.state not in FINAL), key=lambda job: job.index or 0)

    def element_counts(self, id: JobId) -> dict[JobState, int]:
        """How many made elements of an array are in each state, as this decision leaves them; zeros left out."""
        counts = Counter(self.view.element_counts(id))
        counts.update(self._counts.get(id, {}))
        return {state: n for state, n in counts.items() if n}

    def put_job(self, job: Job) -> Job:
        if job.index is not None:
            counts = self._counts.setdefault(job.array_id, Counter())
            old = self.job(job.id)
            if old is not None:
                counts[old.state] -= 1
            counts[job.state] += 1
            self._elements.setdefault(job.array_id, {})[job.id] = job
        self._jobs[job.id] = job
        return job

    def put_spec(self, id: JobId, spec: JobSpec) -> None:
        self._specs.append(PutSpec(id, spec))

    def put_attempt(self, attempt: Attempt) -> Attempt:
        self._attempts[attempt.uid] = attempt
        if attempt.live:
            self._attempt_of[attempt.job] = attempt.uid
        return attempt

    def put_node(self, node: Node) -> None:
        self._nodes[node.name] = node

    def give_job(self, job: Job, user: str) -> None:
        """Makes a job another's."""
        self.put_job(replace(job, user=user, request=replace(job.request, account=user)))
        self._rest.append(GiveJob(job.id, user))

    def drop_node(self, name: NodeName) -> None:
        self._rest.append(DropNode(name))

    def put_user(self, user: User) -> None:
        self._rest.append(PutUser(user))

    def put_settings(self, settings: Settings) -> None:
        self._rest.append(PutSettings(settings))

    def put_promise(self, job: JobId | None) -> None:
        self._rest.append(PutPromise(job))

    def put_token(self, token: PutToken) -> None:
        self._rest.append(token)

    def event(
        self,
        kind: str,
        text: str,
        *,
        job: Job | None = None,
        attempt: int | None = None,
        node: NodeName | None = None,
        user: str | None = None,
        address: str | None = None,
    ) -> None:
        id = None if job is None else job.id
        self._rest.append(AddEvent(self.now.wall, kind, text, id, attempt, node, user, address))

    def done(self, reply: dict[str, Any] | None = None) -> Decision:
        changes: list[Change] = [PutJob(job) for job in self._jobs.values()]
        changes += self._specs
        changes += [PutAttempt(attempt) for attempt in self._attempts.values()]
        changes += [PutNode(node) for node in self._nodes.values()]
        changes += self._rest
        return Decision(tuple(changes), reply or {})
