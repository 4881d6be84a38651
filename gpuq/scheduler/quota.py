"""What one user may have: at once, by quota over all queues and by the limits of a queue, and in 30 days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gpuq.model import Job, Now
from gpuq.reasons import WaitCode, WaitReason
from gpuq.units import plural
from gpuq.view import ClusterView

_ANY = ""  # in place of a queue's name: all of them
_MANY = 1 << 30  # more starts than anybody asks for


class _Limit(NamedTuple):
    """What a job needs of a limit, how much of that is in use, and the limit."""

    what: str  # 'GPU' or 'job'
    needs: int
    used: int
    most: int
    queue: str  # _ANY for a quota

    @property
    def starts(self) -> int:
        return max(0, self.most - self.used) // self.needs

    def __str__(self) -> str:
        where = f" in queue {self.queue}" if self.queue else ""
        if self.needs > self.most:
            return f"needs {self.needs} {plural(self.needs, self.what)}, quota {self.most}{where}"
        needs = "" if self.used >= self.most else f"needs {self.needs} {plural(self.needs, self.what)}, "
        return f"{needs}quota {self.used} of {self.most} {plural(self.most, self.what)}{where}"


class _Hours(NamedTuple):
    """GPU-hours a user has had in 30 days, and the limit: who is below it may begin, however long it takes then."""

    used: float
    most: int

    @property
    def starts(self) -> int:
        return _MANY if self.used < self.most else 0

    def __str__(self) -> str:
        return f"quota {int(self.used)} of {self.most} {plural(self.most, 'GPU-hour')} in 30 days"


class Quotas:
    """What each user holds against what they may, kept up while a plan is made. starting: who holds room already.

    Jobs count from their grant to the end of their attempt; a share of a GPU counts as one.
    """

    def __init__(self, view: ClusterView, now: Now, starting: Iterable[Job] = ()) -> None:
        self._spent, self._now = view.spent, now
        self._hours: dict[str, float] = {}  # by user, as far as asked for
        self._settings = view.settings
        self._quotas = {quota.user: quota for quota in view.settings.quotas}
        self._jobs: Counter[tuple[str, str]] = Counter()  # by user and queue
        self._gpus: Counter[tuple[str, str]] = Counter()
        limited = any(q.max_jobs_per_user is not None or q.max_gpus_per_user is not None for q in self._settings.queues)
        self.any = limited or bool(self._quotas)  # else nothing needs to be asked
        if self.any:
            for attempt in view.attempts.values():
                job = view.job(attempt.job)
                if job is not None:
                    self.took(job)
        for job in starting:
            self.took(job)

    def took(self, job: Job) -> None:
        """One start of a job, or of an element."""
        if self.any:
            for queue in (_ANY, job.queue):
                self._jobs[job.user, queue] += 1
                self._gpus[job.user, queue] += job.request.gpus

    def starts(self, job: Job) -> int | None:
        """How many more jobs like this may start; None without a limit."""
        return min((limit.starts for limit in self._limits(job)), default=None)

    def reason(self, job: Job) -> WaitReason | None:
        """Which limit keeps this job from starting, if one does."""
        limit = next((limit for limit in self._limits(job) if not limit.starts), None)
        return None if limit is None else WaitReason(WaitCode.QUOTA, str(limit))

    def _limits(self, job: Job) -> Iterator[_Limit | _Hours]:
        if not self.any:
            return
        quota, queue = self._quotas.get(job.user), self._settings.queue(job.queue)
        if quota is not None:
            yield from self._two(job, _ANY, quota.gpus, quota.jobs)
            if quota.gpu_hours is not None and job.request.gpus:
                yield _Hours(self._used(job.user), quota.gpu_hours)
        if queue is not None:
            yield from self._two(job, queue.name, queue.max_gpus_per_user, queue.max_jobs_per_user)

    def _used(self, user: str) -> float:
        if user not in self._hours:
            self._hours[user] = self._spent.gpu_hours(user, self._now.wall)
        return self._hours[user]

    def _two(self, job: Job, queue: str, gpus: int | None, jobs: int | None) -> Iterator[_Limit]:
        held = job.user, queue
        if gpus is not None and job.request.gpus:
            yield _Limit("GPU", job.request.gpus, self._gpus[held], gpus, queue)
        if jobs is not None:
            yield _Limit("job", 1, self._jobs[held], jobs, queue)
