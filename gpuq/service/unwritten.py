"""What is applied and not durable yet, for look-ups that would otherwise ask the store too early.

Memory is ahead of the store for as long as a commit takes, and under load always. The view has what lives; this has
what has just left it or was never in it. Whoever looks something up in the store lays this over what is found there,
and waits with his answer until it is durable (`LiveController.settled`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from gpuq.changes import Change, PutAttempt, PutJob, PutReply, PutSpec
from gpuq.model import Attempt, AttemptUid, Job, JobId, JobSpec
from gpuq.states import FINAL

# Of ended attempts, this many are known without asking the store: their agents go on naming them for some exchanges,
# and each asks about all of them again. 150 bytes each.
KEPT_ENDED = 1_000

_NONE: Mapping[AttemptUid, Attempt] = {}


class Unwritten:
    """jobs are those that have ended; a spec of an array is its elements' too; replies are by request id."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, Job] = {}
        self.specs: dict[JobId, JobSpec] = {}
        self.replies: dict[str, str] = {}
        self._attempts: dict[JobId, dict[AttemptUid, Attempt]] = {}
        self._ended: set[AttemptUid] = set()
        self._kept: deque[AttemptUid] = deque()  # those of them that are durable

    def attempts(self, job: JobId) -> Mapping[AttemptUid, Attempt]:
        """Those of a job that have ended, in the order in which they did."""
        return self._attempts.get(job, _NONE)

    def has_ended(self, uid: AttemptUid) -> bool:
        """True is sure; False means that the store may know better."""
        return uid in self._ended

    def note(self, changes: Iterable[Change]) -> None:
        """These were applied."""
        for change in changes:
            if isinstance(change, PutJob) and change.job.state in FINAL:
                self.jobs[change.job.id] = change.job
            elif isinstance(change, PutAttempt) and not change.attempt.live:
                self._attempts.setdefault(change.attempt.job, {})[change.attempt.uid] = change.attempt
                self._ended.add(change.attempt.uid)
            elif isinstance(change, PutSpec):
                self.specs[change.job] = change.spec
            elif isinstance(change, PutReply):
                self.replies[change.request_id] = change.body

    def landed(self, changes: Iterable[Change]) -> None:
        """These are durable. Of what was changed again since, the later word is kept."""
        for change in changes:
            if isinstance(change, PutJob):
                if self.jobs.get(change.job.id) is change.job:  # an earlier record of it says nothing of its end
                    del self.jobs[change.job.id]
            elif isinstance(change, PutAttempt) and not change.attempt.live:
                self._drop(change.attempt)
            elif isinstance(change, PutSpec):
                if self.specs.get(change.job) is change.spec:
                    del self.specs[change.job]
            elif isinstance(change, PutReply):
                self.replies.pop(change.request_id, None)

    def _drop(self, attempt: Attempt) -> None:
        of_job = self._attempts.get(attempt.job, {})
        if of_job.get(attempt.uid) is attempt:
            del of_job[attempt.uid]
            if not of_job:
                del self._attempts[attempt.job]
        self._kept.append(attempt.uid)
        if len(self._kept) > KEPT_ENDED:
            self._ended.discard(self._kept.popleft())
