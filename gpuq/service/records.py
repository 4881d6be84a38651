"""What is on record beyond the view: jobs and attempts that have ended, what jobs execute, answers given before.

The store is only ever asked for what is durable. What was applied and is not, `Unwritten` has: it comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Protocol

from gpuq import arrays
from gpuq.cluster import Cluster
from gpuq.model import AttemptUid, Job, JobId, JobSpec
from gpuq.service.commands import Cancel, Hold, Release, Requeue, Submit, Update, UserCommand
from gpuq.service.commit import Commit
from gpuq.states import FINAL


class Lookup(Protocol):
    """What the store knows beyond the cluster. Only ever asked for things that are durable."""

    def job(self, id: JobId) -> Job | None: ...

    def spec(self, id: JobId) -> JobSpec | None: ...

    def ended_attempts(self, uids: Iterable[AttemptUid]) -> set[AttemptUid]: ...

    def reply(self, request_id: str) -> str | None: ...


class Records:
    """Durable or not: whoever answers from it waits for the number it was read at, as with the view."""

    def __init__(self, commit: Commit, lookup: Lookup) -> None:
        self._commit, self._lookup = commit, lookup

    @property
    def _view(self) -> Cluster:
        return self._commit.cluster

    def reply(self, request_id: str) -> str | None:
        return self._commit.unwritten.replies.get(request_id) or self._lookup.reply(request_id)

    def spec(self, job: Job) -> JobSpec | None:
        """What the job executes; an element that has no spec of its own has its array's."""
        specs = self._commit.unwritten.specs
        known = specs.get(job.id) or specs.get(job.array_id)
        return known or self._lookup.spec(job.id) or self._lookup.spec(job.array_id)

    def ended_attempts(self, uids: Collection[AttemptUid]) -> set[AttemptUid]:
        """Those of uids that are on record as ended; the store is asked once, about what is not known without it."""
        ended = {uid for uid in uids if self._commit.unwritten.has_ended(uid)}
        if len(ended) < len(uids):
            ended |= self._lookup.ended_attempts(uid for uid in uids if uid not in ended)
        return ended

    def ended_job(self, id: JobId) -> Job | None:
        """A job that has ended, durable or not; None if there is none, or it lives."""
        job = self._commit.unwritten.jobs.get(id)
        if job is None and self._view.job(id) is None:
            job = self._lookup.job(id)
        return job if job is not None and job.state in FINAL else None

    def informed(self, command: UserCommand) -> UserCommand:
        """The command with what is on record of the ids it names and the view does not hold."""
        match command:
            case Submit():
                ids = [d.job for d in command.submission.dependencies]
                return replace(command, ended={id: job.state for id, job in self._ended(ids).items()})
            case Cancel() | Hold() | Release() | Requeue():
                return replace(command, known=self._ended(command.selection.ids))
            case Update():
                return replace(command, known=self._ended([command.id]))
            case _:
                return command

    def _ended(self, ids: Iterable[JobId]) -> dict[JobId, Job]:
        found = {}
        for id in ids:
            if self._view.job(id) is None:
                job = self.ended_job(id) or self._dropped(id)
                if job is not None:
                    found[id] = job
        return found

    def _dropped(self, id: JobId) -> Job | None:
        """An element that ended before it was made, as it would have been; None for any other."""
        element = arrays.element(id)
        row = None if element is None else self._view.job(element[0]) or self.ended_job(element[0])
        if element is None or row is None or row.array is None or not arrays.contains(row.array.ranges, element[1]):
            return None
        if arrays.contains(row.array.waiting, element[1]):
            return None
        return replace(row, id=id, index=element[1], array=None, state=arrays.dropped_state(row))
